"""The pipeline and those who wait for replies: each is told once, and none of them holds up anybody else."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from schemas.errors import EmbeddingFailed, Reject, ResultTooLarge
from streams import pipeline as module
from streams.brake import Brake
from streams.lanes import Lane, LaneName
from streams.observe.metrics import Metrics
from streams.pipeline import Pipeline
from streams.records import Headers, Outgoing, Record, TopicPartition
from streams.testing import InMemoryPublisher
from tests.unit.streams.test_pipeline import FakeWork, until

LANE = Lane(LaneName.BULK, "requests", 0.0)
TP = TopicPartition("requests", 0)
#: Partitions of every topic.
PARTITIONS = 4


@dataclass(frozen=True)
class Asked:
    """A request whose reply goes to `partition_of_reply`; `words`: publish, only (reply-only), refuse."""

    offset: int
    words: str = "publish"
    reply_partition: int = 0
    topic: str = TP.topic
    partition: int = TP.partition
    key: bytes | None = b"key"
    headers: Headers = ()
    timestamp: int = 0
    timestamp_type: int = 0

    @property
    def value(self) -> bytes:
        return self.words.encode()


def reply(record: Record, text: bytes) -> Outgoing:
    assert isinstance(record, Asked)
    return Outgoing("replies", None, b"%d %b" % (record.offset, text), (), record.reply_partition, reply=True)


def refusal(record: Record, reason: Reject, attempts: int) -> list[Outgoing]:
    """A reply, and a dead letter unless only the caller is concerned."""
    letter = Outgoing("dead-letters", None, b"%d" % record.offset)
    told = reply(record, reason.reason.encode())
    return [told] if b"only" in (record.value or b"") else [told, letter]


class Stage:
    """Answers each request as its words say."""

    name, concurrency = "fake", 1

    def prepare(self, records: Sequence[Record]) -> list[FakeWork | list[Outgoing] | Reject]:
        return [FakeWork(record, 1) for record in records]

    def run(self, batch: Sequence[FakeWork]) -> list[list[Outgoing] | Reject]:
        return [self._answered(work.record) for work in batch]

    def _answered(self, record: Record) -> list[Outgoing] | Reject:
        if b"refuse" in (record.value or b""):
            return EmbeddingFailed("refused")
        published = Outgoing("results", None, b"%d" % record.offset)
        return [published, reply(record, b"ok")] if record.value == b"publish" else [reply(record, b"ok")]

    def failed(self, error: Exception) -> Reject:
        raise AssertionError(error)


class AtomicPublisher(InMemoryPublisher):
    """Publishes all or nothing, as a transaction does, and names one refused record."""

    atomic = True

    async def deliver(self, records: Sequence[Outgoing], source: TopicPartition, position: int) -> Mapping[int, Reject]:
        probe = InMemoryPublisher(partitions=self.partitions, refuse=self.refuse)
        refused = await probe.publish(records)
        return dict(list(refused.items())[:1]) if refused else await self.publish(records)


@dataclass
class Bench:
    """A running pipeline."""

    pipeline: Pipeline[FakeWork]
    publisher: InMemoryPublisher
    metrics: Metrics
    crashes: list[BaseException] = field(default_factory=list)

    async def ask(self, *requests: Asked) -> None:
        """Has these answered, whatever that means."""
        await self.pipeline.accept(self.pipeline.epoch, {TP: requests}, {TP: requests[-1].offset + 1})
        await until(lambda: self.pipeline.pending() == 0 or bool(self.crashes))
        assert not self.crashes

    def on(self, topic: str) -> list[str]:
        return [(record.value or b"").decode() for record in self.publisher.on(topic)]

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@asynccontextmanager
async def running(publisher: InMemoryPublisher, limit: str = "none") -> AsyncIterator[Bench]:
    """Runs a pipeline from offset 0; `limit` is the brake on dead letters."""
    metrics, crashes = Metrics(), list[BaseException]()
    pipeline: Pipeline[FakeWork] = Pipeline(
        Stage(),
        [LANE],
        publisher,
        refusal,
        metrics,
        budget=100,
        max_records=100,
        max_bytes=10_000,
        on_crash=crashes.append,
        brake=Brake(limit, metrics),
    )
    await pipeline.start()
    pipeline.assign({TP: 0})
    try:
        yield Bench(pipeline, publisher, metrics, crashes)
    finally:
        await pipeline.stop()


@pytest.fixture(params=[InMemoryPublisher, AtomicPublisher], ids=["at least once", "exactly once"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A pipeline over each kind of publisher."""
    async with running(request.param(partitions=PARTITIONS)) as bench:
        yield bench


async def test_a_reply_to_nowhere_is_dropped_and_nobody_waits(bench: Bench) -> None:
    """The partition moves on; what was to be published is, once, and a figure tells of the replies that were lost."""
    await bench.ask(Asked(0, "publish", 7), Asked(1, "only", 8), Asked(2, "refuse", 9), Asked(3))
    assert bench.on("replies") == ["3 ok"]
    assert bench.on("results") == ["0", "3"]
    assert bench.on("dead-letters") == ["2"]
    assert bench.pipeline.positions()[TP] == 4
    assert bench.count("streams_replies_dropped_total", reason="no-reply-partition") == 3


async def test_a_refused_caller_is_told_once(bench: Bench) -> None:
    """A refusal for the caller alone is counted as such, one of a published request is a dead letter as well."""
    await bench.ask(Asked(0, "only refuse", 1), Asked(1, "refuse", 1))
    assert bench.on("replies") == ["0 embedding-failed", "1 embedding-failed"]
    assert bench.on("dead-letters") == ["1"]
    assert bench.count("streams_records_total", lane="bulk", outcome="refused") == 1
    assert bench.count("streams_refusals_total", stage="embed", reason="embedding-failed") == 1
    assert bench.count("streams_dead_letters_total", stage="embed", reason="embedding-failed") == 1


async def test_a_reply_that_is_too_large_gives_way_to_a_refusal(bench: Bench) -> None:
    """The caller learns why there is no answer; subscribers are not concerned where nothing was to be published."""
    bench.publisher.refuse = lambda out: ResultTooLarge("large") if (out.value or b"").endswith(b"ok") else None
    await bench.ask(Asked(0, "only"), Asked(1, "only"))
    assert bench.on("replies") == ["0 result-too-large", "1 result-too-large"]
    assert bench.on("dead-letters") == []


async def test_a_refusal_that_is_too_large_is_dropped(bench: Bench) -> None:
    """A topic that takes no reply at all costs its callers theirs, and nobody else anything."""
    bench.publisher.refuse = lambda out: ResultTooLarge("large") if out.reply else None
    await bench.ask(Asked(0, "only"), Asked(1, "refuse"))
    assert bench.on("replies") == []
    assert bench.on("dead-letters") == ["1"]
    assert bench.count("streams_replies_dropped_total", reason="result-too-large") == 2


async def test_a_result_that_is_refused_is_told_to_the_caller(bench: Bench) -> None:
    """There is a dead letter, and one reply: the answer where it was out already, else the refusal."""
    bench.publisher.refuse = lambda out: ResultTooLarge("large") if out.topic == "results" else None
    await bench.ask(Asked(0))
    assert bench.on("dead-letters") == ["0"]
    assert bench.on("replies") == ["0 result-too-large" if bench.publisher.atomic else "0 ok"]


async def test_a_dead_letter_that_has_to_wait_repeats_no_reply(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is offered again, its caller is told once."""
    monkeypatch.setattr(module, "REFUSED_PAUSE", 0.0)
    offers = iter([True, True, True])
    bench.publisher.refuse = lambda out: (
        ResultTooLarge("large") if out.topic == "dead-letters" and next(offers, False) else None
    )
    await bench.ask(Asked(0, "refuse"))
    assert bench.on("replies") == ["0 embedding-failed"]
    assert bench.on("dead-letters") == ["0"]


async def test_callers_who_ask_badly_do_not_pull_the_brake() -> None:
    """The brake is for dead letters: refusals for callers alone are none, however many there are."""
    async with running(InMemoryPublisher(partitions=PARTITIONS), "1/hour") as bench:
        await bench.ask(*(Asked(n, "only refuse") for n in range(20)), Asked(20, "refuse"))
        assert len(bench.on("replies")) == 21
        assert bench.on("dead-letters") == ["20"]
