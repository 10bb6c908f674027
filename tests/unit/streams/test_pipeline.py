"""The pipeline with a stage of its own and the in-memory publisher: order, acknowledgement, failure, rebalance."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil, log2
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_none

from schemas.errors import BadBytes, EmbeddingFailed, InvalidField, Reject, ResultTooLarge, Retry
from schemas.records import Severity
from streams import pipeline as pipeline_module
from streams.lanes import Lane, LaneName
from streams.observe.metrics import Metrics
from streams.pipeline import Pipeline, Retries
from streams.records import Headers, Outgoing, Record, TopicPartition, Unreadable
from streams.suspects import Suspicion
from streams.testing import InMemoryPublisher

BULK = Lane(LaneName.BULK, "requests", 2.0)
URGENT = Lane(LaneName.INTERACTIVE, "urgent", 0.0)
P0, P1 = TopicPartition("requests", 0), TopicPartition("requests", 1)


@dataclass(frozen=True)
class Request:
    """A consumed record; its value is the script of what happens to it, see `FakeStage`."""

    offset: int
    value: bytes | None = b"fine"
    partition: int = 0
    topic: str = "requests"
    key: bytes | None = b"key"
    headers: Headers = ()
    timestamp: int = 0
    timestamp_type: int = 0


@dataclass
class FakeWork:
    record: Record
    size: int
    deadline: int | None = None


@dataclass
class FakeStage:
    """Does what each value says: `bad` and `refuse` are refused, `poison` fails its batch, `late` has expired."""

    concurrency: int = 1
    name: str = "fake"
    away: list[Exception] = field(default_factory=list)  # raised by prepare, one a call
    run_away: list[Exception] = field(default_factory=list)  # raised by run, one a call
    prepared: list[list[int]] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)  # run waits for it
    running: threading.Event = field(default_factory=threading.Event)  # set when run was entered

    def __post_init__(self) -> None:
        self.gate.set()

    def prepare(self, records: Sequence[Record]) -> list[FakeWork | list[Outgoing] | Reject]:
        self.prepared.append([record.offset for record in records])
        if self.away:
            raise self.away.pop(0)
        if any(record.value == b"breaks prepare" for record in records):
            raise RuntimeError("prepare broke")
        return [self._admit(record) for record in records]

    def _admit(self, record: Record) -> FakeWork | list[Outgoing] | Reject:
        if record.value is None:
            return [result(record)]
        if record.value == b"bad":
            return BadBytes("bad bytes")
        if record.value == b"silent":
            return []
        deadline = int(time.time() * 1000) - 1000 if record.value == b"late" else None
        return FakeWork(record, len(record.value), deadline)

    def run(self, batch: Sequence[FakeWork]) -> list[list[Outgoing] | Reject]:
        self.batches.append([work.record.offset for work in batch])
        self.running.set()
        assert self.gate.wait(10)
        if self.run_away:
            raise self.run_away.pop(0)
        for work in batch:
            if work.record.value == b"poison":
                raise RuntimeError("poisoned")
            if work.record.value == b"out of memory" and len(batch) > 1:
                raise MemoryError
            if work.record.value == b"fails once":
                if len(batch) > 1:
                    raise RuntimeError("in company")
                object.__setattr__(work.record, "value", b"fine")
                raise RuntimeError("this time")
            if work.record.value == b"rejects its batch":
                raise ResultTooLarge("raised, not returned")
            if work.record.value == b"exit":
                raise SystemExit("the thread ends")
            if work.record.value == b"miscount":
                return []
        return [
            BadBytes("refused by run") if work.record.value == b"refuse" else [result(work.record)] for work in batch
        ]

    def failed(self, error: Exception) -> Reject:
        return EmbeddingFailed(str(error))


def result(record: Record) -> Outgoing:
    return Outgoing("results", record.key, None if record.value is None else b"%d" % record.offset)


def refusal(record: Record, reason: Reject, attempts: int) -> list[Outgoing]:
    headers = [("reason", reason.reason.encode()), ("why", str(reason).encode())]
    return [Outgoing("dead-letters", record.key, b"%d" % record.offset, headers)]


@dataclass
class Bench:
    """A running pipeline and everything around it."""

    pipeline: Pipeline[FakeWork]
    stage: FakeStage
    publisher: InMemoryPublisher
    metrics: Metrics
    crashes: list[BaseException]
    alerts: list[tuple[Any, ...]]

    async def feed(self, *requests: Request, reach: Mapping[TopicPartition, int] | None = None) -> None:
        """Accepts the requests as one fetch of the present epoch."""
        fetch: dict[TopicPartition, list[Request]] = {}
        for request in requests:
            fetch.setdefault(TopicPartition(request.topic, request.partition), []).append(request)
        ends = {tp: max(request.offset for request in found) + 1 for tp, found in fetch.items()}
        await self.pipeline.accept(self.pipeline.epoch, fetch, ends | dict(reach or {}))

    async def finished(self) -> None:
        """Waits until everything that was accepted is acknowledged."""
        await until(lambda: self.pipeline.pending() == 0 or bool(self.crashes))
        assert not self.crashes

    def published(self, topic: str = "results") -> list[int]:
        """Returns the offsets of the records whose results, or dead letters, are out, in order."""
        return [int(record.value or b"-1") for record in self.publisher.on(topic)]

    def reasons(self) -> list[str]:
        """Returns why each dead letter is one."""
        return [(dict(record.headers)["reason"] or b"").decode() for record in self.publisher.on("dead-letters")]


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition; ten seconds mean that it never comes."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def settled(bench: Bench) -> None:
    """Waits until no model thread and no publishing task has anything left to do."""
    assert await bench.pipeline.drain(10)


@asynccontextmanager
async def running(
    stage: FakeStage | None = None, publisher: Any = None, *, budget: int = 1000, **limits: Any
) -> AsyncIterator[Bench]:
    """Runs a pipeline with partitions 0 and 1 of the bulk lane, and of the urgent lane, from offset 0."""
    stage, publisher = stage or FakeStage(), publisher or InMemoryPublisher()
    metrics, crashes, alerts = Metrics(), list[BaseException](), list[tuple[Any, ...]]()
    pipeline: Pipeline[FakeWork] = Pipeline(
        stage,
        (URGENT, BULK),
        publisher,
        refusal,
        metrics,
        budget=budget,
        max_records=limits.get("max_records", 10_000),
        max_bytes=limits.get("max_bytes", 10_000_000),
        on_crash=crashes.append,
        tell=lambda *what, **_: alerts.append(what[:3]),
        **{name: value for name, value in limits.items() if name in {"remember", "retries"}},
    )
    await pipeline.start()
    pipeline.assign(
        {TopicPartition(lane.topic, number): 0 for lane in (BULK, URGENT) for number in (0, 1)},
        limits.get("suspicions", {}),
    )
    try:
        yield Bench(pipeline, stage, publisher, metrics, crashes, alerts)
    finally:
        stage.gate.set()
        if isinstance(publisher, InMemoryPublisher):
            publisher.release()
        await pipeline.stop()
        for thread in pipeline._threads:
            thread.join(10)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A pipeline with one model thread and a budget that takes everything at once."""
    async with running() as bench:
        yield bench


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again at once where the product would wait."""
    monkeypatch.setattr(pipeline_module, "BACKOFF", wait_none())


# -- order and acknowledgement --------------------------------------------------------------------------------

values = st.one_of(
    st.integers(1, 60).map(lambda size: b"x" * size), st.sampled_from([None, b"bad", b"poison", b"refuse", b"silent"])
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), values), max_size=60),
    st.integers(1, 3),
    st.integers(1, 120),
    st.integers(1, 20),
)
def test_results_of_a_partition_keep_the_order_of_its_offsets(
    script: list[tuple[int, bytes | None]], concurrency: int, budget: int, fetch: int
) -> None:
    """Whatever batches were made of, halved or refused: each record has one answer, in order, and is acknowledged."""
    requests = [Request(n, value, partition, key=b"%d" % partition) for n, (partition, value) in enumerate(script)]

    async def stream() -> None:
        async with running(FakeStage(concurrency), budget=budget) as bench:
            for start in range(0, len(requests), fetch):
                await bench.feed(*requests[start : start + fetch])
            await bench.finished()
            await settled(bench)
            answers = {b"0": list[int](), b"1": list[int]()}
            for record in bench.publisher.records:
                answers[record.key or b""].append(-1 if record.value is None else int(record.value))
            for partition in (0, 1):
                mine = [r for r in requests if r.partition == partition]
                expected = [-1 if r.value is None else r.offset for r in mine if r.value != b"silent"]
                assert answers[b"%d" % partition] == expected
                end = mine[-1].offset + 1 if mine else 0
                assert bench.pipeline.positions()[TopicPartition("requests", partition)] == end
            assert not bench.crashes

    asyncio.run(stream())


async def test_nothing_is_acknowledged_before_its_receipt(bench: Bench) -> None:
    """Results that were sent but not confirmed do not move the position."""
    bench.publisher.hold()
    await bench.feed(Request(0), Request(1))
    await until(lambda: bench.published() == [0, 1])
    assert bench.pipeline.positions()[P0] == 0
    assert bench.pipeline.pending() == 2
    bench.publisher.release()
    await bench.finished()
    assert bench.pipeline.positions()[P0] == 2


async def test_a_record_waits_for_every_lower_offset_of_its_partition_only() -> None:
    """While record 0 is at work, its successor's finished result is held back; another partition goes on."""
    async with running(FakeStage(concurrency=1), budget=4) as bench:
        bench.stage.gate.clear()
        await bench.feed(Request(0), Request(1, b"bad"), Request(0, b"bad", partition=1))
        await until(lambda: bench.pipeline.positions()[P1] == 1)
        assert bench.published("dead-letters") == [0]
        assert bench.pipeline.positions()[P0] == 0
        bench.stage.gate.set()
        await bench.finished()
        assert bench.pipeline.positions()[P0] == 2
        assert bench.published("dead-letters") == [0, 1]


async def test_one_publication_of_a_partition_at_a_time(bench: Bench) -> None:
    """What settles while receipts are awaited is not sent beside them: a slow first call could land behind it."""
    bench.publisher.hold()
    await bench.feed(Request(0), Request(0, partition=1))
    await until(lambda: bench.published() == [0, 0])
    await bench.feed(Request(1, b"bad"))
    await asyncio.sleep(0.01)
    assert bench.published("dead-letters") == []
    bench.publisher.release()
    await bench.finished()
    assert bench.published("dead-letters") == [1]


async def test_the_position_passes_what_the_fetch_skipped(bench: Bench) -> None:
    """Transaction markers and compacted offsets behind the last record are committed over, once it is done."""
    bench.publisher.hold()
    await bench.feed(Request(3), Request(7), reach={P0: 12, P1: 5})
    await until(lambda: bench.published() == [3, 7])
    assert bench.pipeline.positions()[P0] == 3
    assert bench.pipeline.positions()[P1] == 5
    bench.publisher.release()
    await bench.finished()
    assert bench.pipeline.positions()[P0] == 12


async def test_a_record_without_results_is_acknowledged(bench: Bench) -> None:
    """A stage may have nothing to publish for a record; the position passes it."""
    await bench.feed(Request(0, b"silent"), Request(1))
    await bench.finished()
    assert bench.published() == [1]
    assert bench.pipeline.positions()[P0] == 2


async def test_tombstones_pass_without_the_model_and_in_order(bench: Bench) -> None:
    """What `prepare` answers itself is published between its neighbours' results."""
    await bench.feed(Request(0), Request(1, None), Request(2))
    await bench.finished()
    assert [record.value for record in bench.publisher.on("results")] == [b"0", None, b"2"]
    assert sorted(n for batch in bench.stage.batches for n in batch) == [0, 2]


# -- failures of records --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 100), st.data())
def test_a_poisoned_batch_is_halved_until_the_poison_stands_alone(rows: int, data: st.DataObject) -> None:
    """One poison in n rows costs at most two more calls a halving, and only the poison is a dead letter."""
    poison = data.draw(st.integers(0, rows - 1))

    async def stream() -> None:
        async with running() as bench:
            await bench.feed(*(Request(n, b"poison" if n == poison else b"benign") for n in range(rows)))
            await bench.finished()
            assert bench.published() == [n for n in range(rows) if n != poison]
            assert bench.published("dead-letters") == [poison]
            assert bench.reasons() == ["embedding-failed"]
            assert len(bench.stage.batches) <= 1 + 2 * ceil(log2(rows))

    asyncio.run(stream())


async def test_many_poisons_in_a_batch_are_all_found(bench: Bench) -> None:
    """Every neighbour is answered, every poison is a dead letter, in order."""
    await bench.feed(*(Request(n, b"poison" if n % 3 == 0 else b"benign") for n in range(20)))
    await bench.finished()
    assert bench.published() == [n for n in range(20) if n % 3]
    assert bench.published("dead-letters") == list(range(0, 20, 3))


async def test_a_reject_that_run_raises_for_one_record_is_its_reason(bench: Bench) -> None:
    """The stage names other exceptions; a Reject has a name already."""
    await bench.feed(Request(0), Request(1, b"rejects its batch"), Request(2))
    await bench.finished()
    assert bench.published() == [0, 2]
    assert bench.reasons() == ["result-too-large"]


async def test_a_record_that_breaks_prepare_stands_alone_too(bench: Bench) -> None:
    """An exception that `prepare` did not foresee costs its record, not the neighbours and not the worker."""
    await bench.feed(*(Request(n, b"breaks prepare" if n == 5 else b"fine") for n in range(9)))
    await bench.finished()
    assert bench.published() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert bench.published("dead-letters") == [5]
    assert not bench.crashes


async def test_rejects_of_every_step_become_dead_letters_in_order(bench: Bench) -> None:
    """Refused by prepare, by run, or alone in a failing batch: each with its own reason."""
    script = [b"bad", b"fine", b"poison", b"refuse", b"bad", b"late"]
    await bench.feed(*(Request(n, value) for n, value in enumerate(script)))
    await bench.finished()
    assert bench.published() == [1]
    assert bench.published("dead-letters") == [0, 2, 3, 4, 5]
    assert bench.reasons() == ["bad-bytes", "embedding-failed", "bad-bytes", "bad-bytes", "expired"]


async def test_a_record_whose_deadline_passed_in_the_queue_never_reaches_the_model(bench: Bench) -> None:
    """Nobody waits for its answer any more: it is refused, and costs no work."""
    await bench.feed(Request(0, b"late"), Request(1))
    await bench.finished()
    assert bench.stage.batches == [[1]]
    assert bench.reasons() == ["expired"]


async def test_a_result_that_the_broker_refuses_becomes_a_dead_letter(bench: Bench) -> None:
    """Its neighbours' results are published; several refused ones follow as dead letters in order."""
    bench.publisher.refuse = lambda record: (
        ResultTooLarge("too large") if record.topic == "results" and record.value in {b"1", b"3"} else None
    )
    await bench.feed(*(Request(n) for n in range(5)))
    await bench.finished()
    assert bench.published() == [0, 2, 4]
    assert bench.published("dead-letters") == [1, 3]
    assert bench.reasons() == ["result-too-large"] * 2
    assert bench.pipeline.positions()[P0] == 5


async def test_dead_letters_follow_offsets_in_whatever_order_results_were_refused() -> None:
    """The broker may refuse the later of two results first."""

    class Reversing(InMemoryPublisher):
        async def publish(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]:
            return dict(reversed((await super().publish(records)).items()))

    publisher = Reversing(refuse=lambda record: ResultTooLarge("") if record.topic == "results" else None)
    async with running(publisher=publisher) as bench:
        await bench.feed(Request(0), Request(1), Request(2))
        await bench.finished()
        assert bench.published("dead-letters") == [0, 1, 2]


# -- a world that is not ready --------------------------------------------------------------------------------


async def test_prepare_waits_for_the_world_and_then_goes_on(bench: Bench) -> None:
    """Retry means again, with the same records, for as long as it takes; nobody is refused, and liveness knows."""
    bench.stage.away = [Retry("registry away")] * 20
    bench.pipeline.progressed = 0.0
    await bench.feed(Request(0), Request(1))
    await until(lambda: bench.pipeline.progressed > 0)
    await bench.finished()
    assert bench.stage.prepared == [[0, 1]] * 21
    assert bench.published() == [0, 1]
    assert bench.published("dead-letters") == []


async def test_run_waits_for_the_world_and_then_goes_on(bench: Bench) -> None:
    """An outage during the work itself (the registry when results are encoded) makes no dead letters either."""
    bench.stage.run_away = [Retry("registry away")] * 20
    await bench.feed(Request(0), Request(1, b"poison"), Request(2))
    await bench.finished()
    assert bench.published() == [0, 2]
    assert bench.reasons() == ["embedding-failed"]


class AwayForGood(list[Exception]):
    """A world that is never ready."""

    def __bool__(self) -> bool:
        return True

    def pop(self, index: Any = 0) -> Exception:
        return Retry("away for good")


async def test_prepare_gives_up_once_a_rebalance_begins(bench: Bench) -> None:
    """The partitions' next owner will see to what this worker could not prepare."""
    bench.stage.away = AwayForGood()
    await bench.feed(*(Request(n) for n in range(300)))
    await until(lambda: len(bench.stage.prepared) > 6)
    bench.pipeline.suspend()
    await until(lambda: not bench.pipeline._tasks)
    assert not bench.publisher.records
    assert not bench.crashes


async def test_run_gives_up_once_a_rebalance_begins(bench: Bench) -> None:
    """A drain does not wait for a world that may never be ready."""
    bench.stage.run_away = AwayForGood()
    await bench.feed(Request(0))
    await until(lambda: len(bench.stage.batches) > 3)
    bench.pipeline.suspend()
    assert await bench.pipeline.drain(10)
    assert not bench.publisher.records
    assert bench.pipeline.positions()[P0] == 0


# -- rebalance and end ----------------------------------------------------------------------------------------


async def test_a_rebalance_publishes_what_the_model_holds_and_drops_what_is_queued() -> None:
    """After suspend and drain the positions say exactly what was published."""
    async with running(budget=8) as bench:
        bench.stage.gate.clear()
        await bench.feed(*(Request(n) for n in range(6)))  # four tokens each: two rows a batch
        await asyncio.to_thread(bench.stage.running.wait, 10)
        bench.pipeline.suspend()
        assert bench.pipeline.queued("requests") == (0, 0)
        bench.stage.gate.set()
        await settled(bench)
        taken = bench.stage.batches[0]
        assert len(bench.stage.batches) == 1
        assert bench.published() == taken == [0, 1]
        assert bench.pipeline.positions()[P0] == 2


async def test_a_result_behind_a_dropped_record_is_not_published() -> None:
    """A hole stays a hole: what lies above it comes again with the next fetch."""
    async with running(budget=6) as bench:
        bench.stage.gate.clear()
        await bench.feed(Request(0, b"123456"), Request(1, b"12345"))
        await asyncio.to_thread(bench.stage.running.wait, 10)
        await bench.feed(Request(2, b"bad"))
        bench.pipeline.suspend()
        bench.stage.gate.set()
        await settled(bench)
        assert bench.published() == [0]
        assert bench.published("dead-letters") == []
        assert bench.pipeline.positions()[P0] == 1


async def test_late_results_of_a_lost_partition_are_nobodys() -> None:
    """What a thread finishes after the new assignment is neither published nor acknowledged."""
    async with running(budget=8) as bench:
        bench.stage.gate.clear()
        await bench.feed(Request(0), Request(1))
        await asyncio.to_thread(bench.stage.running.wait, 10)
        bench.pipeline.suspend()
        assert not await bench.pipeline.drain(0)
        bench.pipeline.assign({P0: 0})
        bench.stage.gate.set()
        await settled(bench)
        assert not bench.publisher.records
        assert bench.pipeline.positions() == {P0: 0}
        await bench.feed(Request(0), Request(1))
        await bench.finished()
        assert bench.published() == [0, 1]
        assert bench.pipeline.positions() == {P0: 2}


async def test_receipts_that_come_after_the_assignment_do_not_move_the_new_position(bench: Bench) -> None:
    """The watermark of the old assignment and that of the new one are different things."""
    bench.publisher.hold()
    await bench.feed(Request(0), Request(1))
    await until(lambda: bench.published() == [0, 1])
    bench.pipeline.suspend()
    bench.pipeline.assign({P0: 0})
    bench.publisher.release()
    await asyncio.sleep(0.01)
    assert bench.pipeline.positions() == {P0: 0}
    assert not bench.crashes


async def test_a_fetch_of_an_earlier_epoch_is_ignored(bench: Bench) -> None:
    """A rebalance that overtakes a fetch makes it void, and so does an assignment alone."""
    for change in (bench.pipeline.suspend, lambda: bench.pipeline.assign({P1: 0})):
        epoch = bench.pipeline.epoch
        change()
        await bench.pipeline.accept(epoch, {P0: [Request(0)]}, {P0: 1})
    assert bench.pipeline.pending() == 0
    assert bench.stage.prepared == []
    assert not bench.crashes


async def test_an_assignment_starts_at_its_positions(bench: Bench) -> None:
    """Each partition stands at the offset of its next record; others are gone."""
    bench.pipeline.assign({P0: 41, P1: 0})
    assert bench.pipeline.positions() == {P0: 41, P1: 0}
    await bench.feed(Request(41))
    await bench.finished()
    assert bench.pipeline.positions() == {P0: 42, P1: 0}


async def test_drain_says_when_time_was_too_short(bench: Bench) -> None:
    """A publisher without a broker holds results back for longer than anybody may wait."""
    bench.publisher.hold()
    await bench.feed(Request(0))
    await until(lambda: bench.published() == [0])
    assert not await bench.pipeline.drain(0.01)
    bench.publisher.release()
    assert await bench.pipeline.drain(10)


async def test_after_the_end_nothing_is_published() -> None:
    """A batch that outlives the drain finds nobody: its records come again elsewhere."""
    async with running(budget=8) as bench:
        bench.stage.gate.clear()
        await bench.feed(Request(0), Request(1), Request(2))
        await asyncio.to_thread(bench.stage.running.wait, 10)
        await bench.pipeline.stop()
        bench.stage.gate.set()
        await settled(bench)
        assert not bench.publisher.records
        assert len(bench.stage.batches) == 1
        assert not bench.crashes


async def test_the_end_does_not_wait_for_receipts(bench: Bench) -> None:
    """Stop cancels what is being published; it is not acknowledged, so it comes again."""
    bench.publisher.hold()
    await bench.feed(Request(0))
    await until(lambda: bench.published() == [0])
    async with asyncio.timeout(10):
        await bench.pipeline.stop()
    assert bench.pipeline.positions()[P0] == 0
    assert not bench.crashes


# -- back-pressure --------------------------------------------------------------------------------------------


async def has_room(bench: Bench, topic: str = "requests") -> bool:
    """Tells whether the fetch loop of a lane may go on."""
    waiting = asyncio.ensure_future(bench.pipeline.room(topic))
    await asyncio.sleep(0)
    return waiting.done() or not waiting.cancel()


@pytest.mark.parametrize("limits", [{"max_records": 2}, {"max_bytes": 2 * (3 * 4 + 3)}], ids=["records", "bytes"])
async def test_a_full_lane_stops_its_own_fetching_until_receipts_are_in(limits: dict[str, int]) -> None:
    """Two records of four bytes, with a key of three, fill it: a value counts as itself, as text and as result."""
    async with running(**limits) as bench:
        bench.publisher.hold()
        await bench.feed(Request(0))
        assert await has_room(bench)
        await bench.feed(Request(1))
        assert not await has_room(bench)
        assert await has_room(bench, "urgent")
        bench.publisher.release()
        await bench.finished()
        assert await has_room(bench)


async def test_room_is_given_back_once_whatever_becomes_of_a_record() -> None:
    """Queued, at work, being published or refused when the partitions are lost: afterwards the lane is empty."""
    async with running(budget=4, max_records=5) as bench:
        bench.publisher.hold()
        await bench.feed(Request(0, b"bad"))
        await until(lambda: bool(bench.publisher.records))
        bench.stage.gate.clear()
        await bench.feed(Request(1), Request(2), Request(3, b"bad"), Request(4))
        await asyncio.to_thread(bench.stage.running.wait, 10)
        assert not await has_room(bench)
        bench.pipeline.assign({P0: 0})
        bench.stage.gate.set()
        bench.publisher.release()
        await settled(bench)
        await asyncio.sleep(0.01)
        bench.publisher.hold()
        await bench.feed(*(Request(n) for n in range(4)))
        assert await has_room(bench), "four of five places are taken"
        await bench.feed(Request(4))
        assert not await has_room(bench), "five of five places are taken"


# -- crashes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"exit", b"miscount"])
async def test_the_end_of_a_model_thread_is_reported(bench: Bench, value: bytes) -> None:
    """An exception that no record explains, or a stage that does not answer for all, ends the process."""
    await bench.feed(Request(0, value))
    await until(lambda: bool(bench.crashes))
    assert isinstance(bench.crashes[0], SystemExit if value == b"exit" else ValueError)
    assert not bench.publisher.records
    assert bench.pipeline.positions()[P0] == 0


async def test_an_impossible_fetch_is_reported(bench: Bench) -> None:
    """A record that comes twice is a bug in the transport: its agent would only log it and lose the records."""
    await bench.feed(Request(0))
    await bench.finished()
    await bench.feed(Request(0))
    assert isinstance(bench.crashes[0], ValueError)


async def test_a_publisher_that_fails_is_reported() -> None:
    """Its bug must not leave results waiting for ever."""

    class Broken(InMemoryPublisher):
        async def publish(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]:
            raise LookupError("a bug")

    async with running(publisher=Broken()) as bench:
        await bench.feed(Request(0))
        await until(lambda: bool(bench.crashes))
        assert isinstance(bench.crashes[0], LookupError)
        assert bench.pipeline.positions()[P0] == 0


async def test_a_dead_letter_that_is_refused_holds_its_partition(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping the record is no way out: the partition waits, the other goes on, and all is well once it is taken."""
    monkeypatch.setattr(pipeline_module, "REFUSED_PAUSE", 0.01)
    bench.publisher.refuse = lambda record: ResultTooLarge("too large") if record.topic == "dead-letters" else None
    await bench.feed(Request(0, b"bad"), Request(1), Request(0, partition=1))
    await until(lambda: bench.pipeline.positions()[P1] == 1)
    await asyncio.sleep(0.05)
    assert bench.pipeline.positions()[P0] == 0
    assert bench.alerts[0] == ("dead-letter-refused", "requests/0", Severity.CRITICAL)
    bench.pipeline.progressed = 0.0
    await until(lambda: bench.pipeline.progressed > 0)  # to start again would not help: liveness holds
    bench.publisher.refuse = lambda _: None
    await bench.finished()
    assert bench.reasons() == ["bad-bytes"]
    assert sorted(bench.published()) == [0, 1]


# -- figures --------------------------------------------------------------------------------------------------


async def test_records_are_counted_by_outcome(bench: Bench) -> None:
    """Answered, or a dead letter and why; by lane."""
    await bench.feed(Request(0), Request(1, b"bad"), Request(2), Request(3, None))
    await bench.feed(Request(0, b"poison", topic="urgent"))
    await bench.finished()
    await settled(bench)
    count = bench.metrics.registry.get_sample_value
    assert count("streams_records_total", {"lane": "bulk", "outcome": "answered"}) == 3
    assert count("streams_records_total", {"lane": "bulk", "outcome": "dead_letter"}) == 1
    assert count("streams_records_total", {"lane": "interactive", "outcome": "dead_letter"}) == 1
    assert count("streams_dead_letters_total", {"stage": "decode", "reason": "bad-bytes"}) == 1
    assert count("streams_dead_letters_total", {"stage": "embed", "reason": "embedding-failed"}) == 1


async def test_every_step_of_a_record_is_timed(bench: Bench) -> None:
    """Prepared, queued, run, published: each is observed once for one record, and the steps do not overlap."""
    await bench.feed(Request(0))
    await bench.finished()
    await settled(bench)
    count = bench.metrics.registry.get_sample_value
    for step in ("prepare", "queue", "run", "publish", "total"):
        assert count("streams_stage_seconds_count", {"stage": "fake", "step": step}) == 1
    queue, publish, total = (
        count("streams_stage_seconds_sum", {"stage": "fake", "step": step}) or 0.0
        for step in ("queue", "publish", "total")
    )
    assert queue + publish <= total + 1e-9


async def test_the_queue_of_a_lane_is_told_in_records_and_tokens() -> None:
    """What waits for the model, not what it holds already."""
    async with running(budget=4) as bench:
        bench.stage.gate.clear()
        await bench.feed(Request(0))
        await asyncio.to_thread(bench.stage.running.wait, 10)
        await bench.feed(Request(1, b"twelve bytes"), Request(2, b"four"))
        assert bench.pipeline.queued("requests") == (2, 16)
        assert bench.pipeline.queued("urgent") == (0, 0)
        assert bench.pipeline.pending() == 3


# -- retries, holds and suspects --------------------------------------------------------------------------------


async def test_a_world_that_is_not_ready_holds_only_the_partition_concerned() -> None:
    """While one partition waits to be prepared nothing more of it is wanted; the others go on, and so does the lane."""
    stage = FakeStage(away=AwayForGood())
    async with running(stage, max_records=2) as bench:
        await bench.feed(Request(0), Request(1))
        await until(lambda: not bench.pipeline.fetchable(P0))
        assert bench.pipeline.fetchable(P1)
        stage.away = []
        await bench.finished()
        assert bench.pipeline.fetchable(P0)
        assert bench.published() == [0, 1]


async def test_a_held_partition_takes_no_room_from_its_lane() -> None:
    """What waits for another try does not count, so the lane's other partitions are still fetched."""
    stage = FakeStage(away=AwayForGood())
    async with running(stage, max_records=2) as bench:
        await bench.feed(Request(0), Request(1))
        await until(lambda: not bench.pipeline.fetchable(P0))
        async with asyncio.timeout(5):
            await bench.pipeline.room("requests")
        stage.away = []
        await bench.finished()


@pytest.mark.parametrize(
    ("tries", "waited", "delay"),
    [(1, 0, 1.0), (2, 0, 5.0), (3, 0, 30.0), (4, 0, 30.0), (5, 0, None), (1, 60, None), (1, 59, 1.0)],
)
def test_delays_grow_in_tiers_up_to_both_caps(tries: int, waited: float, delay: float | None) -> None:
    """Five tries or sixty seconds, whichever comes first."""
    assert Retries(attempts=5, seconds=60, delays=(1.0, 5.0, 30.0)).delay(tries, waited) == delay


async def test_a_record_that_fails_once_is_tried_again_alone_and_in_order() -> None:
    """Its second try succeeds; the records behind it on the partition wait for it, so order per key holds."""
    async with running(retries=Retries(attempts=2, delays=(0.0,))) as bench:
        await bench.feed(Request(0), Request(1, b"fails once"), Request(2))
        await bench.finished()
        assert bench.published() == [0, 1, 2]
        assert bench.stage.batches[-1] == [1]
        assert bench.published("dead-letters") == []


async def test_whoever_waits_for_its_next_try_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay may be longer than liveness allows: to kill the process for it would accuse the record of killing."""
    monkeypatch.setattr(pipeline_module, "SIGN", 0.001)
    async with running(FakeStage(), retries=Retries(2, delays=(60.0,))) as bench:
        await bench.feed(Request(0, b"poison"))
        await until(lambda: not bench.pipeline.fetchable(P0))
        bench.pipeline.progressed = 0.0
        await until(lambda: bench.pipeline.progressed > 0)


async def test_a_model_that_hangs_is_not_excused_by_what_waits_for_the_broker(bench: Bench) -> None:
    """Signs of life of the one say nothing about the other."""
    bench.stage.gate.clear()
    await bench.feed(Request(0))
    await until(bench.stage.running.is_set)
    bench.pipeline.progressed = 0.0
    bench.pipeline.still_alive()
    assert bench.pipeline.progressed == 0.0
    bench.stage.gate.set()
    await bench.finished()
    bench.pipeline.progressed = 0.0
    bench.pipeline.still_alive()
    assert bench.pipeline.progressed > 0


async def test_a_record_that_always_fails_becomes_a_dead_letter_with_every_error() -> None:
    """After the last try the dead letter says how often it was tried and what each try raised."""
    async with running(retries=Retries(attempts=3, delays=(0.0,))) as bench:
        await bench.feed(Request(0), Request(1, b"poison"), Request(2))
        await bench.finished()
        assert bench.published() == [0, 2]
        (letter,) = bench.publisher.on("dead-letters")
        why = (dict(letter.headers)["why"] or b"").decode()
        assert why == "poisoned, tried 3 times: RuntimeError, RuntimeError, RuntimeError"


async def test_running_out_of_memory_makes_batches_smaller() -> None:
    """A batch the machine cannot hold is halved, and so is the budget of all that follow."""
    async with running(budget=1000) as bench:
        await bench.feed(Request(0), Request(1, b"out of memory"))
        await bench.finished()
        assert bench.published() == [0, 1]
        assert bench.pipeline._batcher.budget == 500


async def test_suspects_are_taken_one_at_a_time_and_named_before_they_are_touched() -> None:
    """Where a process died, each record is committed as the suspect, then prepared, run and published alone."""
    notes: list[tuple[int, str, int]] = []

    async def remember(tp: TopicPartition, position: int, metadata: str) -> None:
        out = sum(record.key == b"key" for record in bench.publisher.records)
        notes.append((position, metadata, out))

    async with running(remember=remember, suspicions={P0: Suspicion.parse("suspect 2 0 0", 0)}) as bench:
        await bench.feed(Request(0), Request(1), Request(0, partition=1, key=b"other"))
        await bench.finished()
        # Touched; named and, before anything of it is out, not named any more; and the next one.
        assert [note for note in notes if note[1] != "suspect 1 0 0"] == [
            (0, "suspect 3 0 0", 0),
            (0, "suspect 3 0 1", 0),
            (0, "", 0),
            (1, "suspect 3 1 1", 1),
            (1, "", 1),
        ]
        assert [0, 1] not in bench.stage.batches
        assert bench.stage.prepared.count([0]) >= 1


async def test_one_suspect_of_all_partitions_is_tried_at_a_time() -> None:
    """While one record hangs alone, no other partition's record is named: a death must not accuse who only waited."""
    named: list[TopicPartition] = []

    async def remember(tp: TopicPartition, _: int, metadata: str) -> None:
        if Suspicion.parse(metadata, 0).times:
            named.append(tp)

    suspicion = Suspicion.parse("suspect 2 0 0", 0)
    async with running(remember=remember, suspicions={P0: suspicion, P1: suspicion}) as bench:
        bench.stage.gate.clear()
        await bench.feed(Request(0), Request(0, partition=1))
        await until(bench.stage.running.is_set)
        await asyncio.sleep(0.05)
        assert len(named) == 1
        bench.stage.gate.set()
        await bench.finished()
        assert sorted(named) == [P0, P1]


@dataclass
class Notes:
    """What the pipeline has committed as its suspects, as `remember` gets it."""

    named: list[tuple[TopicPartition, int]] = field(default_factory=list)
    now: set[TopicPartition] = field(default_factory=set)  # partitions with a name at present

    async def __call__(self, tp: TopicPartition, _: int, metadata: str) -> None:
        note = Suspicion.parse(metadata, 0)
        self.now.discard(tp)
        if note.times:
            self.now.add(tp)
            self.named.append((tp, note.offset))


SUSPECT = Suspicion.parse("suspect 2 0 0", 0)


@pytest.mark.parametrize("threads", [1, 2])
async def test_nobody_is_named_while_a_batch_of_others_runs(threads: int) -> None:
    """It might be that batch over which the process dies."""
    notes = Notes()
    async with running(FakeStage(threads), remember=notes, suspicions={P0: SUSPECT}) as bench:
        bench.stage.gate.clear()
        await bench.feed(Request(0, partition=1))
        await until(bench.stage.running.is_set)
        await bench.feed(Request(0))
        await asyncio.sleep(0.05)
        assert notes.named == []
        bench.stage.gate.set()
        await bench.finished()
        assert notes.named == [(P0, 0)]


async def test_nobody_is_named_while_others_are_prepared() -> None:
    """A text can kill the tokeniser, too."""
    notes, stage = Notes(), SlowToPrepare()
    async with running(stage, remember=notes, suspicions={P0: SUSPECT}) as bench:
        stage.may_prepare.clear()
        other = asyncio.create_task(bench.feed(Request(0, topic="urgent")))
        await asyncio.to_thread(stage.preparing.wait, 10)
        await bench.feed(Request(0))
        await asyncio.sleep(0.05)
        assert notes.named == []
        stage.may_prepare.set()
        await other
        await bench.finished()
        assert notes.named == [(P0, 0)]


@dataclass
class SlowToPrepare(FakeStage):
    """Prepares when it may."""

    may_prepare: threading.Event = field(default_factory=threading.Event)
    preparing: threading.Event = field(default_factory=threading.Event)

    def prepare(self, records: Sequence[Record]) -> list[FakeWork | list[Outgoing] | Reject]:
        self.preparing.set()
        assert self.may_prepare.wait(10)
        return super().prepare(records)


@pytest.mark.parametrize("threads", [1, 2])
async def test_while_one_is_named_nobody_else_is_touched(threads: int) -> None:
    """Others are neither prepared nor run until its name was taken back; then they are."""
    notes = Notes()
    async with running(FakeStage(threads), remember=notes, suspicions={P0: SUSPECT}) as bench:
        bench.stage.gate.clear()
        await bench.feed(Request(0))
        await until(bench.stage.running.is_set)
        assert notes.now == {P0}
        other = asyncio.create_task(bench.feed(Request(0, partition=1)))
        await asyncio.sleep(0.05)
        assert bench.stage.prepared == bench.stage.batches == [[0]]
        bench.stage.gate.set()
        await other
        await bench.finished()
        assert notes.now == set()
        assert bench.stage.batches == [[0], [0]]


async def test_half_of_the_time_belongs_to_everybody_else() -> None:
    """Between one suspect and the next, of whatever partition, what others have queued goes on."""
    order: list[str] = []

    class Noting(FakeStage):
        def run(self, batch: Sequence[FakeWork]) -> list[list[Outgoing] | Reject]:
            order.append(batch[0].record.topic)
            time.sleep(0.03)
            return super().run(batch)

    async with running(Noting(), budget=4, remember=Notes(), suspicions={P0: SUSPECT, P1: SUSPECT}) as bench:
        others = [Request(n, topic="urgent") for n in range(12)]
        await bench.feed(*others, *(Request(n % 2, partition=n // 2) for n in range(4)))
        await bench.finished()
        assert order.count("requests") == 4
        first, last = order.index("requests"), len(order) - 1 - order[::-1].index("requests")
        assert "urgent" in order[first:last]


async def test_a_suspect_that_only_fails_is_no_suspect_any_more() -> None:
    """It has not killed: its name is taken back before it is tried again, among all others."""
    notes = Notes()
    async with running(remember=notes, retries=Retries(attempts=2, delays=(0.2,)), suspicions={P0: SUSPECT}) as bench:
        await bench.feed(Request(0, b"fails once"), Request(0, partition=1))
        await until(lambda: bench.pipeline.positions()[P1] == 1)
        assert notes.named == [(P0, 0)]
        assert notes.now == set()
        assert bench.pipeline.positions()[P0] == 0, "not tried again yet"
        await bench.finished()
        assert notes.named == [(P0, 0)]
        assert sorted(bench.published()) == [0, 0]


async def test_a_world_that_is_not_ready_accuses_nobody() -> None:
    """Whoever is named while the registry is away is named again afterwards, as once."""
    seen: list[int] = []

    async def remember(_: TopicPartition, __: int, metadata: str) -> None:
        seen.append(Suspicion.parse(metadata, 0).times)

    stage = FakeStage(away=[Retry("registry away")] * 5)
    async with running(stage, remember=remember, suspicions={P0: SUSPECT}) as bench:
        await bench.feed(Request(0))
        await bench.finished()
        assert set(seen) == {0, 1}
        assert bench.published() == [0]


async def test_a_rebalance_ends_a_trial() -> None:
    """Whoever waits for silence gives up, and whatever is new is taken."""
    notes = Notes()
    async with running(remember=notes, suspicions={P0: SUSPECT}) as bench:
        bench.stage.gate.clear()
        await bench.feed(Request(0, partition=1))
        await until(bench.stage.running.is_set)
        await bench.feed(Request(0))
        bench.pipeline.assign({P1: 0})
        bench.stage.gate.set()
        await bench.feed(Request(0, partition=1))
        await bench.finished()
        assert notes.named == []
        assert bench.pipeline.positions() == {P1: 1}


# -- what cannot be read ----------------------------------------------------------------------------------------


def unreadable(offset: int) -> Any:
    """A record that the transport could not make one of."""
    return Unreadable("requests", 0, offset, 0, 0, b"key", b"value", (), InvalidField("a header's name is not UTF-8"))


async def test_what_cannot_be_read_becomes_a_dead_letter_in_its_place(bench: Bench) -> None:
    """No stage sees it; its neighbours are answered, and the position passes it."""
    await bench.feed(Request(0), unreadable(1), Request(2))
    await bench.finished()
    assert bench.published() == [0, 2]
    assert bench.published("dead-letters") == [1]
    assert bench.reasons() == ["invalid-field"]
    assert bench.stage.prepared == [[0, 2]]
    assert bench.pipeline.positions()[P0] == 3


async def test_what_cannot_be_read_is_no_suspect() -> None:
    """Among suspects it is passed over: nothing of it is touched."""
    notes = Notes()
    async with running(remember=notes, suspicions={P0: SUSPECT}) as bench:
        await bench.feed(unreadable(0), Request(1), unreadable(2))
        await bench.finished()
        assert bench.published("dead-letters") == [0, 2]
        assert notes.named == [(P0, 1)]


async def test_a_refused_record_is_let_go_of(bench: Bench) -> None:
    """Where it was refused must not keep it, and all it came with, until the garbage is collected some day."""
    request = Request(0, b"rejects its batch")
    gone = weakref.ref(request)
    gc.disable()
    try:
        await bench.feed(request)
        await bench.finished()
        await settled(bench)
        del request
        await bench.feed(Request(1))
        await bench.finished()
        assert gone() is None
    finally:
        gc.enable()


async def test_a_record_over_which_processes_died_alone_becomes_a_dead_letter() -> None:
    """It is not touched again; its neighbours are answered."""
    suspicion = Suspicion.parse("suspect 4 1 2", 1)
    async with running(retries=Retries(attempts=2), suspicions={P0: suspicion}) as bench:
        await bench.feed(Request(1), Request(2))
        await bench.finished()
        assert bench.published() == [2]
        assert bench.reasons() == ["killer"]
        assert [1] not in bench.stage.prepared
