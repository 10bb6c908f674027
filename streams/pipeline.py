"""The path of a record, on one screen.

    fetch -> accept -> prepare (decode, validate, tokenise) -> batcher -> run (embed, encode) -> settle
          -> publish the settled head of the partition, in offset order -> receipts -> watermark -> commit

A record that is refused takes the same path with a dead letter as its result. Nothing is acknowledged before the
broker's receipt, and never before every lower offset of its partition.

Event loop: accept, settle, publish. Prepare threads: decode and tokenise. Model threads: take a batch, run it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol

import structlog
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from schemas.errors import Expired, Reject, Retry
from streams.batcher import Batcher
from streams.lanes import Lane
from streams.observe.metrics import Metrics
from streams.records import Outgoing, PartitionLost, Record, TopicPartition
from streams.stage import Stage, W
from streams.watermark import Watermark

log = structlog.get_logger(__name__)

#: Records prepared at a time: small enough that the first of a large fetch reaches the model soon.
PREPARE_CHUNK = 128
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


class Partition(Generic[W]):
    """An assigned partition: what was fetched of it and is not acknowledged yet, in offset order."""

    __slots__ = ("delivered", "items", "lost", "publishing", "tp", "watermark")

    def __init__(self, tp: TopicPartition, position: int) -> None:
        self.tp = tp
        self.watermark = Watermark(position)
        self.delivered = position  # up to where results, and with an atomic publisher the offset, are out
        self.items: deque[Item[W]] = deque()
        self.publishing = False
        self.lost = False

    def has_settled(self) -> bool:
        """Whether there is something to publish."""
        return not self.lost and bool(self.items) and self.items[0].outputs is not None

    def take_settled(self) -> list["Item[W]"]:
        """Removes the longest head of settled items; nothing once the partition is lost."""
        head = []
        while self.has_settled():
            head.append(self.items.popleft())
        return head


class Item(Generic[W]):
    """One record on its way; its timings (monotonic seconds) travel with it."""

    __slots__ = ("arrived", "lane", "outputs", "partition", "record", "refused", "settled", "started", "work")

    def __init__(self, record: Record, partition: Partition[W], lane: Lane, arrived: float) -> None:
        self.record = record
        self.partition = partition
        self.lane = lane
        self.arrived = arrived
        self.started = self.settled = arrived
        self.work: W | None = None
        self.outputs: list[Outgoing] | None = None
        self.refused: Reject | None = None

    def settle(self, outputs: list[Outgoing], refused: Reject | None = None) -> None:
        """Sets what to publish; from this moment on it may be published, so `outputs` comes last."""
        self.refused = refused
        self.settled = time.monotonic()
        self.outputs = outputs

    @property
    def size(self) -> int:
        return self.work.size if self.work is not None else 1

    @property
    def weight(self) -> int:
        """Bytes that count against the lane's room."""
        return len(self.record.value or b"")


class _Room:
    """How much of one lane is in the worker; fetching waits while it is full."""

    def __init__(self, records: int, size: int) -> None:
        self._free_records, self._free_bytes = records, size
        self._open = asyncio.Event()
        self._open.set()

    def change(self, records: int, size: int) -> None:
        self._free_records += records
        self._free_bytes += size
        self._open.set() if self._free_records > 0 and self._free_bytes > 0 else self._open.clear()

    async def wait(self) -> None:
        await self._open.wait()


class Pipeline(Generic[W]):
    """Runs one stage over the records of its lanes."""

    def __init__(
        self,
        stage: Stage[W],
        lanes: Iterable[Lane],
        publisher: Publisher,
        dead_letter: Callable[[Record, Reject, int], Outgoing],
        metrics: Metrics,
        *,
        budget: int,
        max_records: int,
        max_bytes: int,
        on_crash: Callable[[BaseException], None],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`budget`: tokens a batch; `max_records`, `max_bytes`: of one lane in the worker at once.

        `dead_letter(record, reason, attempts)` makes the dead letter of a record; `on_crash` is told (on the event
        loop) of an error in the pipeline itself: the process should end, since what is in flight will not. `on_lost`
        is told that a partition turned out to be another worker's: it is time for a new assignment.
        """
        self.name = stage.name
        self._stage = stage
        self._lanes = {lane.topic: lane for lane in lanes}
        self._publisher = publisher
        self._dead_letter = dead_letter
        self._metrics = metrics
        self._on_crash = on_crash
        self._on_lost = on_lost
        self._batcher: Batcher[Item[W]] = Batcher(self._lanes.values(), budget)
        self._rooms = {topic: _Room(max_records, max_bytes) for topic in self._lanes}
        self._partitions: dict[TopicPartition, Partition[W]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
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

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Starts anew with these partitions, each at the offset of its next record."""
        self.suspend()
        for partition in self._partitions.values():
            self._lose(partition)
        self._partitions = {tp: Partition(tp, position) for tp, position in positions.items()}
        self.progressed = time.monotonic()

    def positions(self) -> dict[TopicPartition, int]:
        """Returns for each assigned partition the offset to commit."""
        return {tp: partition.watermark.position for tp, partition in self._partitions.items()}

    def queued(self, topic: str) -> tuple[int, int]:
        """Returns how many records of a lane wait for the model, and their tokens."""
        return self._batcher.depth(topic)

    def pending(self) -> int:
        """Returns how many records were accepted and are not acknowledged."""
        return sum(partition.watermark.pending for partition in self._partitions.values())

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
        for start in range(0, len(items), PREPARE_CHUNK):
            if epoch != self.epoch:
                return
            await self._prepare(epoch, items[start : start + PREPARE_CHUNK])

    def _admit(self, partition: Partition[W], fetched: Sequence[Record], now: float) -> list[Item[W]]:
        lane = self._lanes[partition.tp.topic]
        items = [Item(record, partition, lane, now) for record in fetched]
        for record in fetched:
            partition.watermark.add(record.offset)
        partition.items.extend(items)
        self._rooms[lane.topic].change(-len(items), -sum(item.weight for item in items))
        return items

    async def _prepare(self, epoch: int, items: list[Item[W]]) -> None:
        records, started = [item.record for item in items], time.monotonic()
        try:
            async for attempt in AsyncRetrying(**self._patience(epoch)):
                with attempt:
                    prepared = await self._loop.run_in_executor(
                        self._prepare_pool, self._each, self._stage.prepare, records
                    )
        except Retry:
            return  # the partitions were lost while the world was not ready; their next owner will see
        if epoch != self.epoch:
            return
        self._metrics.seconds.labels(self.name, "prepare").observe(time.monotonic() - started)
        work = []
        for item, result in zip(items, prepared, strict=True):
            if isinstance(result, list | Reject):
                self._finish(item, result)
            else:
                item.work = result
                work.append(item)
        self._batcher.put(items[0].lane.topic, work)
        self._publish_heads(item.partition for item in items)

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
            results = Retrying(**self._patience(epoch))(self._each, self._stage.run, work)
        except Retry:
            fresh = []  # as in `_prepare`
        else:
            for item, result in zip(fresh, results, strict=True):
                self._finish(item, result)
        self._metrics.batch(self._stage.name, [item.size for item in fresh], time.monotonic() - started)
        self._loop.call_soon_threadsafe(self._settle, batch)

    def _each(self, step: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]) -> list[Any]:
        """Returns the step's result for each item; where it fails, halves them until what causes it stands alone."""
        if not items:
            return []
        try:
            return step(items)
        except Retry:
            raise
        except Exception as error:
            if len(items) == 1:
                return [self._named(error)]
        middle = len(items) // 2
        return self._each(step, items[:middle]) + self._each(step, items[middle:])

    def _named(self, error: Exception) -> Reject:
        if isinstance(error, Reject):
            return error
        reason = self._stage.failed(error)
        reason.__cause__ = error  # the dead letter's stack trace shows where it came from
        return reason

    def _finish(self, item: Item[W], result: list[Outgoing] | Reject) -> None:
        if isinstance(result, Reject):
            item.settle([self._dead_letter(item.record, result, 1)], result)
        else:
            item.settle(result)

    # -- settle and publish -----------------------------------------------------------------------------------

    def _settle(self, batch: list[Item[W]]) -> None:
        self._batcher.done()
        self.progressed = time.monotonic()
        self._publish_heads(item.partition for item in batch)

    def _publish_heads(self, partitions: Iterable[Partition[W]]) -> None:
        for partition in set(partitions):
            if not partition.publishing and (partition.has_settled() or self._owes_offset(partition)):
                partition.publishing = True
                task = self._loop.create_task(self._publish(partition))
                self._tasks.add(task)
                task.add_done_callback(self._published)

    async def _publish(self, partition: Partition[W]) -> None:
        """Publishes settled heads until none is left; one at a time, so results keep the order of offsets."""
        try:
            while (head := partition.take_settled()) or self._owes_offset(partition):
                position = head[-1].record.offset + 1 if head else partition.watermark.position
                await self._deliver(partition, head, position)
                partition.delivered = position
                self._acknowledge(partition, head)
        except PartitionLost as error:
            log.warning("partition-lost", topic=partition.tp.topic, partition=partition.tp.partition, error=str(error))
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

    def _published(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._on_crash(error)

    async def _deliver(self, partition: Partition[W], head: Sequence[Item[W]], position: int) -> None:
        """Publishes what these items caused; a result the broker refuses becomes its record's dead letter."""
        outgoing = [(output, item) for item in head for output in item.outputs or ()]
        refused = await self._publisher.deliver([output for output, _ in outgoing], partition.tp, position)
        again = {id(item): (item, refused[index]) for index, (_, item) in enumerate(outgoing) if index in refused}
        for item, reason in again.values():
            if item.refused is not None:
                raise RuntimeError(f"the dead letter of {item.partition.tp}@{item.record.offset} was refused: {reason}")
            self._finish(item, reason)
        if again:
            left = head if self._publisher.atomic else [item for item, _ in again.values()]
            await self._deliver(partition, left, position)

    def _acknowledge(self, partition: Partition[W], head: Sequence[Item[W]]) -> None:
        """Moves the watermark; that of a lost partition is nobody's any more, and moving it does no harm."""
        for item in head:
            partition.watermark.complete(item.record.offset)
        self._forget(head)
        self.progressed = time.monotonic()
        if head:
            self._metrics.finished(self.name, head, self.progressed)

    def _lose(self, partition: Partition[W]) -> None:
        """Gives a partition up; what a publish or a model thread holds of it comes too late to count."""
        partition.lost = True
        self._forget(partition.items)
        partition.items.clear()

    def _forget(self, items: Iterable[Item[Any]]) -> None:
        for item in items:
            self._rooms[item.lane.topic].change(1, item.weight)
