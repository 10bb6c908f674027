"""Replays: old requests through the replay lane again, or old records through a stage in this process."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic

from schemas.errors import Reject, Retry
from schemas.headers import source_headers
from schemas.records import Source
from streams.latest import Latest, is_reply_only, original_source, without_caller
from streams.ranges import FOREVER, Batch, Bound, Range, Ranges, scan
from streams.records import Outgoing, Record, TopicPartition
from streams.stage import Stage, W
from streams.transfer import fingerprint, wait_for

SUPERSEDED, REPLY_ONLY = "superseded", "reply-only"
#: Seconds between two looks at the live lag.
LOOK = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records of a topic to replay."""

    topic: str
    start: Bound
    end: Bound
    key: str | None = None
    #: Headers and the values they must have.
    where: tuple[tuple[str, str], ...] = ()
    include_superseded: bool = False

    def has(self, record: Record) -> bool:
        """Whether a record of the range is one of them, superseded or not."""
        if self.key is not None and record.key != self.key.encode():
            return False
        if not self.where:
            return True
        headers = dict(record.headers)
        return all(headers.get(name) == value.encode() for name, value in self.where)

    def checkpoint(self, *means: str | None) -> str:
        """Names this selection and what is done with it, always the same: its checkpoint goes by it."""
        where = sorted(self.where)
        return fingerprint([self.topic, self.start, self.end, self.key, where, self.include_superseded, *means])


# -- the plan -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Counts:
    """What a replay finds in one partition."""

    records: int = 0
    chosen: int = 0
    superseded: int = 0
    reply_only: int = 0

    @property
    def moving(self) -> int:
        """Records that it would send."""
        return self.chosen - self.superseded - self.reply_only


@dataclass(slots=True)
class Plan:
    """What a replay would do, by partition, and the last record of every key as far as it was read."""

    partitions: dict[int, Counts] = field(default_factory=dict)
    latest: Latest = field(default_factory=Latest)

    @property
    def total(self) -> Counts:
        """The sums."""
        each = self.partitions.values()
        return Counts(
            sum(one.records for one in each),
            sum(one.chosen for one in each),
            sum(one.superseded for one in each),
            sum(one.reply_only for one in each),
        )

    def pick(self, selection: Selection, record: Record) -> bool | str:
        """Whether to replay a record, or why it is left out."""
        if not selection.has(record):
            return False
        if is_reply_only(record.headers):
            return REPLY_ONLY
        if selection.include_superseded:
            return True
        superseded = self.latest.superseded(record.key, record.partition, record.offset, record.timestamp)
        return SUPERSEDED if superseded else True


async def survey(
    batches: AsyncIterable[Batch],
    selection: Selection,
    ranges: Ranges,
    advance: Callable[[float, int], None] = lambda _passed, _records: None,
) -> Plan:
    """Counts what the batches hold: the ranges, and what follows on them up to the topic's end."""
    plan = Plan({tp.partition: Counts() for tp in ranges})
    passed = 0
    async for batch in batches:
        inside = ranges.get(batch.partition, Range(0, 0))
        for record in batch.records:
            _count(plan, selection, record, inside)
        passed += len(batch.records)
        advance(passed, passed)
    return plan


def _count(plan: Plan, selection: Selection, record: Record, inside: Range) -> None:
    chosen = False
    if inside.start <= record.offset < inside.end:
        counts = plan.partitions[record.partition]
        counts.records += 1
        chosen = selection.has(record)
        counts.chosen += chosen
        counts.reply_only += chosen and is_reply_only(record.headers)
    if not selection.include_superseded:
        loser = plan.latest.note(record, chosen=chosen)
        if loser is not None:
            plan.partitions[loser].superseded += 1


@asynccontextmanager
async def following(
    connection: Mapping[str, Any], latest: Latest, ends: Mapping[TopicPartition, int]
) -> AsyncIterator[Callable[[], None]]:
    """Keeps `latest` up to date with what is written from these offsets on, while a replay goes on.

    Yields what raises the error that ended the following, if one did.
    """

    async def follow() -> None:
        async with aclosing(scan(connection, {tp: Range(at, FOREVER) for tp, at in ends.items()}, FOREVER)) as batches:
            async for batch in batches:
                for record in batch.records:
                    latest.note(record)

    task = asyncio.create_task(follow())

    def check() -> None:
        if task.done():
            task.result()

    try:
        yield check
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# -- yielding to live traffic ---------------------------------------------------------------------------------


class Yielding:
    """Waits while live traffic lags: a gate in front of every transaction."""

    def __init__(
        self,
        lag: Callable[[], int],
        most: int,
        stop: asyncio.Event,
        told: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lag` asks the brokers and blocks; `told` hears the lag whenever a wait begins."""
        self._lag, self._most, self._stop, self._told, self._clock = lag, most, stop, told, clock
        self._looked = -LOOK
        self.paused = 0.0  # seconds waited

    async def __call__(self) -> None:
        """Returns once live lag is small enough, or the replay is to stop."""
        if self._clock() - self._looked < LOOK:
            return
        began: float | None = None
        while (lag := await asyncio.to_thread(self._lag)) > self._most and not self._stop.is_set():
            if began is None:
                began = self._clock()
                self._told(lag)
            await wait_for(self._stop, LOOK)
        self._looked = self._clock()
        if began is not None:
            self.paused += self._looked - began


# -- what is sent ---------------------------------------------------------------------------------------------


def copied(record: Record, topic: str) -> Outgoing:
    """Returns a request as the replay lane gets it: as it was, plus where it was first read, less its caller."""
    headers = without_caller(record.headers)
    if original_source(record.headers) is None:
        headers += source_headers(Source(record.topic, record.partition, record.offset, record.timestamp))
    return Outgoing(topic, record.key, record.value, headers)


def copier(topic: str) -> Callable[[Sequence[Record]], list[list[Outgoing] | Reject]]:
    """Returns what copies requests to the replay lane."""
    return lambda records: [[copied(record, topic)] for record in records]


class InProcess(Generic[W]):
    """Runs a stage on records right here, where a worker of the stream would do something else with them."""

    def __init__(self, stage: Stage[W], budget: int) -> None:
        """`budget`: tokens a batch, padding included."""
        self._stage = stage
        self._budget = budget

    def __call__(self, records: Sequence[Record]) -> list[list[Outgoing] | Reject]:
        """Returns each record's results, or why it has none."""
        prepared = self._each(self._stage.prepare, [_callerless(record) for record in records])
        results: dict[int, list[Outgoing] | Reject] = {}
        work: list[tuple[int, W]] = []
        for n, result in enumerate(prepared):
            if isinstance(result, list | Reject):
                results[n] = result
            else:
                work.append((n, result))
        for batch in self._batches(work):
            done = self._each(self._stage.run, [each for _, each in batch])
            results |= {n: result for (n, _), result in zip(batch, done, strict=True)}
        return [results[n] for n in range(len(records))]

    def _batches(self, work: list[tuple[int, W]]) -> list[list[tuple[int, W]]]:
        """Shortest first, so that little of a batch is padding."""
        batches: list[list[tuple[int, W]]] = []
        for each in sorted(work, key=lambda one: one[1].size):
            if not batches or each[1].size * (len(batches[-1]) + 1) > self._budget:
                batches.append([])
            batches[-1].append(each)
        return batches

    def _each(self, step: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]) -> list[Any]:
        """Returns the step's result for each item; where it fails, one by one until what causes it stands alone."""
        try:
            return step(items)
        except Retry:
            raise
        except Exception as error:
            if len(items) == 1:
                return [error if isinstance(error, Reject) else self._stage.failed(error)]
        middle = len(items) // 2
        return self._each(step, items[:middle]) + self._each(step, items[middle:])


def _callerless(record: Record) -> Record:
    return replace(record, headers=tuple(without_caller(record.headers)))  # type: ignore[type-var]
