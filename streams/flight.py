"""What is in flight: the records of each assigned partition, from the fetch to the receipt."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Generic

from schemas.errors import Reject
from streams.lanes import Lane
from streams.records import Outgoing, Record, TopicPartition
from streams.stage import W
from streams.suspects import Suspicion
from streams.watermark import Watermark

#: How often a record's value is in the worker at once: as it came, as text, and as its result or dead letter.
COPIES = 3


class Partition(Generic[W]):
    """An assigned partition: what was fetched of it and is not acknowledged yet, in offset order."""

    __slots__ = ("delivered", "held", "items", "lost", "publishing", "suspicion", "touched", "tp", "watermark")

    def __init__(self, tp: TopicPartition, position: int, suspicion: Suspicion) -> None:
        self.tp = tp
        self.watermark = Watermark(position)
        self.suspicion = suspicion
        self.delivered = position  # up to where results, and with an atomic publisher the offset, are out
        self.items: deque[Item[W]] = deque()
        self.publishing = False
        self.touched = False
        self.lost = False
        self.held = 0  # items that wait for another try; meanwhile nothing more of the partition is fetched

    def has_settled(self) -> bool:
        """Whether there is something to publish."""
        return not self.lost and bool(self.items) and self.items[0].outputs is not None

    def take_settled(self) -> list["Item[W]"]:
        """Removes the longest head of settled items; nothing once the partition is lost."""
        head = []
        while self.has_settled():
            head.append(self.items.popleft())
        return head


class Item(Generic[W]):
    """One record on its way; its timings (monotonic seconds) travel with it."""

    __slots__ = (
        "alone", "arrived", "errors", "failure", "in_room", "lane", "outputs", "partition", "record", "refused",
        "settled", "started", "told", "work",
    )  # fmt: skip

    def __init__(self, record: Record, partition: Partition[W], lane: Lane, arrived: float) -> None:
        self.record = record
        self.partition = partition
        self.lane = lane
        self.arrived = arrived
        self.started = self.settled = arrived
        self.work: W | None = None
        self.outputs: list[Outgoing] | None = None
        self.refused: Reject | None = None
        self.failure: Exception | None = None  # of the last try, until it is decided what to do about it
        self.errors: list[str] = []  # of every try
        self.in_room = False
        self.told = False  # its reply is out, or nobody can have it: the reply must not be sent again
        #: Whether it must not share a batch: a process died hereabouts, or it failed before.
        self.alone = partition.suspicion.covers(record.offset)

    def settle(self, outputs: list[Outgoing], refused: Reject | None = None) -> None:
        """Sets what to publish; from this moment on it may be published, so `outputs` comes last."""
        self.refused = refused
        self.settled = time.monotonic()
        self.outputs = outputs

    @property
    def dead_letter(self) -> bool:
        """Whether its record becomes a dead letter; a refused one whose caller alone is told of it does not."""
        return self.refused is not None and any(not output.reply for output in self.outputs or ())

    @property
    def size(self) -> int:
        return self.work.size if self.work is not None else 1

    @property
    def weight(self) -> int:
        """Bytes that count against the lane's room, with what becomes of the value."""
        headers = sum(len(name) + len(value or b"") for name, value in self.record.headers)
        return COPIES * len(self.record.value or b"") + len(self.record.key or b"") + headers


class Room:
    """How much of one lane is in the worker; fetching waits while it is full."""

    def __init__(self, records: int, size: int) -> None:
        self._free_records, self._free_bytes = records, size
        self._open = asyncio.Event()
        self._open.set()

    def enter(self, items: Iterable[Item[Any]]) -> None:
        """Counts these items."""
        for item in items:
            item.in_room = True
            self._change(-1, -item.weight)

    def leave(self, items: Iterable[Item[Any]]) -> None:
        """Counts them no more; those that left before are passed over."""
        for item in items:
            if item.in_room:
                item.in_room = False
                self._change(1, item.weight)

    async def wait(self) -> None:
        """Waits until there is room."""
        await self._open.wait()

    def _change(self, records: int, size: int) -> None:
        self._free_records += records
        self._free_bytes += size
        self._open.set() if self._free_records > 0 and self._free_bytes > 0 else self._open.clear()
