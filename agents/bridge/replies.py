"""Asking over Kafka: sentences go out on the interactive lane, answers come in on this bridge's own partition."""

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from agents.bridge.metrics import BridgeMetrics
from schemas import headers
from schemas.codec import Codec
from schemas.errors import Expired, Reject, Retry, StreamsError
from schemas.headers import Header, Results
from schemas.records import Reply, Sentence, Served
from streams.publisher import KafkaPublisher
from streams.records import Outgoing
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Bytes of a correlation id that name the asking, at random; the sentence's place in it follows in 4 more.
TOKEN = 16
#: Replies that are decoded on the event loop: more of them at once would hold up everybody else.
AT_ONCE = 64
#: What a broker may wait before it says that there is nothing. A real one answers as soon as there is something;
#: the embedded one always waits to the end.
FETCH_WAIT_MS = 20
#: Seconds between two probes of a path that works, and of one that does not.
PROBE, PROBE_AGAIN = 5.0, 1.0
#: Seconds that a probe may take.
PROBE_TIMEOUT = 5.0
#: Seconds in which a broker that is there has taken a record.
RECEIPT = 1.0
#: A path that gave no answer for so many seconds is broken: three probes were lost.
SILENCE = 15.0


class NotAnswered(StreamsError):
    """No answer came before the deadline."""


class Unreachable(StreamsError):
    """The stream cannot be asked: no broker takes records, or no worker answers."""


class TooLarge(StreamsError):
    """The broker takes no record of this size."""

    def __init__(self, index: int) -> None:
        super().__init__(f"sentence {index} makes a record larger than the broker takes")
        self.index = index


@dataclass(slots=True)
class _Asking:
    """What one call of `ask` waits for."""

    replies: list[Reply | None]
    #: The model that its sentences ask for.
    model: str | None
    missing: int
    done: asyncio.Future[None]
    #: Whether an answer shows that interactive callers would get one.
    proves: bool = True

    def settle(self, index: int, reply: Reply) -> bool:
        """Returns whether this answer was still missing."""
        if index >= len(self.replies) or self.replies[index] is not None:
            return False
        self.replies[index] = reply
        self.missing -= 1
        if not self.missing and not self.done.done():
            self.done.set_result(None)
        return True


class Replies:
    """Asks, and hears the answers; knows from them what is served, and whether the path works at all.

    A bridge reads the partition it names in its requests, from the end. Bridges may share one: a stranger's answer,
    or a predecessor's, is passed over by its correlation id. Requests are published with acks=all: nobody here waits
    for the receipt before the answer, and a worker could not read a record sooner with less.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Mapping[str, Any],
        codec: Codec,
        publisher: KafkaPublisher,
        metrics: BridgeMetrics,
    ) -> None:
        self._settings, self._connection, self._codec = settings, connection, codec
        self._publisher, self._metrics = publisher, metrics
        self._asked: dict[bytes, _Asking] = {}
        self._partition = settings.reply_partition
        self._inline = settings.schema_registry_url is None  # without a registry decoding never blocks
        self._heard = float("-inf")
        #: Set once it hears its partition: before that nobody can be told where to answer.
        self.hears = asyncio.Event()
        #: What the last answer said is served; None before the first.
        self.served: Served | None = None
        #: The same for each model that was asked for by its name.
        self.said: dict[str, Served] = {}

    async def run(self) -> None:
        """Listens and probes until it is cancelled; the publisher has started. Outages are waited out."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.hear())
            tasks.create_task(self._probe())

    @property
    def alive(self) -> bool:
        """Whether an answer came lately: to a caller, or to a probe."""
        return time.monotonic() - self._heard < SILENCE

    @property
    def asked(self) -> int:
        """How many calls of `ask` wait for answers."""
        return len(self._asked)

    # -- asking -----------------------------------------------------------------------------------------------

    async def ask(self, sentences: Sequence[Sentence], deadline: float, trace: bytes | None = None) -> list[Reply]:
        """Returns one reply for each sentence, in order; `deadline` is a monotonic time.

        Raises NotAnswered at the deadline, Unreachable where nobody could answer, TooLarge.
        """
        if not self.alive:
            raise Unreachable("no worker answered lately")
        return await self._ask(sentences, deadline, trace)

    async def ask_later(self, sentences: Sequence[Sentence], deadline: float) -> list[Reply]:
        """As `ask`, through the replay lane: its workers may take their time, and others go first."""
        return await self._ask(sentences, deadline, None, self._settings.topic_replay)

    async def _ask(
        self, sentences: Sequence[Sentence], deadline: float, trace: bytes | None, topic: str | None = None
    ) -> list[Reply]:
        token, began = os.urandom(TOKEN), time.monotonic()
        model = sentences[0].model if sentences else None
        done = asyncio.get_running_loop().create_future()
        asking = _Asking([None] * len(sentences), model, len(sentences), done, proves=topic is None)
        self._asked[token] = asking
        published = False
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                refused = await self._publisher.publish(self._outgoing(token, sentences, deadline, trace, topic))
                if refused:
                    raise TooLarge(min(refused))
                published = True
                await asking.done
        except TimeoutError:
            if published or deadline - began < RECEIPT:
                raise NotAnswered(f"{asking.missing} of {len(sentences)} answers did not come in time") from None
            raise Unreachable("no broker took the request in time") from None
        finally:
            del self._asked[token]
        return [reply for reply in asking.replies if reply is not None]

    def _outgoing(
        self, token: bytes, sentences: Sequence[Sentence], deadline: float, trace: bytes | None, topic: str | None
    ) -> list[Outgoing]:
        topic, encode = topic or self._settings.topic_interactive, self._codec.encode
        shared = self._headers(deadline, trace)
        return [
            Outgoing(
                topic,
                None,  # without a key they spread over all partitions, and so over all workers
                encode(sentence, topic),
                [(headers.CORRELATION_ID, token + index.to_bytes(4, "big")), *shared],
            )
            for index, sentence in enumerate(sentences)
        ]

    def _headers(self, deadline: float, trace: bytes | None) -> list[Header]:
        ends = (time.time() + deadline - time.monotonic()) * 1000
        shared: list[Header] = [
            (headers.REPLY_TOPIC, self._settings.topic_replies.encode()),
            (headers.REPLY_PARTITION, b"%d" % self._partition),
            (headers.DEADLINE, b"%d" % ends),
            (headers.RESULTS, Results.REPLY_ONLY.encode()),
        ]
        return shared if trace is None else [*shared, (headers.TRACEPARENT, trace)]

    # -- hearing ----------------------------------------------------------------------------------------------

    async def hear(self) -> None:
        """Listens until it is cancelled, and asks nothing by itself."""
        while True:
            try:
                # Asked for now, once: afterwards encoding a sentence never blocks.
                settings = self._settings
                for topic in (settings.topic_interactive, settings.topic_requests, settings.topic_replay):
                    await asyncio.to_thread(self._codec.announce, Sentence, topic)
                async with self._consumer() as consumer:
                    await self._assign(consumer)
                    while True:
                        for records in (await consumer.getmany(timeout_ms=1000)).values():
                            await self._take(records)
            except (KafkaError, StreamsError) as error:
                log.warning("replies-unavailable", error=str(error) or repr(error))
            await asyncio.sleep(PROBE_AGAIN)

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._connection,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="latest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )

    async def _assign(self, consumer: AIOKafkaConsumer) -> None:
        """Goes to the end of the partition that this bridge reads for as long as it lives."""
        topic = self._settings.topic_replies
        count = await self._publisher.partitions(topic)
        if self._partition >= count:
            raise Unreachable(f"STREAMS_REPLY_PARTITION: expected less than {count}, the partitions of {topic}")
        if self._partition < 0:
            self._partition = random.randrange(count)
        partition = TopicPartition(topic, self._partition)
        consumer.assign([partition])
        await consumer.seek_to_end(partition)
        await consumer.position(partition)  # only from here on is an answer sure to be heard
        self.hears.set()
        log.info("replies", topic=topic, partition=self._partition)

    async def _take(self, records: Sequence[ConsumerRecord]) -> None:
        ours = [found for record in records if (found := self._ours(record))]
        self._metrics.replies.labels("unknown").inc(len(records) - len(ours))
        if not ours:
            return
        if self._inline and len(ours) <= AT_ONCE:
            decoded = self._decode([record for _, _, record in ours])
        else:
            decoded = await asyncio.to_thread(self._decode, [record for _, _, record in ours])
        for (asking, index, _), reply in zip(ours, decoded, strict=True):
            if reply is None:
                self._metrics.replies.labels("unreadable").inc()
                continue
            self._learn(asking.model, reply)
            if asking.proves and (reply.error is None or reply.error.reason != Expired.reason):  # too late is no proof
                self._heard = time.monotonic()
            self._metrics.replies.labels("taken" if asking.settle(index, reply) else "repeated").inc()

    def _learn(self, model: str | None, reply: Reply) -> None:
        """Notes what is served; a refusal of one model names the default one."""
        if model is None or reply.error is not None:
            self.served = reply.served
        else:
            self.said[model] = reply.served

    def _ours(self, record: ConsumerRecord) -> tuple[_Asking, int, ConsumerRecord] | None:
        for name, value in record.headers:
            if name == headers.CORRELATION_ID and value is not None:
                asking = self._asked.get(value[:TOKEN])
                return None if asking is None else (asking, int.from_bytes(value[TOKEN:], "big"), record)
        return None

    def _decode(self, records: Sequence[ConsumerRecord]) -> list[Reply | None]:
        return [self._decoded(record) for record in records]

    def _decoded(self, record: ConsumerRecord) -> Reply | None:
        try:
            return self._codec.decode(Reply, record.value, record.headers)
        except (Reject, Retry) as error:
            log.warning("reply-unreadable", offset=record.offset, error=str(error))
            return None

    # -- probing ----------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Asks now and then whether anybody is there, unless callers just heard so."""
        await self.hears.wait()
        while True:
            if time.monotonic() - self._heard >= PROBE:
                try:
                    await self.probe()
                except StreamsError as error:
                    log.warning("probe-failed", error=str(error))
            await asyncio.sleep(PROBE if self.alive else PROBE_AGAIN)

    async def probe(self) -> None:
        """Asks whether anybody is there. Raises NotAnswered, Unreachable."""
        await self._ask([Sentence(id="probe", text="Is anybody there?")], time.monotonic() + PROBE_TIMEOUT, None)
