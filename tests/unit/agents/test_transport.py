"""The transport: commits in the generation they were meant for, fetches that are bounded, seeks that are not stale."""

import asyncio
import math
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    RebalanceInProgressError,
)
from aiokafka.structs import OffsetAndMetadata

from agents import transport
from agents.batches import Broken, Damaged
from agents.transport import Consumer, ConsumerThread, Fetch
from streams.records import TopicPartition

P0, P1 = TopicPartition("requests", 0), TopicPartition("requests", 1)
NOTES = {P0: OffsetAndMetadata(7, "")}


class Coordinator:
    """Stands for aiokafka's: answers commits with the given errors, one after the other, then takes them."""

    def __init__(self, *errors: KafkaError) -> None:
        self.generation = 5
        self.commits: list[Any] = []
        self._errors = list(errors)
        self._commit_lock = asyncio.Lock()

    async def ensure_coordinator_known(self) -> None:
        """Is where aiokafka waits for the broker: a rebalance may pass meanwhile."""

    async def _do_commit_offsets(self, _: object, offsets: Any) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self.commits.append(offsets)


async def commit(coordinator: Coordinator, notes: Any = NOTES, generation: int = 5) -> bool:
    """Commits as a member that holds partition 0."""
    thread = ConsumerThread.__new__(ConsumerThread)
    consumer = SimpleNamespace(_coordinator=coordinator, assignment=lambda: {P0})
    thread._ensure_consumer = lambda: consumer  # type: ignore[method-assign]
    return await thread.commit_notes(notes, generation)


async def test_commits_what_is_assigned() -> None:
    """Partitions that are not ours any more are left out."""
    coordinator = Coordinator()
    assert await commit(coordinator, {**NOTES, P1: OffsetAndMetadata(9, "")})
    assert coordinator.commits == [NOTES]


async def test_nothing_of_ours_is_no_commit() -> None:
    """aiokafka would raise for an empty commit."""
    coordinator = Coordinator()
    assert not await commit(coordinator, {P1: OffsetAndMetadata(9, "")})
    assert coordinator.commits == []


@pytest.mark.parametrize("generation", [-1, 4, 6])
async def test_another_generation_is_no_commit(generation: int) -> None:
    """An old watermark must not be committed by the member that this process has become since."""
    coordinator = Coordinator()
    assert not await commit(coordinator, generation=generation)
    assert coordinator.commits == []


async def test_a_rebalance_while_the_broker_is_away_ends_the_commit() -> None:
    """The generation counts at the moment of each request, not when the commit was asked for."""
    coordinator = Coordinator()

    async def rejoin() -> None:
        coordinator.generation = 6

    coordinator.ensure_coordinator_known = rejoin  # type: ignore[method-assign]
    assert not await commit(coordinator)
    assert coordinator.commits == []


async def test_a_broker_that_is_not_ready_is_asked_again() -> None:
    """What can be retried is, until it works."""
    coordinator = Coordinator(GroupCoordinatorNotAvailableError(), GroupCoordinatorNotAvailableError())
    assert await commit(coordinator)
    assert coordinator.commits == [NOTES]


async def test_a_rebalance_refuses_the_commit() -> None:
    """The broker's word that the generation is over is an answer, not an error."""
    assert not await commit(Coordinator(RebalanceInProgressError()))


async def test_what_cannot_be_retried_is_raised() -> None:
    """A group that this user may not commit for is an error to be seen."""
    with pytest.raises(GroupAuthorizationFailedError):
        await commit(Coordinator(GroupAuthorizationFailedError()))


# -- fetches --------------------------------------------------------------------------------------------------


class Fetched:
    """Stands for aiokafka's consumer: gives what it has of each partition, one getmany after the other."""

    def __init__(self, records: dict[TopicPartition, list[Any]]) -> None:
        self.records = {tp: deque(found) for tp, found in records.items()}

    def assignment(self) -> set[TopicPartition]:
        return set(self.records)

    async def getmany(self, *tps: TopicPartition, timeout_ms: int = 0, max_records: int) -> dict[Any, list[Any]]:
        taken: dict[Any, list[Any]] = {}
        for tp in tps:
            while self.records[tp] and max_records:
                taken.setdefault(tp, []).append(self.records[tp].popleft())
                max_records -= 1
        return taken

    async def position(self, _: TopicPartition) -> int:
        return 0


def sized(*sizes: int) -> list[Any]:
    """Records with values of so many bytes."""
    return [SimpleNamespace(value=bytes(size)) for size in sizes]


def thread(records: dict[TopicPartition, list[Any]], fetchable: Any = lambda _: True) -> tuple[ConsumerThread, Fetched]:
    """The consumer's thread, with what aiokafka has ready."""
    consumer, made = Fetched(records), ConsumerThread.__new__(ConsumerThread)
    made._ensure_consumer = lambda: consumer  # type: ignore[method-assign]
    made._damaged = {}
    made.app = SimpleNamespace(pipeline=SimpleNamespace(fetchable=fetchable))
    made.consumer = SimpleNamespace(flow_active=True)
    return made, consumer


async def test_a_fetch_takes_of_every_partition() -> None:
    """All that is there, in order, where it is not too much."""
    found, _ = thread({P0: sized(1, 2, 3), P1: sized(4)})
    fetch = await found.fetch("requests")
    assert fetch
    assert {tp: [len(record.value) for record in got] for tp, got in fetch.records.items()} == {P0: [1, 2, 3], P1: [4]}


async def test_a_fetch_ends_when_it_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """By records or by bytes; the rest is left for the next, and no partition is always the last."""
    monkeypatch.setattr(transport, "FETCH_RECORDS", 10)
    monkeypatch.setattr(transport, "FETCH_BYTES", 1000)
    many, consumer = thread({P0: sized(*[1] * 50), P1: sized(*[1] * 50)})
    first: set[TopicPartition] = set()
    for _ in range(8):
        fetch = await many.fetch("requests")
        assert fetch
        assert 10 <= sum(map(len, fetch.records.values())) <= 11
        first |= {tp for tp, got in fetch.records.items() if len(got) > 1}
    assert first == {P0, P1}
    large, consumer = thread({P0: sized(2000, 2000), P1: sized(2000, 2000)})
    await large.fetch("requests")
    assert any(consumer.records.values())


async def test_a_damaged_partition_waits_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies before the damage is taken; the partition is read again after a pause, others go on meanwhile."""
    monkeypatch.setattr(transport, "DAMAGED_PAUSE", 0.2)
    broken = Broken(Damaged("a byte is wrong"))
    reading, consumer = thread({P0: [*sized(1), broken], P1: sized(2)})
    fetch = await reading.fetch("requests")
    assert fetch
    assert {tp: len(got) for tp, got in fetch.records.items()} == {P0: 1, P1: 1}
    consumer.records = {P0: deque([broken]), P1: deque(sized(3))}
    fetch = await reading.fetch("requests")
    assert fetch
    assert set(fetch.records) == {P1}
    assert set(fetch.positions) == {P1}
    await asyncio.sleep(0.25)
    consumer.records = {P0: deque(sized(4)), P1: deque()}
    fetch = await reading.fetch("requests")
    assert fetch
    assert set(fetch.records) == {P0}


async def test_damage_is_told_until_it_was_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Liveness leaves out what waits behind it; a partition that was never damaged is not."""
    monkeypatch.setattr(transport, "DAMAGED_PAUSE", 0.02)
    reading, _ = thread({P0: [Broken(Damaged("bytes"))], P1: []})
    await reading.fetch("requests")
    assert (reading.damaged(P0), reading.damaged(P1)) == (True, False)
    await asyncio.sleep(0.05)
    assert not reading.damaged(P0)


class Lane:
    """A consumer that feeds one lane, from what a test has its fetches do."""

    def __init__(self, *fetches: Any) -> None:
        self.fetches = list(fetches)
        self.sent: list[Any] = []
        self.cancel_next = False
        self.consumer = Consumer.__new__(Consumer)
        self.consumer.flow_active = True
        self.consumer._fetch = self._fetch  # type: ignore[method-assign]
        pipeline = SimpleNamespace(room=self._room, epoch=1)
        self.consumer.app = SimpleNamespace(pipeline=pipeline, channels={"requests": self}, should_stop=False)

    async def _room(self, _: str) -> None:
        await asyncio.sleep(0)

    async def _fetch(self, _: str) -> Any:
        if not self.fetches:
            await asyncio.Event().wait()
        each = self.fetches.pop(0)
        if isinstance(each, BaseException):
            raise each
        return each

    async def send(self, *, value: Any) -> None:
        if self.cancel_next:
            self.cancel_next = False
            raise asyncio.CancelledError
        self.sent.append(value)

    async def run(self, count: int) -> None:
        """Drains until so many fetches were handed over, then is cancelled."""
        task = asyncio.create_task(self.consumer._drain_messages(None))
        async with asyncio.timeout(5):
            while len(self.sent) < count and not task.done():
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            raise task.exception() or AssertionError("it ended by itself")


FETCHES = [Fetch(-1, {P0: sized(1)}, {P0: at}) for at in (1, 2, 3)]


async def test_a_lane_outlives_what_is_cancelled_within_a_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane would end without a word, and its partitions would stand still."""
    monkeypatch.setattr(Consumer, "should_stop", False)
    lane = Lane(asyncio.CancelledError(), *FETCHES)
    await lane.run(3)
    assert [fetch.positions[P0] for fetch in lane.sent] == [1, 2, 3]


async def test_a_lane_outlives_a_rebalance_that_empties_its_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be handed over is void, and the lane goes on."""
    monkeypatch.setattr(Consumer, "should_stop", False)
    lane = Lane(*FETCHES)
    lane.cancel_next = True
    await lane.run(2)
    assert [fetch.positions[P0] for fetch in lane.sent] == [2, 3]


async def test_a_fetch_that_says_nothing_new_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle lane costs the pipeline nothing; a position that moved without records is news."""
    monkeypatch.setattr(Consumer, "should_stop", False)
    idle = [Fetch(-1, {}, {P0: at}) for at in (5, 5, 5, 6)]
    lane = Lane(*idle)
    await lane.run(2)
    assert [(fetch.epoch, fetch.positions[P0]) for fetch in lane.sent] == [(1, 5), (1, 6)]


async def test_a_consumer_whose_part_in_the_group_has_ended_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka gives the same error for ever then: a worker that only logged it would stand still for ever."""
    monkeypatch.setattr(Consumer, "should_stop", False)
    consumer = Consumer.__new__(Consumer)
    consumer._fetching = set()

    async def broken(_: str) -> None:
        raise KafkaError("Unexpected error during coordination")

    consumer._thread = SimpleNamespace(fetch=broken, thread_loop=asyncio.get_running_loop())  # type: ignore[assignment]
    with pytest.raises(KafkaError, match="coordination"):
        await consumer._fetch("requests")
    assert not consumer._fetching


# -- rebalances -----------------------------------------------------------------------------------------------


class Parts:
    """What a consumer works with; every call is noted in `calls`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.epoch = 0
        self.drained: list[float] = []
        self.consumer = Consumer.__new__(Consumer)
        self.consumer._between = True
        self.consumer.unsettled = 0.0
        self.consumer._fetching = set()
        self.consumer._committed = {}
        self.consumer._generation = -1
        self.consumer._thread = self.thread = SimpleNamespace(  # type: ignore[assignment]
            should_stop=False, call_thread=self._call_thread, committed="committed", commit_notes="commit_notes"
        )
        self.consumer.assignment = lambda: {P0}  # type: ignore[method-assign]
        self.consumer.seek_to_committed = self._noted("seek")  # type: ignore[method-assign]
        self.consumer.position = self._position  # type: ignore[method-assign]
        self.consumer.maybe_wait_for_commit_to_finish = self._noted("wait")  # type: ignore[method-assign]
        self.pipeline = SimpleNamespace(assign=self._assign, suspend=self._suspend, positions=dict, drain=self._drain)
        self.publisher = SimpleNamespace(assign=self._take_over, atomic=False)
        counter = SimpleNamespace(inc=lambda: None)
        metrics = SimpleNamespace(rebalances=counter, commits=SimpleNamespace(labels=lambda _: counter))
        self.consumer.app = SimpleNamespace(
            pipeline=self.pipeline,
            publisher=self.publisher,
            metrics=metrics,
            consumer_generation_id=7,
            drain_timeout=5.0,
            leave_by=math.inf,
            should_stop=False,
        )
        self._suspend()
        self.overtaken = False  # whether a rebalance begins while the publisher takes over

    def _noted(self, name: str) -> Any:
        async def note(*_: Any) -> None:
            self.calls.append(name)

        return note

    async def _position(self, _: Any) -> int:
        return 5

    async def _call_thread(self, method: str, *_: Any) -> Any:
        self.calls.append(method)
        return {P0: OffsetAndMetadata(5, "")} if method == "committed" else True

    def _assign(self, positions: Any, *_: Any) -> None:
        self.calls.append(("pipeline", dict(positions)))

    def _suspend(self) -> None:
        self.epoch += 1
        self.pipeline.epoch = self.epoch

    async def _drain(self, timeout: float) -> bool:
        self.drained.append(timeout)
        return True

    async def _take_over(self, tps: Any) -> None:
        self.calls.append(("publisher", list(tps)))
        if self.overtaken:
            self._suspend()


async def test_a_seek_takes_over_before_it_asks_where_to_begin() -> None:
    """Whoever had the partitions must be fenced before the offsets are read."""
    parts = Parts()
    parts.consumer._between = False
    await parts.consumer.perform_seek()
    assert parts.calls == [("publisher", [P0]), "seek", "committed", ("pipeline", {P0: 5})]
    assert parts.consumer._generation == 7
    assert parts.consumer.unsettled is None


async def test_a_seek_of_an_assignment_that_is_over_fences_nobody() -> None:
    """Faust may still call it when the next rebalance has begun: the partitions may have another owner by now."""
    parts = Parts()
    await parts.consumer.perform_seek()
    assert parts.calls == []


async def test_a_seek_that_a_rebalance_overtakes_while_it_waits_fences_nobody() -> None:
    """It waits for a fetch under way; what begins meanwhile makes it void."""
    parts = Parts()
    parts.consumer._between = False
    parts.consumer._fetching = {"requests"}
    seeking = asyncio.create_task(parts.consumer.perform_seek())
    await asyncio.sleep(0.02)
    parts._suspend()
    parts.consumer._fetching.clear()
    await seeking
    assert parts.calls == []


async def test_a_seek_that_a_rebalance_overtakes_assigns_nothing() -> None:
    """What was read for the old assignment is not used for the new one."""
    parts = Parts()
    parts.consumer._between, parts.overtaken = False, True
    await parts.consumer.perform_seek()
    assert parts.calls == [("publisher", [P0])]
    assert parts.consumer.unsettled is not None, "it has no place in the group yet, and liveness goes by that"


@pytest.mark.parametrize("assigned", [set(), {P0}])
async def test_a_member_waits_for_its_place_until_it_has_sought(
    monkeypatch: pytest.MonkeyPatch, assigned: set[TopicPartition]
) -> None:
    """Whoever is given nothing has its place at once: Faust seeks only where something is assigned."""
    parts = Parts()
    monkeypatch.setattr(transport.driver.Consumer, "on_partitions_assigned", parts._noted("assigned"))
    await parts.consumer.on_partitions_assigned(assigned, 8)
    assert (parts.consumer.unsettled is None) is not bool(assigned)


@pytest.mark.parametrize("between", [True, False])
async def test_nothing_is_fetched_before_a_rebalance_is_over(monkeypatch: pytest.MonkeyPatch, between: bool) -> None:
    """Faust may come to the end of one rebalance when the next has begun: the partitions are given up by then."""
    parts, resumed = Parts(), list[bool]()
    monkeypatch.setattr(transport.driver.Consumer, "resume_flow", lambda _: resumed.append(True))
    parts.consumer._between = between
    parts.consumer.resume_flow()
    assert bool(resumed) is not between


async def test_partitions_are_given_up_before_the_group_is_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the callback returns no producer of ours is left, and none is on its way; a late seek does nothing."""
    parts = Parts()
    parts.consumer._between = False

    async def finish(*_: Any) -> None:
        parts.calls.append("finished")

    monkeypatch.setattr(transport.driver.Consumer, "on_partitions_revoked", finish)
    monkeypatch.setattr(transport.driver.Consumer, "stop_flow", lambda _: None)
    await parts.consumer.on_partitions_revoked(set())
    assert parts.calls == ["finished", ("publisher", [])]
    await parts.consumer.perform_seek()
    assert parts.calls == ["finished", ("publisher", [])]


async def test_a_rebalance_while_leaving_waits_for_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust would close the connection before what is published was committed, and it would come twice."""
    parts = Parts()
    parts.consumer.app.should_stop = True

    async def close(*_: Any) -> None:
        parts.calls.append("closed")

    monkeypatch.setattr(transport.driver.Consumer, "on_partitions_revoked", close)
    monkeypatch.setattr(transport.driver.Consumer, "stop_flow", lambda _: None)
    await parts.consumer.on_partitions_revoked(set())
    assert "closed" not in parts.calls
    assert "wait" in parts.calls
    assert parts.drained


# -- the end --------------------------------------------------------------------------------------------------


async def test_a_thread_that_crashed_is_not_asked_to_commit() -> None:
    """It would never answer."""
    parts = Parts()
    parts.thread.should_stop = True
    assert not await parts.consumer._commit_notes(NOTES)
    assert parts.calls == []
    parts.thread.should_stop = False
    assert await parts.consumer._commit_notes(NOTES)
    assert parts.calls == ["commit_notes"]


async def test_a_leaving_worker_has_its_time_once() -> None:
    """Faust asks twice; the second time only what is left of the first is left."""
    parts = Parts()
    await parts.consumer.wait_empty()
    parts.consumer.app.leave_by = time.monotonic() + 1
    await parts.consumer.wait_empty()
    parts.consumer.app.leave_by = time.monotonic() - 1
    await parts.consumer.wait_empty()
    assert parts.drained[0] == pytest.approx(5, abs=0.5)
    assert parts.drained[1] <= 1
    assert parts.drained[2] == 0


async def test_a_commit_that_never_ends_does_not_keep_a_leaving_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets a moment even where the time is over, and no more."""
    monkeypatch.setattr(transport, "LEAST_COMMIT", 0.05)
    parts = Parts()
    parts.pipeline.positions = lambda: {P0: 9}
    parts.consumer.app.leave_by = time.monotonic()

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    parts.thread.call_thread = never
    async with asyncio.timeout(10):
        await parts.consumer.wait_empty()
