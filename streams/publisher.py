"""Publishing with receipts: idempotent, compressed, in order, and patient with a broker that is away."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import chain, count
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import murmur2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from schemas.errors import NoReplyPartition, Reject, ResultTooLarge, Retry
from streams.observe.metrics import Metrics
from streams.records import Outgoing, TopicPartition

log = structlog.get_logger(__name__)

#: Vectors barely compress, what is beside them does. Of a batch of 128 real results zstd leaves 76 % for 8 us a record,
#: lz4 83 % for 38 us, snappy 91 % for 1 us (docs/performance.md).
COMPRESSION = "zstd"
#: Bytes of one produce batch before compression. Some hundred vectors of 1.5 KB share a request, and the batch
#: stays under the 1 MB that a broker accepts by default.
BATCH_BYTES = 256 * 1024
#: The broker refuses these for the records' own size or content; sending them again cannot help.
REFUSED = (MessageSizeTooLargeError, RecordListTooLargeError)
#: The broker lost track of this producer; only a new one can go on.
LOST_TRACK = (OutOfOrderSequenceNumber, ProducerFenced)
#: Seconds that what is under way gets when a producer is closed: with the broker away a flush never ends.
CLOSE_TIMEOUT = 2.0
REQUEST_TIMEOUT_MS = 30_000
FIRST_BACKOFF = 0.05
#: While other batches are under way, a mailbox with few letters waits so long (seconds) for more: a batch of a dozen
#: costs nearly what one of a hundred does. On an idle stream, and for replies, nothing waits.
LINGER, FEW = 0.005, 64
BACKOFF = wait_random_exponential(multiplier=0.1, max=10)


class BrokerUnavailable(Retry):
    """The broker does not take records at the moment."""


def partition_of(record: Outgoing, partitions: int, turn: Iterator[int]) -> int:
    """Picks the partition as the Java client does: murmur2 of the key; `turn` where there is none."""
    if record.partition is not None:
        return record.partition
    if not partitions:
        return 0
    if record.key is None:
        return next(turn) % partitions
    return int(murmur2(record.key) & 0x7FFFFFFF) % partitions


class Receipt(NamedTuple):
    """Where the broker put a record."""

    partition: int
    offset: int


class _Ticket:
    """What one `publish` call waits for."""

    __slots__ = ("done", "open", "receipts", "refused")

    def __init__(self, records: int) -> None:
        self.open = records
        self.receipts: dict[int, Receipt] = {}
        self.refused: dict[int, Reject] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def abandoned(self) -> bool:
        return self.done.cancelled()

    def settle(self, index: int, receipt: Receipt | None) -> None:
        if receipt is not None:
            self.receipts[index] = receipt
        self.open -= 1
        if not self.open and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            self.done.cancel()
        elif not self.done.done():
            self.done.set_exception(error)


#: A record to send, its index in the call it came with, and the call's ticket.
_Letter = tuple[Outgoing, int, _Ticket]


class KafkaPublisher:
    """Publishes through one idempotent aiokafka producer.

    There is a mailbox for each output partition: what gathers while a batch is under way is the next batch, so
    load makes batches larger, order is kept, and a partition without a leader holds up nobody else. A batch that
    fails is sent again until the broker takes it; the pipeline's back-pressure stops the fetching meanwhile.
    """

    #: A refused record does not hold up the others of its call.
    atomic = False

    def __init__(
        self,
        connection: Mapping[str, Any],
        metrics: Metrics,
        compression: str | None = COMPRESSION,
        waits: Callable[[], None] = lambda: None,
    ) -> None:
        """`connection`: bootstrap servers and security, as aiokafka names them; `waits` hears of each try in vain."""
        self._connection = connection
        self._metrics = metrics
        self._waits = waits
        self._compression = compression
        self._mailboxes: dict[TopicPartition, deque[_Letter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()
        self._renewing = asyncio.Lock()
        self._turn = count()
        self._sending = 0  # mailboxes whose batch is under way

    async def start(self) -> None:
        """Connects; raises BrokerUnavailable where no broker answers."""
        self._producer = await self._connect()
        self._connected.set()

    async def stop(self) -> None:
        """Gives up what has no receipt yet, which cancels those who wait for it, and disconnects."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await close(self._producer)

    async def publish(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]:
        """Returns once each record has the broker's receipt or was refused for its own fault (index -> why).

        What was not sent yet when the call is cancelled is not sent any more.
        """
        return (await self.post(records))[1]

    async def post(self, records: Sequence[Outgoing]) -> tuple[Mapping[int, Receipt], Mapping[int, Reject]]:
        """As `publish`; returns the receipts, too: index -> where the record is. Waits until it is connected."""
        if not records:
            return {}, {}
        await self._connected.wait()
        topics = {(record.topic, record.reply) for record in records}
        partitions = {topic: await self.partitions(topic, reply=reply) for topic, reply in topics}
        ticket = _Ticket(len(records))
        for index, record in enumerate(records):
            tp = TopicPartition(record.topic, partition_of(record, partitions[record.topic], self._turn))
            mailbox = self._mailboxes.setdefault(tp, deque())
            mailbox.append((record, index, ticket))
            if len(mailbox) == 1:
                self._spawn(tp, mailbox)
        await ticket.done
        return ticket.receipts, ticket.refused

    async def reachable(self) -> bool:
        """Returns whether a broker answered within a few seconds."""
        return await reachable(self._producer)

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Does nothing: one producer serves all input partitions."""

    async def deliver(self, records: Sequence[Outgoing], source: TopicPartition, position: int) -> Mapping[int, Reject]:
        """As `publish`; the offset behind them is the consumer's to commit."""
        return await self.publish(records)

    async def partitions(self, topic: str, *, reply: bool = False) -> int:
        """Returns how many partitions a topic has, waiting for the topic or the broker where they are away.

        A topic for replies is not waited for: there may be 0.
        """
        if not reply:
            with suppress(KafkaError):
                return len(await self._producer.partitions_for(topic))
        async for attempt in retrying(f"partitions of {topic}", self._metrics, self._waits):
            with attempt:
                if reply:
                    return len(await reply_partitions(self._producer, topic))
                try:
                    return len(await self._producer.partitions_for(topic))
                except KafkaError as error:
                    raise BrokerUnavailable(str(error) or repr(error)) from error
        raise AssertionError("unreachable: the retry never ends")

    # -- one mailbox ------------------------------------------------------------------------------------------

    def _spawn(self, tp: TopicPartition, mailbox: deque[_Letter]) -> None:
        task = asyncio.get_running_loop().create_task(self._empty(tp, mailbox))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _empty(self, tp: TopicPartition, mailbox: deque[_Letter]) -> None:
        """Sends a mailbox batch by batch; letters leave it only with a receipt, so nobody spawns a second task."""
        try:
            await asyncio.sleep(0)  # let the callers of this turn of the loop fill the mailbox first
            while mailbox:
                if self._sending and len(mailbox) < FEW and not mailbox[0][0].reply:
                    await asyncio.sleep(LINGER)
                try:
                    self._sending += 1
                    await self._send(tp, mailbox)
                except Retry as error:
                    await self._send_again(tp, mailbox, error)
                finally:
                    self._sending -= 1
        except (Exception, asyncio.CancelledError) as error:  # a bug, or the end: whoever waits must hear of it
            while mailbox:
                mailbox.popleft()[2].fail(error)

    async def _send_again(self, tp: TopicPartition, mailbox: deque[_Letter], error: Retry) -> None:
        """Sends what failed once, as often as it takes; tenacity's part costs more than a batch, so not before."""
        target = f"{tp.topic}/{tp.partition}"
        self._metrics.publish_retries.inc()
        self._waits()
        log.warning("publish-waits", target=target, attempt=0, error=str(error))
        await asyncio.sleep(FIRST_BACKOFF)
        async for attempt in retrying(target, self._metrics, self._waits):
            with attempt:
                await self._send(tp, mailbox)

    async def _send(self, tp: TopicPartition, mailbox: deque[_Letter], most: int | None = None) -> None:
        while mailbox and mailbox[0][2].abandoned:
            mailbox.popleft()
        if not mailbox:
            return
        producer = self._producer
        if mailbox[0][0].reply and tp.partition not in await reply_partitions(producer, tp.topic, tp.partition):
            while mailbox:
                _, index, ticket = mailbox.popleft()
                ticket.refused[index] = no_place(tp)
                ticket.settle(index, None)
            return
        batch = producer.create_batch()
        letters = 0
        for record, _, _ in mailbox:
            if letters == most or not append(batch, record):
                break
            letters += 1
        first = None
        try:
            first = (await (await producer.send_batch(batch, tp.topic, partition=tp.partition))).offset
        except REFUSED as error:
            if letters > 1:
                await self._send(tp, mailbox, letters // 2)
                return
            record, index, ticket = mailbox[0]
            ticket.refused[index] = too_large(record, error)
        except LOST_TRACK as error:
            await self._renew(producer)
            raise BrokerUnavailable(repr(error)) from error
        except UnknownTopicOrPartitionError as error:
            raise BrokerUnavailable(
                f"{tp.topic}/{tp.partition} does not exist: run `sentence-streams provision`"
            ) from error
        except KafkaError as error:
            if type(error) is KafkaError:  # the producer's own sender gave up: it will not send again
                await self._renew(producer)
            raise BrokerUnavailable(str(error) or repr(error)) from error
        for n in range(letters):
            _, index, ticket = mailbox.popleft()
            ticket.settle(index, None if first is None else Receipt(tp.partition, first + n))

    async def _renew(self, producer: AIOKafkaProducer) -> None:
        async with self._renewing:
            if producer is self._producer:
                self._producer = await self._connect()
                await close(producer)

    async def _connect(self) -> AIOKafkaProducer:
        return await connect(
            AIOKafkaProducer(
                **self._connection,
                acks="all",
                enable_idempotence=True,
                compression_type=self._compression,
                max_batch_size=BATCH_BYTES,
                linger_ms=0,  # what is ready together is already one batch
                request_timeout_ms=REQUEST_TIMEOUT_MS,
            )
        )


# -- what every publisher needs -----------------------------------------------------------------------------------


async def connect(producer: AIOKafkaProducer) -> AIOKafkaProducer:
    """Starts a producer; raises BrokerUnavailable where no broker answers."""
    try:
        await producer.start()
    except KafkaError as error:
        await producer.stop()
        raise BrokerUnavailable(f"no broker answers: {error}") from error
    return producer


async def close(producer: AIOKafkaProducer) -> None:
    """Stops a producer, giving up what is under way where the broker is away: a flush would never end."""
    closing = asyncio.get_running_loop().create_task(producer.stop())
    done, _ = await asyncio.wait([closing], timeout=CLOSE_TIMEOUT)
    if not done:
        await producer._sender.close()
        accumulator = producer._message_accumulator
        left = [*accumulator._pending_batches, *chain.from_iterable(accumulator._batches.values())]
        accumulator._pending_batches.update(left)  # where aiokafka's own callback expects them
        accumulator.fail_all(KafkaConnectionError("the producer was closed"))
        for batch in left:  # those who waited may be gone, and asyncio would log what nobody looked at
            batch.future.exception()
            batch._drain_waiter.exception()
    await closing


async def reachable(producer: AIOKafkaProducer) -> bool:
    """Returns whether a broker answered within a few seconds."""
    try:
        async with asyncio.timeout(3):
            return bool(await producer.client.fetch_all_metadata())
    except (KafkaError, TimeoutError):
        return False


async def reply_partitions(producer: AIOKafkaProducer, topic: str, wanted: int | None = None) -> Set[int]:
    """Returns the partitions of a topic that replies go to; none where there is no such topic: nobody waits for it.

    Looks again where `wanted`, or any, is not among those that are known. Raises BrokerUnavailable.
    """
    client = producer.client
    known: Set[int] = client.cluster.partitions_for_topic(topic) or set()
    for _ in range(2):  # the first look may have been under way before anybody asked for this topic
        if known and (wanted is None or wanted in known):
            break
        client.add_topic(topic)
        if not await client.force_metadata_update():
            raise BrokerUnavailable(f"no broker tells the partitions of {topic}")
        known = client.cluster.partitions_for_topic(topic) or set()
    return known


def no_place(tp: TopicPartition) -> NoReplyPartition:
    """Names a reply's address that does not exist."""
    return NoReplyPartition(f"{tp.topic}/{tp.partition} does not exist: a reply to it is dropped")


def append(batch: Any, record: Outgoing) -> bool:
    """Adds a record to a produce batch; False where the batch is full. The first record always fits."""
    added = batch.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
    return added is not None


def too_large(record: Outgoing, error: KafkaError) -> ResultTooLarge:
    """Names a record that the broker refuses for its own size or content."""
    size = len(record.value or b"")
    return ResultTooLarge(f"the broker refuses a record of {size} bytes on {record.topic}: {error!r}")


def retrying(what: str, metrics: Metrics, waits: Callable[[], None]) -> AsyncRetrying:
    """Tries again, for as long as it takes, while the broker is unavailable; `waits` hears of each try in vain."""

    def waiting(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        metrics.publish_retries.inc()
        waits()
        log.warning("publish-waits", target=what, attempt=state.attempt_number, error=str(error))

    return AsyncRetrying(retry=retry_if_exception_type(Retry), wait=BACKOFF, before_sleep=waiting)
