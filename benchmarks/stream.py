"""A real Kafka and a real worker to measure: records in with librdkafka, results read with librdkafka."""

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from agents.supervisor import Supervisor
from schemas.codec import Codec
from schemas.records import Sentence
from streams import topics
from streams.brokers.admin import provision
from streams.settings import Settings, load


@dataclass(frozen=True, slots=True)
class Stream:
    """A worker that is ready, and the broker it listens to."""

    settings: Settings

    def backlog(self, texts: Sequence[str], tag: str) -> float:
        """Produces all texts at once; returns the seconds from the first produced to the last result read."""
        codec, topic = Codec(), self.settings.topic_requests
        values = [codec.encode(Sentence(id=f"{tag}-{n}", text=text), topic) for n, text in enumerate(texts)]
        producer = Producer({**self._client(), "queue.buffering.max.messages": 2_000_000})
        reader = self._reader()
        started = time.perf_counter()
        for value in values:
            producer.produce(topic, value)
        producer.flush()
        left = len(values)
        while left:
            left -= sum(message.error() is None for message in reader.consume(min(left, 1000), timeout=1.0))
        seconds = time.perf_counter() - started
        reader.close()
        return seconds

    def one_by_one(self, texts: Sequence[str], tag: str, pause: float = 0.02) -> list[float]:
        """Produces one text at a time on an idle stream; returns for each the seconds until its result was read."""
        codec, topic = Codec(), self.settings.topic_requests
        producer = Producer({**self._client(), "linger.ms": 0})
        reader = self._reader()
        seconds = []
        for n, text in enumerate(texts):
            time.sleep(pause)
            value = codec.encode(Sentence(id=f"{tag}-{n}", text=text), topic)
            started = time.perf_counter()
            producer.produce(topic, value)
            producer.poll(0)
            while (message := reader.poll(1.0)) is None or message.error():
                pass
            seconds.append(time.perf_counter() - started)
        producer.flush()
        reader.close()
        return seconds

    def _client(self) -> dict[str, str]:
        return {"bootstrap.servers": self.settings.bootstrap_servers}

    def _reader(self) -> Consumer:
        """A consumer that stands at the end of the embeddings."""
        reader = Consumer({**self._client(), "group.id": "benchmark", "fetch.wait.max.ms": 100, "log_level": 0})
        name = self.settings.topic_embeddings
        partitions = reader.list_topics(name, timeout=10).topics[name].partitions
        ends = [reader.get_watermark_offsets(TopicPartition(name, n), timeout=10)[1] for n in partitions]
        reader.assign([TopicPartition(name, n, end) for n, end in zip(partitions, ends, strict=True)])
        reader.consume(1, timeout=0.5)
        return reader


@asynccontextmanager
async def running(servers: str, folder: Path, **settings: str) -> AsyncIterator[Stream]:
    """Provisions the topics and runs one worker with these settings until the block ends."""
    environment = {"STREAMS_BOOTSTRAP_SERVERS": servers}
    environment |= {f"STREAMS_{name.upper()}": value for name, value in settings.items()}
    os.environ.update(environment)
    loaded = load()
    provision(servers, topics.specs(loaded))
    async with Supervisor(folder, print) as supervisor:
        supervisor.start("worker", ["worker"], environment)
        await supervisor.ready()
        yield Stream(loaded)
