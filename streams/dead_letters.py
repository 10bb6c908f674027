"""Dead letters: the record as it came, with headers that say why it could not be handled."""

from dataclasses import dataclass

import structlog

from schemas.dead_letters import dead_letter_headers
from schemas.errors import Reject
from schemas.headers import Header, Headers
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
        log.warning("dead-letter", **described(record, reason))
        headers = dead_letter_headers(
            reason,
            read_at=read_at,
            timestamp_type=record.timestamp_type,
            group=self.group,
            attempts=attempts,
        )
        return Outgoing(self.topic, record.key, record.value, [*record.headers, *headers])


def described(record: Record, reason: Reject) -> dict[str, str | int]:
    """Returns what a log line says of a refused record: where it was read, and why it is refused."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "stage": reason.stage,
        "reason": reason.reason,
        "error": str(reason),
    }


#: The first of our headers on a dead letter; everything behind it is ours, too.
_FIRST = "__connect.errors.topic"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter taken apart: why it is one, where the record was read, and the record's own headers."""

    reason: str
    stage: str
    message: str
    read_at: Source
    headers: tuple[Header, ...]


def opened(headers: Headers) -> Letter | None:
    """Takes a dead letter apart; None where its headers are not what `DeadLetters` writes."""
    names = [name for name, _ in headers]
    if _FIRST not in names:
        return None
    # The record may have been a dead letter of somebody else's before: only the last family is ours.
    first = len(names) - 1 - names[::-1].index(_FIRST)
    ours = {name: value or b"" for name, value in headers[first:]}
    try:
        read_at = Source(
            ours[_FIRST].decode(),
            int(ours["__connect.errors.partition"]),
            int(ours["__connect.errors.offset"]),
            int.from_bytes(ours["kafka_dlt-original-timestamp"], "big", signed=True),
        )
        return Letter(
            reason=ours["reason"].decode(),
            stage=ours["__connect.errors.stage"].decode(),
            message=ours["__connect.errors.exception.message"].decode(),
            read_at=read_at,
            headers=tuple(headers[:first]),
        )
    except (KeyError, ValueError):
        return None
