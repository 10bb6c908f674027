"""Exactly once: the results of one input partition and its input offset, in one transaction.

Faust's own transactions are not used: after a crash they repeated every record. There is one transactional producer
for each input partition, because aiokafka sends no group metadata, and so only the `transactional_id` can fence a
worker that lost the partition without noticing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import count
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IllegalOperation,
    InvalidProducerEpoch,
    InvalidTxnState,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
)
from aiokafka.structs import TopicPartition as KafkaTopicPartition

from schemas.errors import Reject
from streams.observe.metrics import Metrics
from streams.publisher import (
    BATCH_BYTES,
    COMPRESSION,
    REFUSED,
    REQUEST_TIMEOUT_MS,
    BrokerUnavailable,
    KafkaPublisher,
    append,
    close,
    connect,
    no_place,
    partition_of,
    reachable,
    reply_partitions,
    retrying,
    too_large,
)
from streams.records import Outgoing, PartitionLost, TopicPartition

log = structlog.get_logger(__name__)

#: Another worker has this partition by now, or the transaction outlived its time: only a new assignment helps.
FENCED = (ProducerFenced, InvalidProducerEpoch, InvalidTxnState, IllegalOperation, OutOfOrderSequenceNumber)
#: How long (milliseconds) the open transaction of a worker that died may hold up readers of committed records.
TRANSACTION_TIMEOUT_MS = 30_000


class TransactionalPublisher:
    """Publishes each settled head of a partition in one transaction with the offset behind it.

    `assign` fences whoever had the partitions before; the committed offsets are read after it, so that they are
    those of the last transaction that went through.
    """

    #: A refused record holds up all others of its transaction.
    atomic = True

    def __init__(
        self,
        connection: Mapping[str, Any],
        metrics: Metrics,
        group: str,
        compression: str = COMPRESSION,
        waits: Callable[[], None] = lambda: None,
    ) -> None:
        """`connection`: bootstrap servers and security, as aiokafka names them; `group`: the consumer group.

        `waits` hears of each try in vain.
        """
        self._connection = connection
        self._metrics = metrics
        self._group = group
        self._compression = compression
        self._waits = waits
        self._producers: dict[TopicPartition, AIOKafkaProducer] = {}
        self._changing = asyncio.Lock()
        self._calls = 0  # of assign
        self._opening: asyncio.Future[Any] | None = None
        self._plain: KafkaPublisher | None = None  # for what belongs to no input partition
        self._connecting = asyncio.Lock()
        self._turn = count()

    async def start(self) -> None:
        """Does nothing yet: a producer belongs to a partition."""

    async def stop(self) -> None:
        """Aborts what is open and disconnects."""
        await self.assign(())
        if self._plain:
            await self._plain.stop()

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Takes over these input partitions and gives up all others; waits for the broker, or until it is called again.

        To open a producer is to fence whoever has its partition, so it must never happen for an assignment that is
        over. A later call therefore ends an earlier one before it does anything itself, and the consumer makes one,
        without partitions, before it joins the group again: whoever is given them fences us, not we them.

        What remains is a request that is on its way while the group has already given us up, as after a freeze. It
        costs the rightful owner a rebalance (its transaction is aborted as a whole, and it comes back), and nothing
        is lost or repeated.
        """
        self._calls += 1
        call = self._calls
        if self._opening:
            self._opening.cancel()
        async with self._changing:
            old, self._producers = self._producers, {}
            await asyncio.gather(*(close(producer) for producer in old.values()))
            if call == self._calls:
                self._opening = asyncio.gather(*(self._open(partition) for partition in partitions))
                try:
                    await self._opening
                except asyncio.CancelledError:
                    if call == self._calls:
                        raise
                finally:
                    self._opening = None

    async def publish(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]:
        """Publishes outside of all transactions; as `KafkaPublisher.publish`. Raises BrokerUnavailable."""
        async with self._connecting:
            if self._plain is None:
                plain = KafkaPublisher(self._connection, self._metrics, self._compression)
                await plain.start()
                self._plain = plain
        return await self._plain.publish(records)

    async def reachable(self) -> bool:
        """Returns whether a broker answered within a few seconds; True while nothing is assigned."""
        return all([await reachable(producer) for producer in list(self._producers.values())[:1]])

    async def deliver(self, records: Sequence[Outgoing], source: TopicPartition, position: int) -> Mapping[int, Reject]:
        """Returns once the transaction went through, or which record prevents it: then nothing is published.

        Raises PartitionLost where another worker has the input partition by now.
        """
        alone: set[int] = set()  # records that share no batch, to find the one the broker refuses
        while True:
            try:
                await self._transact(records, source, position, alone)
            except _NoPlaces as error:
                return error.refused
            except _BatchRefused as refusal:
                if len(refusal.indexes) == 1:
                    return {refusal.indexes[0]: too_large(records[refusal.indexes[0]], refusal.error)}
                alone.update(refusal.indexes)
            else:
                self._metrics.commits.labels("transaction").inc()
                return {}

    async def _transact(
        self, records: Sequence[Outgoing], source: TopicPartition, position: int, alone: Set[int]
    ) -> None:
        producer = self._producer_of(source)
        target = f"transaction of {source.topic}/{source.partition}"
        async for attempt in retrying(target, self._metrics, self._waits):
            with attempt:
                # A later assignment has a producer of its own; what was begun with the earlier one is void.
                if producer is not self._producer_of(source):
                    raise PartitionLost(f"{source.topic}/{source.partition} was assigned anew")
                if refused := await _without_place(producer, records):
                    raise _NoPlaces(refused)
                try:
                    async with producer.transaction():
                        await self._send(producer, records, alone)
                        offsets = {KafkaTopicPartition(*source): position}
                        await producer.send_offsets_to_transaction(offsets, self._group)
                except FENCED as error:
                    self._producers.pop(source, None)
                    await close(producer)
                    raise PartitionLost(f"{source.topic}/{source.partition}: {error!r}") from error
                except KafkaError as error:
                    if type(error) is KafkaError:  # the producer's own sender gave up: it will not send again
                        self._producers.pop(source, None)
                        await close(producer)
                        raise PartitionLost(f"{source.topic}/{source.partition}: {error!r}") from error
                    raise BrokerUnavailable(str(error) or repr(error)) from error

    def _producer_of(self, source: TopicPartition) -> AIOKafkaProducer:
        try:
            return self._producers[source]
        except KeyError:
            raise PartitionLost(f"{source.topic}/{source.partition} is not ours any more") from None

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[Outgoing], alone: Set[int]) -> None:
        """Sends all records and waits for their receipts; raises _BatchRefused."""
        partitions = {
            topic: len(await producer.partitions_for(topic)) for topic in {record.topic for record in records}
        }
        by_partition: dict[TopicPartition, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            partition = partition_of(record, partitions[record.topic], self._turn)
            by_partition[TopicPartition(record.topic, partition)].append(index)
        await asyncio.gather(
            *(self._send_to(producer, tp, records, indexes, alone) for tp, indexes in by_partition.items())
        )

    async def _send_to(
        self,
        producer: AIOKafkaProducer,
        tp: TopicPartition,
        records: Sequence[Outgoing],
        indexes: Sequence[int],
        alone: Set[int],
    ) -> None:
        at = 0
        while at < len(indexes):
            batch = producer.create_batch()
            end = at
            while end < len(indexes) and (end == at or not alone & {indexes[at], indexes[end]}):
                if not append(batch, records[indexes[end]]):
                    break
                end += 1
            try:
                await (await producer.send_batch(batch, tp.topic, partition=tp.partition))
            except REFUSED as error:
                raise _BatchRefused(indexes[at:end], error) from error
            at = end

    async def _open(self, source: TopicPartition) -> None:
        target = f"producer of {source.topic}/{source.partition}"
        async for attempt in retrying(target, self._metrics, self._waits):
            with attempt:
                producer = AIOKafkaProducer(
                    **self._connection,
                    transactional_id=f"{self._group}-{source.topic}-{source.partition}",
                    transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
                    compression_type=self._compression,
                    max_batch_size=BATCH_BYTES,
                    linger_ms=0,
                    request_timeout_ms=REQUEST_TIMEOUT_MS,
                )
                try:
                    self._producers[source] = await connect(producer)
                except asyncio.CancelledError:
                    await close(producer)
                    raise


async def _without_place(producer: AIOKafkaProducer, records: Sequence[Outgoing]) -> dict[int, Reject]:
    """Which replies cannot be delivered since their topic or partition does not exist."""
    places = {(record.topic, record.partition) for record in records if record.reply}
    missing = {place for place in places if (place[1] or 0) not in await reply_partitions(producer, *place)}
    return {
        index: no_place(TopicPartition(record.topic, record.partition or 0))
        for index, record in enumerate(records)
        if record.reply and (record.topic, record.partition) in missing
    }


class _NoPlaces(Exception):
    """Some replies cannot be delivered; nothing was published."""

    def __init__(self, refused: Mapping[int, Reject]) -> None:
        super().__init__(refused)
        self.refused = refused


class _BatchRefused(Exception):
    """The broker refuses a batch for the size or content of its records."""

    def __init__(self, indexes: Sequence[int], error: KafkaError) -> None:
        super().__init__(indexes)
        self.indexes = indexes
        self.error = error
