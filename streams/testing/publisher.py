"""A publisher without a broker: keeps what was published, and can be as slow or as picky as one."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from schemas.errors import Reject, ResultTooLarge
from streams.publisher import no_place, partition_of
from streams.records import Headers, Outgoing, TopicPartition

#: What a broker accepts by default, in bytes.
MAX_BYTES = 1_048_588

Refuse = Callable[[Outgoing], Reject | None]


@dataclass(frozen=True, slots=True)
class PublishedRecord:
    """A record in the log; it is a `streams.records.Record`, so what one pipeline made can be fed to the next."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_type: int = 0


class InMemoryPublisher:
    """Publisher into a list.

    `records` holds what was published, in order; every topic has `partitions` partitions. `delay` (seconds) is how
    long a receipt takes. `refuse` says why a record is refused, or None; records of more than `max_bytes`, and
    replies to a partition that is not there, always are. All four may be changed at any time.
    """

    def __init__(
        self,
        *,
        partitions: int = 4,
        max_bytes: int = MAX_BYTES,
        delay: float = 0.0,
        refuse: Refuse = lambda _: None,
    ) -> None:
        self.records: list[PublishedRecord] = []
        self.partitions = partitions
        self.max_bytes = max_bytes
        self.delay = delay
        self.refuse = refuse
        self._turn = count()
        self._ends: Counter[TopicPartition] = Counter()
        self._receipts = asyncio.Event()
        self._receipts.set()

    def on(self, topic: str) -> list[PublishedRecord]:
        """Returns what was published on a topic, in order."""
        return [record for record in self.records if record.topic == topic]

    def hold(self) -> None:
        """Holds receipts back: records are kept, but `publish` does not return until `release`."""
        self._receipts.clear()

    def release(self) -> None:
        """Gives every receipt that was held back, and those to come at once."""
        self._receipts.set()

    #: A refused record does not hold up the others of its call.
    atomic = False

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Does nothing: every input partition may publish here."""

    async def deliver(self, records: Sequence[Outgoing], source: TopicPartition, position: int) -> Mapping[int, Reject]:
        """As `publish`."""
        return await self.publish(records)

    async def publish(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]:
        """Returns once each record has its receipt or was refused (index -> why)."""
        if not records:
            return {}
        refused = {}
        for index, record in enumerate(records):
            reason = self.refuse(record) or self._nowhere(record) or self._too_large(record)
            if reason:
                refused[index] = reason
            else:
                self._keep(record)
        await asyncio.sleep(self.delay)
        await self._receipts.wait()
        return refused

    def _keep(self, record: Outgoing) -> None:
        tp = TopicPartition(record.topic, partition_of(record, self.partitions, self._turn))
        self.records.append(
            PublishedRecord(
                *tp, self._ends[tp], time.time_ns() // 1_000_000, record.key, record.value, tuple(record.headers)
            )
        )
        self._ends[tp] += 1

    def _nowhere(self, record: Outgoing) -> Reject | None:
        if record.reply and (record.partition or 0) >= self.partitions:
            return no_place(TopicPartition(record.topic, record.partition or 0))
        return None

    def _too_large(self, record: Outgoing) -> Reject | None:
        headers = sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
        size = len(record.key or b"") + len(record.value or b"") + headers
        if size <= self.max_bytes:
            return None
        return ResultTooLarge(f"a record of {size} bytes on {record.topic}: expected {self.max_bytes} at most")
