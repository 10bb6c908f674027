"""The transfer: what is moved, what the checkpoint says, how fast, and what stops it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import pytest

from schemas.errors import BadBytes, Reject, ResultTooLarge
from streams.ranges import Batch
from streams.records import Headers, Outgoing, PartitionLost, Record, TopicPartition
from streams.testing import PublishedRecord
from streams.transfer import Pace, TakenOver, Transfer

TP = TopicPartition("in", 0)


def record(offset: int, value: bytes = b"v", key: bytes | None = None, headers: Headers = ()) -> PublishedRecord:
    """A record of the topic."""
    return PublishedRecord("in", 0, offset, 1_000 + offset, key, value, headers)


class Log:
    """A publisher that keeps what went through, with its checkpoint; refuses `b"large"`."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.positions: list[int] = []
        self.lost = False

    async def assign(self, partitions: Iterable[TopicPartition]) -> None: ...

    async def stop(self) -> None: ...

    async def deliver(self, records: Sequence[Outgoing], source: TopicPartition, position: int) -> Mapping[int, Reject]:
        if self.lost:
            raise PartitionLost("fenced")
        for index, each in enumerate(records):
            if each.value == b"large":
                return {index: ResultTooLarge("too large")}
        self.values += [each.value for each in records]
        self.positions.append(position)
        return {}


async def batches(*given: Batch) -> AsyncIterator[Batch]:
    """The batches, one after the other."""
    for each in given:
        yield each


def copy(records: Sequence[Record]) -> list[list[Outgoing] | Reject]:
    """Sends each record on, but none that says `bad`."""
    return [BadBytes("bad") if each.value == b"bad" else [Outgoing("out", None, each.value)] for each in records]


def transfer(log: Log, rate: float | None = None, pick: Callable[[Record], bool | str] = lambda _: True) -> Transfer:
    """A transfer into a log."""
    return Transfer(log, pick, copy, Pace(rate), asyncio.Event())


async def test_the_checkpoint_goes_behind_everything_that_was_looked_at() -> None:
    """Records left out are passed, gaps and markers too; the end of a range is noted even if nothing was chosen."""
    log = Log()
    found = await transfer(log, pick=lambda each: each.offset % 2 == 0 or ("odd" if each.offset > 4 else False)).run(
        batches(
            Batch(TP, [record(n, b"%d" % n) for n in range(6)], 8, False),
            Batch(TP, [record(9), record(11)], 14, True),
        ),
        {TP: 0},
    )
    assert log.values == [b"0", b"2", b"4"]
    assert log.positions == [8, 14]
    assert (found.moved, found.left, found.passed, found.stopped) == (3, {"odd": 3}, 14, False)


async def test_what_cannot_be_sent_is_named_and_its_neighbours_go() -> None:
    """A record that cannot be converted, and one that the broker refuses, are counted; all others are sent."""
    log = Log()
    values = [b"a", b"bad", b"large", b"b", b"large", b"c"]
    found = await transfer(log).run(batches(Batch(TP, [record(n, v) for n, v in enumerate(values)], 6, True)), {TP: 0})
    assert log.values == [b"a", b"b", b"c"]
    assert (found.moved, found.refused) == (3, {"bad-bytes": 1, "result-too-large": 2})
    assert found.named[0] == "in/0@1: bad-bytes: bad"


async def test_a_rate_makes_small_transactions_with_a_checkpoint_each() -> None:
    """At 4 a second two records go together, and the checkpoint lies behind the second."""
    log, clock = Log(), [0.0]
    moving = Transfer(log, lambda _: True, copy, pace := Pace(4, lambda: clock[0]), asyncio.Event())
    pace.wait = lambda records: clock.append(records) or 0.0  # type: ignore[method-assign, func-returns-value]
    await moving.run(batches(Batch(TP, [record(n) for n in range(5)], 5, True)), {TP: 0})
    assert log.positions == [2, 4, 5]
    assert clock[1:] == [2, 2, 1]


async def test_a_stop_ends_it_after_what_is_under_way() -> None:
    """Told to stop while it sends, it finishes that transaction and begins no other."""
    log, stop = Log(), asyncio.Event()

    def convert(records: Sequence[Record]) -> list[list[Outgoing] | Reject]:
        stop.set()
        return copy(records)

    found = await Transfer(log, lambda _: True, convert, Pace(4), stop).run(
        batches(Batch(TP, [record(n) for n in range(5)], 5, True)), {TP: 0}
    )
    assert (log.positions, found.moved, found.stopped) == ([2], 2, True)


async def test_records_are_chosen_after_the_gate_opened() -> None:
    """What became unwanted while the gate was closed is not sent."""
    log, wanted = Log(), [True]

    async def gate() -> None:
        wanted[0] = False

    moving = Transfer(log, lambda _: wanted[0] or "late", copy, Pace(None), asyncio.Event(), gate=gate)
    found = await moving.run(batches(Batch(TP, [record(0)], 1, True)), {TP: 0})
    assert (log.values, found.left) == ([], {"late": 1})


async def test_a_lost_partition_means_another_run() -> None:
    """A run that was fenced says so."""
    log = Log()
    log.lost = True
    with pytest.raises(TakenOver):
        await transfer(log).run(batches(Batch(TP, [record(0)], 1, True)), {TP: 0})


def test_the_pace_spreads_records_and_saves_nothing_up() -> None:
    """100 records at 50 a second are 2 s; time that was not used does not let more through later."""
    now = [10.0]
    pace = Pace(50, lambda: now[0])
    assert pace.wait(100) == pytest.approx(2.0)
    assert pace.wait(50) == pytest.approx(3.0)
    now[0] = 100.0
    assert pace.wait(50) == pytest.approx(1.0)
    assert (pace.chunk, Pace(None).chunk, Pace(0.1).chunk, Pace(None).wait(9)) == (25, 500, 1, 0.0)
