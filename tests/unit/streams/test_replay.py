"""What a replay counts, sends and runs by itself, without a broker."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from schemas.codec import Codec
from schemas.errors import BadBytes, EmbeddingFailed, RegistryUnavailable, Reject
from schemas.headers import parse_request
from schemas.records import Embedding, Sentence, Source
from streams.embedding.model import Model, OneModel
from streams.embedding.stage import EmbedStage
from streams.ranges import BEGINNING, END, Batch, Bound, Range
from streams.records import Headers, Outgoing, Record, TopicPartition
from streams.replay import REPLY_ONLY, SUPERSEDED, InProcess, Selection, Yielding, copied, survey
from streams.testing import DeterministicEmbedder, PublishedRecord

CODEC = Codec()
ONE, TWO = TopicPartition("in", 0), TopicPartition("in", 1)
ALL = Selection(topic="in", start=BEGINNING, end=END)


def record(
    offset: int, key: bytes | None = None, value: bytes | None = b"v", headers: Headers = (), partition: int = 0
) -> PublishedRecord:
    """A record of the topic."""
    return PublishedRecord("in", partition, offset, 1_000 + offset, key, value, headers)


async def batches(*given: Batch) -> AsyncIterator[Batch]:
    """The batches, one after the other."""
    for each in given:
        yield each


async def test_the_plan_counts_what_would_be_sent() -> None:
    """Records in the range, selected ones, and those of them that a later record supersedes, also beyond the range."""
    records = [
        record(0, b"a"),
        record(1, b"b"),
        record(2, b"a"),
        record(3),
        record(4, b"c", headers=[("results", b"reply-only")]),
        record(5, b"d"),
        record(7, b"b", None),
    ]
    ranges = {ONE: Range(0, 6), TWO: Range(0, 1)}
    plan = await survey(
        batches(Batch(ONE, records, 8, True), Batch(TWO, [record(0, b"e", partition=1)], 1, True)), ALL, ranges
    )
    counts = plan.partitions[0]
    assert (counts.records, counts.chosen, counts.superseded, counts.reply_only, counts.moving) == (6, 6, 2, 1, 3)
    assert (plan.total.records, plan.total.moving) == (7, 4)
    assert [plan.pick(ALL, each) for each in records] == [SUPERSEDED, SUPERSEDED, True, True, REPLY_ONLY, True, True]


async def test_superseded_records_can_be_included() -> None:
    """With all of them wanted nothing is superseded, and nothing is remembered."""
    everything = Selection(topic="in", start=BEGINNING, end=END, include_superseded=True)
    records = [record(0, b"a"), record(1, b"a")]
    plan = await survey(batches(Batch(ONE, records, 2, True)), everything, {ONE: Range(0, 2)})
    assert plan.total.moving == 2
    assert [plan.pick(everything, each) for each in records] == [True, True]


def test_filters() -> None:
    """Key and headers must all fit; the last of a repeated header counts."""
    wanted = Selection(topic="in", start=BEGINNING, end=END, key="k", where=(("a", "1"), ("b", "ü")))
    headers: Headers = [("a", b"0"), ("b", "ü".encode()), ("a", b"1")]
    assert wanted.has(record(0, b"k", headers=headers))
    assert not wanted.has(record(0, b"x", headers=headers))
    assert not wanted.has(record(0, b"k", headers=headers[:2]))
    assert not wanted.has(record(0, b"k"))


def test_a_checkpoint_belongs_to_one_selection_and_purpose() -> None:
    """Whatever decides which records go where makes another checkpoint; the order of headers does not."""

    def mark(*means: str | None, **change: object) -> str:
        return Selection(**{"topic": "in", "start": BEGINNING, "end": END, **change}).checkpoint(*means)  # type: ignore[arg-type]

    changes = [
        {"topic": "x"},
        {"start": Bound(offset=1)},
        {"end": Bound(time=1)},
        {"key": "k"},
        {"where": (("a", "b"),)},
    ]
    marks = {mark(), mark("score"), mark(None, "model"), *(mark(**each) for each in changes)}
    assert len(marks) == len(changes) + 3
    both = (("a", "1"), ("b", "2"))
    assert mark(where=both) == mark(where=both[::-1])


def test_a_copy_is_the_request_less_its_caller() -> None:
    """Key, value and headers stay; the first coordinates are added once, and kept when there are some."""
    headers: Headers = [("tag", b"a"), ("deadline", b"1"), ("tag", b"b")]
    first = copied(record(3, b"k", headers=headers), "replay")
    assert (first.topic, first.key, first.value) == ("replay", b"k", b"v")
    assert first.headers[:2] == [("tag", b"a"), ("tag", b"b")]
    assert parse_request(first.headers).source == Source("in", 0, 3, 1_003)
    second = copied(PublishedRecord("replay", 5, 6, 7, first.key, first.value, tuple(first.headers)), "replay")
    assert second == first


# -- in this process ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """A record's value with its length as size."""

    value: bytes
    deadline: int | None = None

    @property
    def size(self) -> int:
        return len(self.value)


class Stage:
    """Refuses `bad`, fails on batches with `boom`, publishes the rest; notes its batches."""

    name = "stage"
    concurrency = 1

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []

    def prepare(self, records: Sequence[Record]) -> list[Work | list[Outgoing] | Reject]:
        return [self._prepared(each.value) for each in records]

    def _prepared(self, value: bytes | None) -> Work | list[Outgoing] | Reject:
        if value is None:
            return [Outgoing("out", b"k", None)]
        return BadBytes("bad") if value == b"bad" else Work(value)

    def run(self, batch: Sequence[Work]) -> list[list[Outgoing] | Reject]:
        values = [each.value for each in batch]
        if b"away" in values:
            raise RegistryUnavailable
        if b"boom" in values:
            raise RuntimeError
        self.batches.append(values)
        return [[Outgoing("out", None, value)] for value in values]

    def failed(self, error: Exception) -> Reject:
        return EmbeddingFailed(type(error).__name__)


def test_a_stage_gets_batches_of_like_size_within_its_budget() -> None:
    """Results come in the order of the records, however they were batched; one record may be over the budget."""
    stage = Stage()
    values = [b"aaaa", b"b", None, b"bad", b"cccccccccc", b"dd", b"e"]
    results = InProcess(stage, 8)([record(n, value=value) for n, value in enumerate(values)])
    assert stage.batches == [[b"b", b"e", b"dd"], [b"aaaa"], [b"cccccccccc"]]
    sent = [result[0].value if isinstance(result, list) else result.reason for result in results]
    assert sent == [b"aaaa", b"b", None, "bad-bytes", b"cccccccccc", b"dd", b"e"]


def test_what_makes_a_stage_fail_is_refused_alone() -> None:
    """One record that makes its batch fail is refused; its neighbours have results."""
    results = InProcess(Stage(), 100)([record(n, value=value) for n, value in enumerate([b"a", b"boom", b"b", b"c"])])
    assert [isinstance(result, list) for result in results] == [True, False, True, True]
    assert isinstance(results[1], EmbeddingFailed)


def test_a_world_that_is_not_ready_refuses_nothing() -> None:
    """Retry ends the run: its records are left for the next one."""
    with pytest.raises(RegistryUnavailable):
        InProcess(Stage(), 100)([record(0, value=b"away"), record(1)])


def test_another_model_embeds_records_whose_deadline_has_passed() -> None:
    """The caller of that time has gone, so has the deadline; the source is the record itself."""
    stage = EmbedStage(OneModel(Model(DeterministicEmbedder())), CODEC, "other", publish_text=True)
    value = CODEC.encode(Sentence(id="s", text="A text."), "in")
    ((out,),) = InProcess(stage, 100)([record(3, b"k", value, [("deadline", b"1")])])  # type: ignore[misc]
    found = CODEC.decode(Embedding, out.value)
    assert (out.topic, out.key, found.source) == ("other", b"k", Source("in", 0, 3, 1_003))
    assert np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-5)


# -- yielding -------------------------------------------------------------------------------------------------


async def test_it_waits_while_live_traffic_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on once the lag is small enough, says once that it waits, and looks at most once a second."""
    lags, told, now = [50, 30, 10, 99], [], [0.0]
    monkeypatch.setattr("streams.replay.LOOK", 0.01)
    gate = Yielding(lambda: lags.pop(0), 10, asyncio.Event(), told.append, lambda: now[0])
    await gate()
    assert (lags, told) == ([99], [50])
    await gate()
    assert lags == [99]
    now[0] = 1.0
    lags[:] = [0]
    await gate()
    assert (lags, told) == ([], [50])


async def test_a_stop_ends_the_wait() -> None:
    """Told to stop, it does not wait for live traffic any more."""
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(5):
        await Yielding(lambda: 1_000, 10, stop, lambda _: None)()
