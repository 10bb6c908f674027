"""Dead letters: the record as it came, with headers that say why it could not be handled."""

from dataclasses import dataclass

import structlog

from schemas.dead_letters import dead_letter_headers
from schemas.errors import Reject
from schemas.records import Source
from streams.records import Outgoing, Record

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Makes the dead letters of one consumer group."""

    topic: str
    group: str

    def make(self, record: Record, reason: Reject, attempts: int) -> Outgoing:
        """Returns the dead letter of a record: key, value and headers byte for byte, our headers behind them."""
        read_at = Source(record.topic, record.partition, record.offset, record.timestamp)
        log.warning(
            "dead-letter",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            stage=reason.stage,
            reason=reason.reason,
            error=str(reason),
        )
        headers = dead_letter_headers(
            reason,
            read_at=read_at,
            timestamp_type=record.timestamp_type,
            group=self.group,
            attempts=attempts,
        )
        return Outgoing(self.topic, record.key, record.value, [*record.headers, *headers])
