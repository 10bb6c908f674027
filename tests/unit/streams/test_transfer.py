"""The transfer: what is moved, what the checkpoint says, how fast, and what stops it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadBytes, Reject, ResultTooLarge
from streams.ranges import Batch
from streams.records import Headers, Outgoing, PartitionLost, Record, TopicPartition
from streams.testing import PublishedRecord
from streams.transfer import Latest, Pace, TakenOver, Transfer, is_reply_only, original_source, without_caller

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


@given(st.lists(st.tuples(st.sampled_from([None, b"a", b"b", b"c"]), st.booleans()), max_size=30), st.randoms())
def test_only_the_last_record_of_a_key_is_not_superseded(given: list[tuple[bytes | None, bool]], dice: object) -> None:
    """In whatever order records are noted, all but the last of a key are superseded, and the chosen ones counted."""
    records = [record(n, key=key) for n, (key, _) in enumerate(given)]
    last = {each.key: each.offset for each in records if each.key is not None}
    latest, losers = Latest(), 0
    order = list(zip(records, (chosen for _, chosen in given), strict=True))
    dice.shuffle(order)  # type: ignore[attr-defined]
    for each, chosen in order:
        losers += latest.note(each, chosen=chosen) is not None
    superseded = [each.key is not None and each.offset < last[each.key] for each in records]
    assert [latest.superseded(each.key, 0, each.offset, each.timestamp) for each in records] == superseded
    assert losers == sum(old and chosen for old, (_, chosen) in zip(superseded, given, strict=True))


def test_a_key_that_moved_to_another_partition_goes_by_time() -> None:
    """After partitions were added, offsets say nothing; a later timestamp does. Reply-only records replace nothing."""
    latest = Latest()
    latest.note(PublishedRecord("in", 1, 3, 5_000, b"k", b"v", ()))
    assert latest.superseded(b"k", 0, 900, 4_000)
    assert not latest.superseded(b"k", 0, 900, 6_000)
    assert not latest.superseded(None, 0, 0, 0)
    latest.note(PublishedRecord("in", 0, 999, 9_000, b"k", b"v", (("results", b"reply-only"),)))
    assert not latest.superseded(b"k", 0, 998, 6_000)


def test_headers_of_a_caller_who_has_gone_are_dropped() -> None:
    """Deadline and reply address in both families go; all others stay, in order and with repeats."""
    headers = [
        ("tag", b"a"),
        ("deadline", b"1"),
        ("reply-topic", b"r"),
        ("reply-partition", b"0"),
        ("correlation-id", b"c"),
        ("kafka_replyTopic", b"r"),
        ("kafka_replyPartition", b"\0\0\0\0"),
        ("kafka_correlationId", b"c"),
        ("traceparent", b"t"),
        ("tag", None),
    ]
    assert without_caller(headers) == [("tag", b"a"), ("traceparent", b"t"), ("tag", None)]


def test_an_original_source_is_only_what_a_replay_wrote() -> None:
    """All four headers with valid values are a source; some of them, or nonsense in one, are not."""
    headers: list[tuple[str, bytes | None]] = [
        ("source-topic", b"t"),
        ("source-partition", b"1"),
        ("source-offset", b"2"),
        ("source-timestamp", b"3"),
    ]
    source = original_source(headers)
    assert source is not None
    assert (source.topic, source.partition, source.offset, source.timestamp) == ("t", 1, 2, 3)
    assert original_source(headers[:3]) is None
    assert original_source([*headers[:3], ("source-timestamp", b"soon")]) is None
    assert is_reply_only([("results", b"reply-only")])
    assert not is_reply_only([("results", b"publish")])
