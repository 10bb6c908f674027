"""What commands about models say, as every process of the stream reads them: all of sentence.models, and no group.

A process reads the topic to its end before it does anything else, so a restart forgets nothing; then it follows. The
stream goes on without the topic, and through every outage of the brokers, with what was read last.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition

from schemas.codec import Codec
from schemas.errors import Reject, Retry
from schemas.records import ModelCommand, ModelKind
from streams.models.routing import Routing
from streams.publisher import BrokerUnavailable
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds before brokers, or a topic, that are not there are looked for again.
AGAIN: Final = 2.0
#: Milliseconds that a broker may wait before it says that there is nothing new.
FETCH_WAIT_MS: Final = 20


class Control:
    """Follows sentence.models."""

    def __init__(self, settings: Settings, connection: Mapping[str, Any], codec: Codec) -> None:
        """`connection`: bootstrap servers and security, as aiokafka names them."""
        self._topic, self._connection, self._codec = settings.topic_models, connection, codec
        #: What all commands so far amount to.
        self.routing = Routing()

    @asynccontextmanager
    async def following(self, changed: Callable[[Routing], None]) -> AsyncIterator[Routing]:
        """Reads what there is and yields it; while inside, `changed` is told of everything that follows.

        Raises BrokerUnavailable where no broker answers.
        """
        try:
            async with self._reading() as (_, self.routing):
                pass
        except KafkaError as error:
            raise BrokerUnavailable(str(error) or repr(error)) from error
        task = asyncio.get_running_loop().create_task(self.follow(changed))
        try:
            yield self.routing
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def follow(self, changed: Callable[[Routing], None]) -> None:
        """Tells `changed` of every new Routing until it is cancelled; outages are waited out."""
        while True:
            try:
                # All of it anew: what came during an outage may be all that is left of an alias.
                async with self._reading() as (consumer, routing):
                    self._apply(routing, changed)
                    while consumer.assignment():
                        self._apply(self._after(self.routing, await consumer.getmany(timeout_ms=1000)), changed)
            except (KafkaError, Retry) as error:
                log.warning("models-unavailable", topic=self._topic, error=str(error) or repr(error))
            await asyncio.sleep(AGAIN)

    def _apply(self, routing: Routing, changed: Callable[[Routing], None]) -> None:
        if routing != self.routing:
            self.routing = routing
            changed(routing)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[tuple[AIOKafkaConsumer, Routing]]:
        """Yields a consumer at the end of the topic, and what it has read; nothing where there is no such topic."""
        consumer = AIOKafkaConsumer(
            self._topic,
            **self._connection,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        try:
            yield consumer, await self._read(consumer)
        finally:
            await asyncio.sleep(0)  # a consumer whose tasks have not begun yet cannot be stopped
            await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> Routing:
        try:
            await consumer.start()
        except UnknownTopicOrPartitionError:
            log.warning("no-models-topic", topic=self._topic, advice="run `sentence-streams provision`")
            return Routing()
        partitions, routing = list(consumer.assignment()), Routing()
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            routing = self._after(routing, await consumer.getmany(timeout_ms=200))
        return routing

    def _after(self, routing: Routing, fetched: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> Routing:
        for records in fetched.values():
            for record in records:
                routing = self._with(routing, record)
        return routing

    def _with(self, routing: Routing, record: ConsumerRecord) -> Routing:
        if record.value is None:
            return _without(routing, record.key)
        try:
            return routing.apply(self._codec.decode(ModelCommand, record.value, record.headers))
        except Reject as error:  # somebody's mistake, or a later version's command: the last good one holds
            log.error("model-command-unreadable", offset=record.offset, error=str(error))
            return routing


def _without(routing: Routing, key: bytes | None) -> Routing:
    kind, _, alias = (key or b"").decode(errors="replace").partition(":")
    return routing.forget(ModelKind(kind), alias) if kind in set(ModelKind) else routing
