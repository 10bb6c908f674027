"""The path of a record, on one screen.

    fetch -> accept -> prepare (decode, validate, tokenise) -> batcher -> run (embed, encode) -> settle
          -> publish the settled head of the partition, in offset order -> receipts -> watermark -> commit

A record that is refused takes the same path with a dead letter as its result. Nothing is acknowledged before the
broker's receipt, and never before every lower offset of its partition.

Event loop: accept, settle, publish. Prepare threads: decode and tokenise. Model threads: take a batch, run it.
"""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol

import structlog
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from schemas.errors import Expired, Killer, NoReplyPartition, Reject, Retry
from schemas.records import Severity
from streams.batcher import Batcher
from streams.brake import Brake
from streams.flight import Item, Partition, Room
from streams.lanes import Lane
from streams.observe.alerts import Tell, nobody
from streams.observe.metrics import Metrics
from streams.observe.tracing import NoTracing, Tracing
from streams.records import Outgoing, PartitionLost, Record, TopicPartition, Unreadable
from streams.stage import Stage, W
from streams.suspects import Suspicion

log = structlog.get_logger(__name__)

#: Records of a fetch prepared first: few enough that they reach the model soon. Each next chunk is twice as large.
PREPARE_CHUNK = 128
#: Seconds before a dead letter that the broker refuses is offered again.
REFUSED_PAUSE = 10.0
#: Seconds between two signs of life of what waits on purpose.
SIGN = 1.0
#: Most seconds that everybody else has for themselves after one suspect was tried.
LONGEST_TURN = 30.0
#: Waits between tries while the world is not ready: random, growing to ten seconds.
BACKOFF = wait_random_exponential(multiplier=0.1, max=10)


class Publisher(Protocol):
    """Where results go: `streams.publisher`, `streams.transactions`, or a fake of `streams.testing`."""

    #: Whether results and offset are one transaction: then a refused record holds up the others, and committing is
    #: the publisher's.
    atomic: bool

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Takes over these input partitions from whoever had them, and gives up all others."""
        ...

    async def deliver(self, records: Sequence[Outgoing], source: TopicPartition, position: int) -> Mapping[int, Reject]:
        """Returns once each record has the broker's receipt or was refused for its own fault (index -> why).

        They are the results of `source` up to the offset `position`. Raises PartitionLost.
        """
        ...

    async def publish(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]:
        """As `deliver`, for what is nobody's result."""
        ...


@dataclass(frozen=True, slots=True)
class Retries:
    """What a record is granted that fails alone, with an error nobody foresaw, before it becomes a dead letter."""

    #: How often it is tried, and for how long (seconds since it was fetched).
    attempts: int = 1
    seconds: float = 300.0
    #: Seconds before the second, third ... try; the last one for all that follow.
    delays: tuple[float, ...] = (1.0, 5.0, 30.0, 120.0)

    def delay(self, tries: int, waited: float) -> float | None:
        """Seconds to wait after so many tries and so many seconds, or None where it is enough."""
        if tries >= self.attempts or waited >= self.seconds:
            return None
        return self.delays[min(tries, len(self.delays)) - 1]


class Failed(NamedTuple):
    """In place of a result: the step raised this for one record alone."""

    error: Exception


async def _forget_suspicion(tp: TopicPartition, position: int, metadata: str) -> None:
    """Keeps no suspicion: for a pipeline whose process is not worth bringing back."""


def _forget_frames(error: BaseException | None) -> None:
    """Lets go of where an error was raised: the frames hold the records it was raised among, and those hold it."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class Pipeline(Generic[W]):
    """Runs one stage over the records of its lanes."""

    def __init__(
        self,
        stage: Stage[W],
        lanes: Iterable[Lane],
        publisher: Publisher,
        refusal: Callable[[Record, Reject, int], list[Outgoing]],
        metrics: Metrics,
        *,
        budget: int,
        max_records: int,
        max_bytes: int,
        on_crash: Callable[[BaseException], None],
        on_lost: Callable[[], None] = lambda: None,
        remember: Callable[[TopicPartition, int, str], Awaitable[None]] = _forget_suspicion,
        retries: Retries = Retries(),
        brake: Brake | None = None,
        tracing: Tracing | None = None,
        tell: Tell = nobody,
    ) -> None:
        """`budget`: tokens a batch; `max_records`, `max_bytes`: of one lane in the worker at once.

        `refusal(record, reason, attempts)` makes what a refused record ends as (`streams.refusals`); `on_crash` is
        told (on the event loop) of an error in the pipeline itself: the process should end, since what is in flight
        will not. `on_lost` is told that a partition turned out to be another worker's: it is time for a new assignment.
        `remember(tp, position, metadata)` commits what should survive this process.
        `brake` holds up partitions when too many dead letters come. `tell` is what to call when a person should look.
        `tracing` hears of every record that is finished.
        """
        self.name = stage.name
        self._stage = stage
        self._lanes = {lane.topic: lane for lane in lanes}
        self._publisher = publisher
        self._refusal = refusal
        self._metrics = metrics
        self._on_crash = on_crash
        self._on_lost = on_lost
        self._remember = remember
        self._retries = retries
        self._brake = brake or Brake("none", metrics)
        self._tracing = tracing or NoTracing()
        self._tell = tell
        self._batcher: Batcher[Item[W]] = Batcher(self._lanes.values(), budget)
        self._rooms = {topic: Room(max_records, max_bytes) for topic in self._lanes}
        self._partitions: dict[TopicPartition, Partition[W]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._trial = asyncio.Lock()
        self._no_trial = asyncio.Event()
        self._no_trial.set()
        self._preparing = 0  # chunks that are being prepared
        self.epoch = 0  # changes whenever what was fetched before must be forgotten
        self.progressed = time.monotonic()

    # -- life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the threads; call it on the event loop that will run the pipeline."""
        self._loop = asyncio.get_running_loop()
        self._prepare_pool = ThreadPoolExecutor(len(self._lanes), thread_name_prefix=f"{self._stage.name}-prepare")
        self._threads = [
            threading.Thread(target=self._model_thread, name=f"{self._stage.name}-{n}", daemon=True)
            for n in range(self._stage.concurrency)
        ]
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Ends the threads; what is queued is forgotten, since nothing of it was acknowledged."""
        self.suspend()
        self._batcher.close()
        for partition in self._partitions.values():
            self._lose(partition)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._prepare_pool.shutdown(wait=False, cancel_futures=True)

    # -- assignment -------------------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Forgets what is queued and takes no earlier fetch any more: a rebalance or the end has begun."""
        self.epoch += 1
        self._batcher.clear()

    async def drain(self, timeout: float) -> bool:
        """Waits until what a model thread holds is published; returns whether `timeout` seconds were enough."""
        try:
            async with asyncio.timeout(timeout):
                while self._batcher.busy or any(partition.publishing for partition in self._partitions.values()):
                    await asyncio.sleep(0.005)
        except TimeoutError:
            log.warning("drain-timeout", seconds=timeout)
            return False
        return True

    def assign(
        self, positions: Mapping[TopicPartition, int], suspicions: Mapping[TopicPartition, Suspicion] = {}
    ) -> None:
        """Starts anew with these partitions, each at the offset of its next record."""
        self.suspend()
        for partition in self._partitions.values():
            self._lose(partition)
        self._partitions = {
            tp: Partition(tp, position, suspicions.get(tp, Suspicion())) for tp, position in positions.items()
        }
        self.progressed = time.monotonic()

    def resize(self, budget: int) -> None:
        """Fills batches with so many tokens from now on."""
        self._batcher.budget = budget

    def positions(self) -> dict[TopicPartition, int]:
        """Returns for each assigned partition the offset to commit."""
        return {tp: partition.watermark.position for tp, partition in self._partitions.items()}

    def fetchable(self, tp: TopicPartition) -> bool:
        """Whether more of a partition is wanted; False while a record of it waits for another try."""
        partition = self._partitions.get(tp)
        return partition is not None and not partition.held

    def queued(self, topic: str) -> tuple[int, int]:
        """Returns how many records of a lane wait for the model, and their tokens."""
        return self._batcher.depth(topic)

    def pending(self, topic: str | None = None) -> int:
        """Returns how many records, of one lane or of all, were accepted and are not acknowledged."""
        partitions = self._partitions.items()
        return sum(partition.watermark.pending for tp, partition in partitions if topic in {None, tp.topic})

    def still_alive(self) -> None:
        """Notes that results wait for the world, as they may; it is no excuse for a model that hangs meanwhile."""
        if not self._batcher.busy:
            self.progressed = time.monotonic()

    # -- accept and prepare -----------------------------------------------------------------------------------

    async def room(self, topic: str) -> None:
        """Waits until the lane that `topic` feeds can take more: the back-pressure of the fetch loop."""
        await self._rooms[topic].wait()

    async def accept(
        self,
        epoch: int,
        records: Mapping[TopicPartition, Sequence[Record]],
        positions: Mapping[TopicPartition, int],
    ) -> None:
        """Takes one fetch: its records by partition, and the partitions' positions after it.

        A fetch of an earlier epoch is ignored: its partitions may belong to someone else by now.
        """
        if epoch != self.epoch:
            return
        try:
            await self._accept(epoch, records, positions)
        except Exception as error:  # whoever feeds us would only log it, and the records would wait for ever
            self._on_crash(error)

    async def _accept(
        self,
        epoch: int,
        records: Mapping[TopicPartition, Sequence[Record]],
        positions: Mapping[TopicPartition, int],
    ) -> None:
        now = time.monotonic()
        items: list[Item[W]] = []
        for tp, fetched in records.items():
            items += self._admit(self._partitions[tp], fetched, now)
        for tp, position in positions.items():
            self._partitions[tp].watermark.reach(position)
        if self._publisher.atomic:  # nobody else commits past markers behind the last record
            self._publish_heads(self._partitions[tp] for tp in positions)
        for item in items:
            if isinstance(item.record, Unreadable):
                self._finish(item, item.record.why)
        self._publish_heads({item.partition for item in items})
        items = [item for item in items if item.outputs is None]
        for partition in {item.partition for item in items}:
            await self._touch(partition)
        for partition in {item.partition for item in items if item.alone}:
            suspects = [item for item in items if item.alone and item.partition is partition]
            self._spawn(self._creep(epoch, partition, suspects))
        together = [item for item in items if not item.alone]
        start, size = 0, PREPARE_CHUNK
        while start < len(together) and epoch == self.epoch:
            await self._prepare(epoch, together[start : start + size])
            start, size = start + size, 2 * size

    async def _touch(self, partition: Partition[W]) -> None:
        """Commits, before the first record is touched, that this process has the partition in hand now."""
        if not partition.touched:
            partition.touched = True
            note = partition.suspicion.taken_over()
            partition.suspicion = note
            await self._remember(partition.tp, partition.watermark.position, note.metadata())

    def _admit(self, partition: Partition[W], fetched: Sequence[Record], now: float) -> list[Item[W]]:
        lane = self._lanes[partition.tp.topic]
        items = [Item(record, partition, lane, now) for record in fetched]
        for record in fetched:
            partition.watermark.add(record.offset)
        partition.items.extend(items)
        self._rooms[lane.topic].enter(items)
        return items

    async def _prepare(self, epoch: int, items: list[Item[W]]) -> None:
        """Prepares a chunk; where the world is not ready, only the partitions of the chunk wait for it."""
        try:
            async with self._no_trial_meanwhile():
                await self._prepare_now(epoch, items)
        except Retry as error:
            log.warning("waiting", stage=self.name, records=len(items), error=str(error))
            for partition in {item.partition for item in items}:
                self._spawn(self._prepare_later(epoch, [item for item in items if item.partition is partition]))

    async def _prepare_later(self, epoch: int, items: list[Item[W]]) -> None:
        with self._holding(items[0].partition):
            try:
                async for attempt in AsyncRetrying(**self._patience(epoch)):
                    with attempt:
                        async with self._no_trial_meanwhile():
                            await self._prepare_now(epoch, items)
            except Retry:
                return  # the partition was lost while the world was not ready; its next owner will see

    async def _prepare_now(self, epoch: int, items: list[Item[W]]) -> None:
        records, started = [item.record for item in items], time.monotonic()
        prepared = await self._loop.run_in_executor(self._prepare_pool, self._each, self._stage.prepare, records)
        if epoch != self.epoch:
            return
        self._metrics.seconds.labels(self.name, "prepare").observe(time.monotonic() - started)
        work = []
        for item, result in zip(items, prepared, strict=True):
            if isinstance(result, Failed):
                self._finish(item, self._named(result.error))
            elif isinstance(result, list | Reject):
                self._finish(item, result)
            else:
                item.work = result
                work.append(item)
        self._batcher.put(items[0].lane.topic, work)
        self._publish_heads(item.partition for item in items)

    # -- suspects ---------------------------------------------------------------------------------------------

    async def _creep(self, epoch: int, partition: Partition[W], items: Sequence[Item[W]]) -> None:
        """Takes records one at a time: one of them kills processes."""
        for item in items:
            while not self._gone(epoch, partition) and (partition.publishing or partition.items[0] is not item):
                await asyncio.sleep(0.002)
            async with self._trial:
                if self._gone(epoch, partition):
                    return
                taken = await self._try_suspect(epoch, partition, item)
                await asyncio.sleep(min(taken, LONGEST_TURN))  # half of the time belongs to everybody else

    async def _try_suspect(self, epoch: int, partition: Partition[W], item: Item[W]) -> float:
        """Takes the record at the head of a partition while nothing else is touched; returns the seconds it took.

        Its name is committed before, and taken back after: who is named when the process dies was the only one to
        be prepared or run, on any thread and of any partition. The neighbours of a killer cannot be accused.
        """
        suspicion, offset = partition.suspicion, item.record.offset
        if suspicion.offset == offset and suspicion.times >= self._retries.attempts:
            partition.suspicion = Suspicion()
            self._finish(item, Killer(f"{suspicion.times} processes died or hung over this record alone"))
            self._publish_heads([partition])
            return 0.0
        note = suspicion.trying(offset).metadata()
        async with self._nothing_else(epoch, partition, item):
            started = time.monotonic()
            try:
                async for attempt in AsyncRetrying(**self._patience(epoch)):
                    with attempt:
                        await self._run_suspect(epoch, partition, item, note)
            except Retry:
                pass  # as in `_prepare_later`
            return time.monotonic() - started

    async def _run_suspect(self, epoch: int, partition: Partition[W], item: Item[W], note: str) -> None:
        """Prepares and runs a record under its name; whether it is refused or fails, it has not killed."""
        if self._gone(epoch, partition):
            return
        # What it causes goes out when its name was taken back: else the two commits could cross.
        partition.publishing, position = True, partition.watermark.position
        try:
            await self._remember(partition.tp, position, note)
            await self._prepare_now(epoch, [item])
            while not self._gone(epoch, partition) and item.outputs is None and not item.errors:
                await asyncio.sleep(0.002)
        finally:
            if not self._gone(epoch, partition):
                await self._remember(partition.tp, position, "")
            partition.publishing = False
            self._publish_heads([partition])

    @asynccontextmanager
    async def _nothing_else(self, epoch: int, partition: Partition[W], item: Item[W]) -> AsyncIterator[None]:
        """While inside, nothing is prepared, and the model is given nothing but this item."""
        self._no_trial.clear()
        try:
            while not (self._batcher.reserve(item) and not self._preparing) and not self._gone(epoch, partition):
                await asyncio.sleep(0.002)
            yield
        finally:
            self._no_trial.set()
            self._batcher.free()

    @asynccontextmanager
    async def _no_trial_meanwhile(self) -> AsyncIterator[None]:
        """While inside, no suspect is tried."""
        while not self._no_trial.is_set():
            await self._no_trial.wait()
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1

    def _gone(self, epoch: int, partition: Partition[W]) -> bool:
        return epoch != self.epoch or partition.lost

    @contextmanager
    def _holding(self, partition: Partition[W]) -> Iterator[None]:
        """While inside, nothing more of the partition is fetched, and what it has takes no room from its lane."""
        partition.held += 1
        self._rooms[partition.tp.topic].leave(partition.items)
        try:
            yield
        finally:
            partition.held -= 1

    def _patience(self, epoch: int) -> dict[str, Any]:
        """How to wait for a world that is not ready: until it is, or until the partitions are lost."""
        return {
            "retry": retry_if_exception_type(Retry),
            "wait": BACKOFF,
            "stop": lambda _: epoch != self.epoch,
            "before_sleep": self._not_ready,
            "reraise": True,
        }

    def _not_ready(self, state: RetryCallState) -> None:
        self.progressed = time.monotonic()
        error = state.outcome.exception() if state.outcome else None
        log.warning("waiting", stage=self._stage.name, attempt=state.attempt_number, error=str(error))

    # -- model threads ----------------------------------------------------------------------------------------

    def _model_thread(self) -> None:
        try:
            while (batch := self._batcher.take()) is not None:
                self._run(batch)
        except BaseException as error:  # the thread's end must not go unseen
            self._loop.call_soon_threadsafe(self._on_crash, error)

    def _run(self, batch: list[Item[W]]) -> None:
        epoch, started = self.epoch, time.monotonic()
        fresh = []
        for item in batch:
            item.started = started
            if item.work is not None and item.work.deadline is not None and item.work.deadline < time.time() * 1000:
                self._finish(item, Expired("its deadline passed while it was queued"))
            else:
                fresh.append(item)
        work = [item.work for item in fresh if item.work is not None]
        try:
            results = self._patiently(epoch, work)
        except Retry:
            fresh = []  # as in `_prepare`
        else:
            for item, result in zip(fresh, results, strict=True):
                if isinstance(result, Failed):
                    item.failure = result.error
                else:
                    self._finish(item, result)
        self._metrics.batch(self._stage.name, [item.size for item in fresh], time.monotonic() - started)
        self._loop.call_soon_threadsafe(self._settle, batch)

    def _patiently(self, epoch: int, work: Sequence[W]) -> list[Any]:
        """Runs the stage for as long as the world is not ready; tenacity only comes in where that is so."""
        try:
            return self._each(self._stage.run, work)
        except Retry:
            return Retrying(**self._patience(epoch))(self._each, self._stage.run, work)

    def _each(self, step: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]) -> list[Any]:
        """Returns the step's result for each item; where it fails, halves them until what causes it stands alone."""
        if not items:
            return []
        try:
            return step(items)
        except Retry:
            raise
        except Reject as reason:
            if len(items) == 1:
                return [reason]
        except Exception as error:
            if len(items) == 1:
                return [Failed(error)]
            if isinstance(error, MemoryError):
                self._batcher.budget = max(1, self._batcher.budget // 2)
                log.warning("out-of-memory", rows=len(items), budget=self._batcher.budget)
        middle = len(items) // 2
        return self._each(step, items[:middle]) + self._each(step, items[middle:])

    def _named(self, error: Exception) -> Reject:
        reason = self._stage.failed(error)
        reason.__cause__ = error  # the dead letter's stack trace shows where it came from
        return reason

    def _finish(self, item: Item[W], result: list[Outgoing] | Reject) -> None:
        if isinstance(result, Reject):
            outputs = self._refusal(item.record, result, max(1, len(item.errors)))
            _forget_frames(result)
            item.settle(outputs, result)
        else:
            item.settle(result)

    # -- settle and publish -----------------------------------------------------------------------------------

    def _settle(self, batch: list[Item[W]]) -> None:
        self._batcher.done()
        self.progressed = time.monotonic()
        for item in batch:
            if item.failure is not None:
                self._try_again(item, item.failure)
        self._publish_heads(item.partition for item in batch)

    def _try_again(self, item: Item[W], error: Exception) -> None:
        """Grants a record that failed alone another try, alone again, or makes it a dead letter."""
        item.failure = None
        item.errors.append(type(error).__name__)
        delay = self._retries.delay(len(item.errors), self.progressed - item.arrived)
        if delay is None:
            reason = self._named(error)
            if len(item.errors) > 1:
                reason.args = (f"{reason}, tried {len(item.errors)} times: {', '.join(item.errors)}",)
            self._finish(item, reason)
        elif not item.partition.lost:
            item.alone = True
            self._spawn(self._queue_later(self.epoch, item, delay))

    async def _queue_later(self, epoch: int, item: Item[W], delay: float) -> None:
        with self._holding(item.partition):
            await self._rest(delay * random.uniform(0.8, 1.2))
        if epoch == self.epoch:
            self._batcher.put(item.lane.topic, [item])

    def _publish_heads(self, partitions: Iterable[Partition[W]]) -> None:
        for partition in set(partitions):
            if not partition.publishing and (partition.has_settled() or self._owes_offset(partition)):
                partition.publishing = True
                self._spawn(self._publish(partition))

    async def _publish(self, partition: Partition[W]) -> None:
        """Publishes settled heads until none is left; one at a time, so results keep the order of offsets."""
        try:
            while (head := partition.take_settled()) or self._owes_offset(partition):
                position = head[-1].record.offset + 1 if head else partition.watermark.position
                await self._deliver(partition, head, position)
                partition.delivered = position
                self._acknowledge(partition, head)
        except PartitionLost as error:
            log.warning("partition-lost", error=str(error), **partition.tp._asdict())
            self._forget(head)
            if not partition.lost:
                self._lose(partition)
                self._on_lost()
        finally:
            partition.publishing = False

    def _owes_offset(self, partition: Partition[W]) -> bool:
        """Whether an atomic publisher has to commit an offset behind which there is no record of ours."""
        return (
            self._publisher.atomic
            and not (partition.lost or partition.items)
            and partition.watermark.position > partition.delivered
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._on_crash(error)

    async def _deliver(self, partition: Partition[W], head: Sequence[Item[W]], position: int) -> None:
        """Publishes what these items caused, until nothing of it is refused any more."""
        head = await self._offer(partition, head, position)
        while head:
            head = await self._offer(partition, head, position)

    async def _offer(self, partition: Partition[W], head: Sequence[Item[W]], position: int) -> Sequence[Item[W]]:
        """Publishes once; returns what has to be published again: where the broker refuses a result, its refusal."""
        await self._brake.let_pass(sum(item.dead_letter for item in head), self.still_alive)
        outgoing = [(out, item) for item in head for out in item.outputs or () if not (out.reply and item.told)]
        refused = await self._publisher.deliver([output for output, _ in outgoing], partition.tp, position)
        again: dict[int, tuple[Item[W], Reject]] = {}
        for index, (output, item) in enumerate(outgoing):
            reason = refused.get(index)
            if output.reply and self._told(item, reason):
                item.told = True
            elif reason is not None:
                again[id(item)] = item, reason
        for item, reason in again.values():
            if item.refused is None:
                self._finish(item, reason)
            else:  # never dropped: the partition waits here, loudly, until the topic takes it
                self._tell_refused(item, reason)
                await self._rest(REFUSED_PAUSE)
        if not refused:
            return []
        return head if self._publisher.atomic else [item for item, _ in again.values()]

    def _tell_refused(self, item: Item[W], reason: Reject) -> None:
        tp, waiting = item.partition.tp, time.monotonic() - item.settled
        log.critical("dead-letter-refused", offset=item.record.offset, error=str(reason), **tp._asdict())
        self._tell(
            "dead-letter-refused",
            f"{tp.topic}/{tp.partition}",
            Severity.CRITICAL,
            f"the dead letter of offset {item.record.offset} is refused, and its partition waits: {reason}",
            figures={"offset": item.record.offset, "seconds": waiting},
            since=time.time() - waiting,
        )

    def _told(self, item: Item[W], reason: Reject | None) -> bool:
        """Whether a reply is out, or cannot be delivered; one that is only too large gives way to a refusal."""
        if reason is None:
            return not self._publisher.atomic  # a transaction that was refused takes it back
        if item.refused is None and not isinstance(reason, NoReplyPartition):
            return False
        self._metrics.replies_dropped.labels(reason.reason).inc()
        log.warning("reply-dropped", offset=item.record.offset, error=str(reason), **item.partition.tp._asdict())
        return True

    async def _rest(self, seconds: float) -> None:
        """Waits on purpose, which is no stall."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self.still_alive()
            await asyncio.sleep(min(left, SIGN))

    def _acknowledge(self, partition: Partition[W], head: Sequence[Item[W]]) -> None:
        """Moves the watermark; that of a lost partition is nobody's any more, and moving it does no harm."""
        for item in head:
            partition.watermark.complete(item.record.offset)
        self._forget(head)
        self.progressed = time.monotonic()
        if head:
            self._metrics.finished(self.name, head, self.progressed)
            self._tracing.finished(self.name, head)

    def _lose(self, partition: Partition[W]) -> None:
        """Gives a partition up; what a publish or a model thread holds of it comes too late to count."""
        partition.lost = True
        self._forget(partition.items)
        partition.items.clear()

    def _forget(self, items: Iterable[Item[Any]]) -> None:
        for item in items:
            self._rooms[item.lane.topic].leave([item])
