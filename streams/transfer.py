"""Moving chosen records of a range with a checkpoint: what a replay and a redrive have in common.

What is sent and how far that is go into one transaction, so a run that is killed and started again sends nothing
twice. The checkpoint is the committed offsets of a group of the run's own, which nobody ever joins.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka.admin import AdminClient

from schemas.errors import Reject, StreamsError
from streams.ranges import Batch, Ranges, committed, remaining, scan
from streams.records import Outgoing, PartitionLost, Record, TopicPartition

#: Most records in one transaction.
CHUNK = 500
#: Of refused records, how many are named.
NAMED = 20


class TakenOver(StreamsError):
    """Another run of the same selection has begun: it goes on where this one was."""


# -- pace -----------------------------------------------------------------------------------------------------


class Pace:
    """A rate limit: tells how long to wait after so many records."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`rate`: records a second; None for no limit."""
        self._rate = rate
        self._clock = clock
        self._due = clock()
        #: Records to send at a time: what half a second allows.
        self.chunk = CHUNK if rate is None else min(CHUNK, max(1, int(rate / 2)))

    def wait(self, records: int) -> float:
        """Books records and returns the seconds until the next may go; time not used is not saved up."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        self._due = max(self._due, now) + records / self._rate
        return self._due - now


# -- the transfer ---------------------------------------------------------------------------------------------


class Publisher(Protocol):
    """Publishes and checkpoints in one step; `streams.transactions.TransactionalPublisher` does."""

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Takes over these partitions: what an earlier run began is done or undone then, and it can do no more."""
        ...

    async def stop(self) -> None:
        """Gives up what is open."""
        ...

    async def deliver(self, records: Sequence[Outgoing], source: TopicPartition, position: int) -> Mapping[int, Reject]:
        """Returns once the transaction went through, or which record prevents it: then nothing is published."""
        ...


#: For each record what to send for it, or why nothing can be; blocks, and is called off the event loop.
Convert = Callable[[Sequence[Record]], list[list[Outgoing] | Reject]]
#: Whether to move a record: True, or why it is left out, or False where it was not meant at all.
Pick = Callable[[Record], bool | str]


@dataclass(slots=True)
class Tally:
    """What became of the records so far."""

    #: Offsets gone through.
    passed: int = 0
    #: Records moved.
    moved: int = 0
    #: Why -> how many were left out.
    left: Counter[str] = field(default_factory=Counter)
    #: Why -> how many could not be moved; and where the first of them are.
    refused: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)
    #: Whether it was stopped before the end.
    stopped: bool = False

    def refuse(self, record: Record, reason: Reject) -> None:
        """Books a record that could not be moved."""
        self.refused[reason.reason] += 1
        if len(self.named) < NAMED:
            self.named.append(f"{record.topic}/{record.partition}@{record.offset}: {reason.reason}: {reason}")


class Transfer:
    """Moves records batch by batch, at a pace, until the end or until it is told to stop."""

    def __init__(
        self,
        publisher: Publisher,
        pick: Pick,
        convert: Convert,
        pace: Pace,
        stop: asyncio.Event,
        *,
        gate: Callable[[], Awaitable[None]] | None = None,
        advance: Callable[[float, int], None] = lambda _passed, _moved: None,
    ) -> None:
        """`gate` is waited for before each transaction; `advance` is told the offsets passed and records moved."""
        self._publisher = publisher
        self._pick = pick
        self._convert = convert
        self._pace = pace
        self._stop = stop
        self._gate = gate
        self._advance = advance
        self.tally = Tally()

    async def run(self, batches: AsyncIterable[Batch], starts: Mapping[TopicPartition, int]) -> Tally:
        """Moves what the batches hold; `starts` are the offsets they begin at. Raises TakenOver."""
        at = dict(starts)
        async for batch in batches:
            try:
                whole = await self._batch(batch)
            except PartitionLost as error:
                raise TakenOver(f"another run of the same selection has begun: {error}") from error
            if not whole:
                self.tally.stopped = True
                break
            self.tally.passed += batch.position - at[batch.partition]
            at[batch.partition] = batch.position
            self._advance(self.tally.passed, self.tally.moved)
        return self.tally

    async def _batch(self, batch: Batch) -> bool:
        """Returns whether it came to the batch's end."""
        at, end, checkpoint = 0, len(batch.records), None
        while at < end:
            if not await self._may_go_on():
                return False
            # Chosen only now: while the gate was closed a record may have been superseded.
            chunk, at = self._choose(batch.records, at)
            if chunk:
                checkpoint = batch.position if at == end else batch.records[at].offset
                await self._send(chunk, batch.partition, checkpoint)
                await wait_for(self._stop, self._pace.wait(len(chunk)))
        if batch.last and checkpoint != batch.position:
            await self._publisher.deliver([], batch.partition, batch.position)
        return True

    def _choose(self, records: Sequence[Record], at: int) -> tuple[list[Record], int]:
        """Returns the next records to send together, and where to go on after them."""
        chunk: list[Record] = []
        while at < len(records) and len(chunk) < self._pace.chunk:
            verdict = self._pick(records[at])
            if isinstance(verdict, str):
                self.tally.left[verdict] += 1
            elif verdict:
                chunk.append(records[at])
            at += 1
        return chunk, at

    async def _may_go_on(self) -> bool:
        if self._gate is not None:
            await self._gate()
        return not self._stop.is_set()

    async def _send(self, records: Sequence[Record], partition: TopicPartition, position: int) -> None:
        converted = await asyncio.to_thread(self._convert, records)
        going: list[tuple[Record, list[Outgoing]]] = []
        for record, result in zip(records, converted, strict=True):
            if isinstance(result, Reject):
                self.tally.refuse(record, result)
            else:
                going.append((record, result))
        while True:
            owners = [n for n, (_, outputs) in enumerate(going) for _ in outputs]
            outputs = [output for _, each in going for output in each]
            refused = await self._publisher.deliver(outputs, partition, position)
            if not refused:
                break
            for n, reason in {owners[index]: reason for index, reason in refused.items()}.items():
                self.tally.refuse(going[n][0], reason)
            out = {owners[index] for index in refused}
            going = [each for n, each in enumerate(going) if n not in out]
        self.tally.moved += len(going)


async def resume(
    transfer: Transfer,
    publisher: Publisher,
    connection: Mapping[str, Any],
    admin: AdminClient,
    group: str,
    ranges: Ranges,
) -> Tally:
    """Runs a transfer over the ranges from its checkpoint on; `group` holds it. Raises TakenOver."""
    try:
        await publisher.assign(ranges)
        # Only now is this settled: a run that was killed may have left a transaction that was about to commit.
        done = await asyncio.to_thread(committed, admin, group, ranges)
        left = remaining(ranges, done)
        async with aclosing(scan(connection, left)) as batches:
            return await transfer.run(batches, {tp: each.start for tp, each in left.items()})
    finally:
        await publisher.stop()


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Waits for an event, but not longer than so many seconds."""
    if seconds <= 0:
        return
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def fingerprint(parts: Iterable[Any]) -> str:
    """Returns 16 hex digits that stand for a selection: the same one is always the same run."""
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()[:16]
