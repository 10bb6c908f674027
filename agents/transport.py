"""Faust's Kafka transport with whole fetches instead of single records, and with our own watermark.

Faust keeps what it is good at: group membership, assignment, life cycle. Replaced are the two places that cost or
lose records: the hand-over record by record (nearly all of an agent's 150 microseconds a record), and the
acknowledgement, which commits over holes. tests/contract/test_faust_contract.py guards every method overridden here.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from agents.batches import Broken, guard
from streams.records import Record, TopicPartition
from streams.suspects import Suspicion

log = structlog.get_logger(__name__)

#: Records of one fetch: enough to spread the cost of a hand-over between threads, small enough to be prompt.
FETCH_RECORDS = 512
#: Bytes after which a fetch takes no more: a record that was compressed well may be much larger than it travelled, and
#: a lane has up to three fetches beside what counts against its room.
FETCH_BYTES = 4 * 1024 * 1024
#: How long (milliseconds) a broker may hold a fetch with nothing to give. aiokafka has one fetch under way for each
#: broker, so this also bounds how long a partition that was being worked off waits for its next fetch.
FETCH_WAIT_MS = 100
#: How long (seconds) a fetch waits for a partition whose records nobody took yet before it goes on without it.
PREFETCH_BACKOFF = 0.01
#: Seconds before a partition is read again that holds bytes which are not those that were written.
DAMAGED_PAUSE = 10.0
#: Seconds that the commit gets even where publishing has used up the time: what is out should not be repeated.
LEAST_COMMIT = 1.0
#: The broker says that this member's generation is over.
REBALANCED = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)
#: Stands for a partition without a commit.
NOTHING = OffsetAndMetadata(-1, "")


class Fetch(NamedTuple):
    """What one fetch of a lane brought: one event on the lane's channel."""

    epoch: int
    records: Mapping[TopicPartition, Sequence[Record]]
    positions: Mapping[TopicPartition, int]


#: The epoch of a fetch, and the partitions' positions after it.
Mark = tuple[int, Mapping[TopicPartition, int]]


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._damaged: dict[driver.TopicPartition, float] = {}  # partition -> when to look again

    async def on_start(self) -> None:
        await super().on_start()
        self._ensure_consumer()._fetcher._prefetch_backoff = PREFETCH_BACKOFF  # no argument reaches it

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        app = self.app
        guard(app.unpack_limit)
        return AIOKafkaConsumer(
            **app.connection,
            group_id=app.conf.id,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            partition_assignment_strategy=[StickyPartitionAssignor],  # a rebalance moves as little as it can
            session_timeout_ms=int(app.conf.broker_session_timeout * 1000),
            heartbeat_interval_ms=int(app.conf.broker_heartbeat_interval * 1000),
            rebalance_timeout_ms=int(app.conf.broker_rebalance_timeout * 1000),
            # Progress is judged by the watermark (health), not by how often a busy worker fetches.
            max_poll_interval_ms=24 * 3600 * 1000,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            metadata_max_age_ms=60_000,
        )

    async def fetch(self, topic: str) -> Fetch | None:
        """Returns the next records of a topic's assigned partitions; runs on the thread's own loop."""
        consumer = self._ensure_consumer()
        tps = [tp for tp in consumer.assignment() if tp.topic == topic and self._fetchable(tp)]
        if not tps or not self.consumer.flow_active:
            await asyncio.sleep(0.05)
            return None
        records = await self._taken(consumer, tps)
        # Only this lane moves these positions, so they belong to exactly these records (and to what the
        # consumer skipped behind them: transaction markers, compacted offsets).
        positions = {TopicPartition(*tp): await consumer.position(tp) for tp in tps}
        return Fetch(-1, {TopicPartition(*tp): self._whole(tp, found) for tp, found in records.items()}, positions)

    async def _taken(
        self, consumer: AIOKafkaConsumer, tps: list[driver.TopicPartition]
    ) -> dict[driver.TopicPartition, list[Any]]:
        """Waits for a first record, then takes what is there of one partition after the other, until it is enough."""
        records: dict[driver.TopicPartition, list[Any]] = await consumer.getmany(*tps, timeout_ms=500, max_records=1)
        count = size = 0
        for tp in random.sample(tps, len(tps)):  # each in turn, lest the first leaves nothing to the last
            if count >= FETCH_RECORDS or size >= FETCH_BYTES:
                break
            more = (await consumer.getmany(tp, max_records=FETCH_RECORDS - count)).get(tp)
            if more:
                records.setdefault(tp, []).extend(more)
                count += len(more)
                size += sum(len(record.value or b"") for record in more if not isinstance(record, Broken))
        return records

    def _fetchable(self, tp: driver.TopicPartition) -> bool:
        return self._damaged.get(tp, 0.0) < time.monotonic() and self.app.pipeline.fetchable(tp)

    def damaged(self, tp: TopicPartition) -> bool:
        """Whether a partition stands before bytes that are not those that were written."""
        return self._damaged.get(driver.TopicPartition(*tp), -DAMAGED_PAUSE) + DAMAGED_PAUSE > time.monotonic()

    def _whole(self, tp: driver.TopicPartition, found: list[Any]) -> Sequence[Record]:
        """Returns the records before what is broken; the partition waits there, loudly, and is never skipped."""
        if found and isinstance(found[-1], Broken):
            log.critical("partition-damaged", error=str(found.pop().error), **TopicPartition(*tp)._asdict())
            self._damaged[tp] = time.monotonic() + DAMAGED_PAUSE
        return found

    async def committed(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Returns offset and metadata of the group's last commits; runs on the thread's own loop."""
        coordinator = self._ensure_consumer()._coordinator
        found = await coordinator.fetch_committed_offsets([driver.TopicPartition(*tp) for tp in tps])
        return {TopicPartition(*tp): note for tp, note in found.items() if note.offset >= 0}

    async def commit_notes(self, notes: Mapping[TopicPartition, OffsetAndMetadata], generation: int) -> bool:
        """Commits offsets with metadata as a member of this generation; False where a rebalance has ended it.

        aiokafka's own `commit` waits for the broker and then takes whatever generation it has by that time, so a
        worker that was frozen or cut off would move the group back to an old watermark.
        """
        consumer = self._ensure_consumer()
        coordinator = consumer._coordinator
        while True:
            await coordinator.ensure_coordinator_known()
            async with coordinator._commit_lock:
                assigned = consumer.assignment()
                ours = {tp: note for tp, note in notes.items() if tp in assigned}
                if not ours or coordinator.generation != generation:
                    return False
                try:
                    await coordinator._do_commit_offsets(None, ours)
                except REBALANCED as error:
                    log.info("commit-refused", error=repr(error))
                    return False
                except KafkaError as error:
                    if not error.retriable:
                        raise
                else:
                    return True
            await asyncio.sleep(0.1)


class Consumer(driver.Consumer):
    """Faust's consumer, feeding each lane of `app.pipeline` through the channel `app.channels[topic]`."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fetching: set[str] = set()  # topics with a fetch under way
        self._generation = -1  # in which the pipeline was given its partitions
        self._between = True  # whether a rebalance is under way, as far as its two callbacks tell
        self._committed: dict[TopicPartition, OffsetAndMetadata] = {}  # of the group, as far as this member knows
        #: Since when (monotonic seconds) this member waits for its place in the group; None while it has one.
        self.unsettled: float | None = time.monotonic()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- fetching ---------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for topic in self.app.channels:
                    group.create_task(self._fetch_lane(topic))
        except asyncio.CancelledError:
            if not self.app.should_stop:  # a SIGTERM in the middle of a rebalance must not look like a crash
                raise

    async def _fetch_lane(self, topic: str) -> None:
        sent: Mark | None = None
        while not self.should_stop:
            try:
                sent = await self._hand_over(topic, sent)
            except asyncio.CancelledError:
                # A rebalance empties the channel and cancels whoever waits for room in it. That fetch is void, and the
                # lane goes on: only the cancellation of this very task ends it, and nobody would hear of any other.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                await asyncio.sleep(0.05)

    async def _hand_over(self, topic: str, sent: Mark | None) -> Mark | None:
        """Hands the next fetch of a lane over, unless it says nothing new after `sent`; returns how far the lane is."""
        pipeline = self.app.pipeline
        await pipeline.room(topic)
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        # The epoch is noted before the fetch: one that a rebalance overtakes is not handed over.
        epoch = pipeline.epoch
        fetch = await self._fetch(topic)
        if fetch is None or epoch != pipeline.epoch:
            return sent
        mark = epoch, fetch.positions
        if fetch.records or mark != sent:
            await self.app.channels[topic].send(value=fetch._replace(epoch=epoch))
        return mark

    async def _fetch(self, topic: str) -> Fetch | None:
        self._fetching.add(topic)
        try:
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(self._thread.fetch(topic), self._thread.thread_loop)
            )
        except ConsumerStoppedError:
            await self.sleep(0.05)
        except KafkaError as error:
            if type(error) is KafkaError:  # aiokafka has ended its part in the group: it will never fetch again
                raise
            log.warning("fetch-failed", topic=topic, error=repr(error))
            await self.sleep(1.0)
        finally:
            self._fetching.discard(topic)
        return None

    # -- assignment -------------------------------------------------------------------------------------------

    def stop_flow(self) -> None:
        """A rebalance or the end has begun: what is queued will be fetched again, by us or by another."""
        super().stop_flow()
        self.app.pipeline.suspend()

    def resume_flow(self) -> None:
        """Goes on, unless a rebalance is under way: Faust may come to the end of the last one in the next."""
        if not self._between:
            super().resume_flow()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stops the flow even where nothing was assigned: Faust does not, and then fetches before it has sought.

        This member joins again only when this returns, and until it has joined nobody is given its partitions. So
        that is where the publisher lets go of them: see `TransactionalPublisher.assign`.
        """
        self._between, self.unsettled = True, time.monotonic()
        self.stop_flow()
        if self.app.should_stop:  # Faust would close the connection here, before what is out has been committed
            await self.wait_empty()
        else:
            await super().on_partitions_revoked(revoked)
        await self.app.publisher.assign(())

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Lets go of everything: until `perform_seek` nothing is fetched, and no old watermark is committed.

        Faust seeks only where something is assigned, and resumes the flow even if the next rebalance has begun.
        """
        self._between, self.unsettled = False, time.monotonic() if assigned else None
        self.app.pipeline.assign({})
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Starts the assigned partitions at their committed offsets, or where the reset policy says."""
        epoch, generation = self.app.pipeline.epoch, self.app.consumer_generation_id
        while self._fetching:  # a fetch under way would move the positions set here
            await asyncio.sleep(0.005)
        if self._between or epoch != self.app.pipeline.epoch:
            return  # Faust calls this from a task of its own, which another rebalance may overtake
        tps = [TopicPartition(tp.topic, tp.partition) for tp in self.assignment()]
        # Whoever had the partitions before is fenced first, so that the offsets read next are the last ones.
        await self.app.publisher.assign(tps)
        if epoch != self.app.pipeline.epoch:
            return  # another rebalance has begun meanwhile, and will seek in its turn
        await self.seek_to_committed()
        self._committed = await self._thread.call_thread(self._thread.committed, tps)
        # Which leaves out offset 0 and partitions without a commit, though a discarded fetch may have moved them.
        if fresh := [driver.TopicPartition(*tp) for tp in tps if self._committed.get(tp, NOTHING).offset <= 0]:
            await self._thread.seek_to_beginning(*fresh)
        positions = {tp: await self.position(TP(*tp)) for tp in tps}
        suspicions = {tp: Suspicion.parse(note.metadata, note.offset) for tp, note in self._committed.items()}
        if epoch != self.app.pipeline.epoch:
            return
        self._generation, self.unsettled = generation, None
        self.app.pipeline.assign(positions, suspicions)
        self.app.metrics.rebalances.inc()
        suspects = sorted(f"{tp.topic}/{tp.partition}" for tp, found in suspicions.items() if found.until)
        log.info(
            "assigned",
            partitions={f"{tp.topic}/{tp.partition}": at for tp, at in sorted(positions.items())},
            suspects=suspects,
        )

    async def remember(self, tp: TopicPartition, position: int, metadata: str) -> None:
        """Commits a note that outlives this process."""
        await self._commit_notes({tp: OffsetAndMetadata(position, metadata)})

    async def wait_empty(self) -> None:
        """Publishes and commits what the model already holds, within a time of our own.

        Faust calls it twice while it stops: then both calls share the time.
        """
        ends = min(time.monotonic() + self.app.drain_timeout, self.app.leave_by)
        await self.app.pipeline.drain(max(0.0, ends - time.monotonic()))
        try:
            async with asyncio.timeout(max(LEAST_COMMIT, ends - time.monotonic())):
                await self.maybe_wait_for_commit_to_finish()
                await self.force_commit()
                await self._leave_clean()
        except TimeoutError:
            log.warning("drain-commit-timeout", seconds=self.app.drain_timeout)

    async def _leave_clean(self) -> None:
        """Takes back the notes of partitions that made no progress: whoever has them next finds no death."""
        positions = self.app.pipeline.positions()
        left = {tp for tp, note in self._committed.items() if note.metadata and positions.get(tp) == note.offset}
        await self._commit_notes({tp: OffsetAndMetadata(positions[tp], "") for tp in left})

    # -- commit -----------------------------------------------------------------------------------------------

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commits the watermark of every partition whose watermark moved, unless the transactions do."""
        if self.app.publisher.atomic:
            return False
        positions = self.app.pipeline.positions()
        moved = {tp: at for tp, at in positions.items() if self._committed.get(tp, NOTHING).offset != at}
        return await self._commit_notes({tp: OffsetAndMetadata(at, "") for tp, at in moved.items()})

    async def _commit_notes(self, notes: Mapping[TopicPartition, OffsetAndMetadata]) -> bool:
        if not notes or self._thread.should_stop:  # a thread that crashed would never answer
            return False
        committed = bool(await self._thread.call_thread(self._thread.commit_notes, notes, self._generation))
        self.app.metrics.commits.labels("done" if committed else "rebalanced").inc()
        if committed:
            self._committed.update(notes)
        return committed

    def rejoin(self) -> None:
        """Asks the group for a new assignment: this member has lost a partition without being told."""
        coordinator = self._thread._ensure_consumer()._coordinator
        self._thread.thread_loop.call_soon_threadsafe(coordinator.request_rejoin)

    def end_offset(self, tp: TopicPartition) -> int | None:
        """Returns the end of what committed transactions wrote, as of the last fetch; None before the first."""
        aiotp = driver.TopicPartition(*tp)
        consumer = self._thread._ensure_consumer()
        return consumer.last_stable_offset(aiotp) if aiotp in consumer.assignment() else None

    def damaged(self, tp: TopicPartition) -> bool:
        """Whether a partition waits before what cannot be read, loudly, until somebody mends it."""
        return self._thread.damaged(tp)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's stall detector watches what is replaced here; `/health/live` watches the watermark instead."""


class Transport(driver.Transport):
    """Faust's aiokafka transport with the consumer above."""

    Consumer = Consumer
