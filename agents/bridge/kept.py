"""Replies that are kept: those to sentences nobody waited for, for whoever asks for them by their id later."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from agents.bridge.metrics import BridgeMetrics
from agents.bridge.replies import FETCH_WAIT_MS
from agents.bridge.stores import Results, StoreUnavailable
from schemas.headers import CORRELATION_ID
from streams.publisher import KafkaPublisher
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Replies that are put into the store at once.
AT_ONCE = 64
#: Seconds until what failed is tried again.
PAUSE = 1.0


def correlation_id(client: str, sentence_id: str) -> bytes:
    """Returns what says by itself whose result a reply is: any bridge can keep it, also one started later."""
    return f"{client}/{sentence_id}".encode()


def _owner(correlation: bytes) -> tuple[str, str] | None:
    client, slash, sentence_id = correlation.decode(errors="replace").rpartition("/")
    return (client, sentence_id) if slash else None


class KeptReplies:
    """Reads the topic of kept replies into the store of results.

    Where replicas share a store they share the topic's partitions, too, as a consumer group: what was read is
    committed once it is in the store. Where each has its own store each reads all of the topic, from its beginning, so
    a restart loses nothing that is still to be kept.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Mapping[str, Any],
        results: Results,
        publisher: KafkaPublisher,
        metrics: BridgeMetrics,
    ) -> None:
        self._connection, self._results = connection, results
        self._publisher, self._metrics = publisher, metrics
        self._topic = settings.topic_kept_replies
        self._seconds = settings.results_seconds
        self._group = f"{settings.group}-bridge" if settings.redis_url is not None else None

    async def run(self) -> None:
        """Reads until it is cancelled; outages are waited out."""
        while True:
            try:
                async with self._consumer() as consumer:
                    await self._assign(consumer)
                    while True:
                        for records in (await consumer.getmany(timeout_ms=1000)).values():
                            await self._keep(records)
                        if self._group is not None:
                            await consumer.commit()
            except KafkaError as error:
                log.warning("kept-replies-unavailable", error=str(error) or repr(error))
            await asyncio.sleep(PAUSE)

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._connection,
            group_id=self._group,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )

    async def _assign(self, consumer: AIOKafkaConsumer) -> None:
        if self._group is not None:
            consumer.subscribe([self._topic])
            return
        partitions = [TopicPartition(self._topic, n) for n in range(await self._publisher.partitions(self._topic))]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)

    async def _keep(self, records: Sequence[ConsumerRecord]) -> None:
        oldest = (time.time() - self._seconds) * 1000
        fresh = [record for record in records if record.timestamp >= oldest]
        for start in range(0, len(fresh), AT_ONCE):
            await asyncio.gather(*map(self._put, fresh[start : start + AT_ONCE]))

    async def _put(self, record: ConsumerRecord) -> None:
        owner = _owner(dict(record.headers).get(CORRELATION_ID) or b"")
        if owner is None or record.value is None:
            self._metrics.replies.labels("unknown").inc()
            return
        while True:
            try:
                await self._results.put(*owner, record.value)
                break
            except StoreUnavailable as error:
                log.warning("result-not-kept", error=str(error), meaning="it is tried again")
                await asyncio.sleep(PAUSE)
        self._metrics.replies.labels("kept").inc()
