"""A real Kafka and a real worker to measure: records in with librdkafka, results read with librdkafka."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from agents.clients import request_topics
from agents.supervisor import Child, Supervisor
from benchmarks import models
from schemas.codec import Codec
from schemas.records import Sentence
from streams import topics
from streams.brokers.admin import provision
from streams.lanes import LaneName
from streams.settings import TOPICS, Settings, load

#: Seconds between two sentences on an idle stream.
PAUSE = 0.02


class Work(NamedTuple):
    """Tokens of texts and of padding, and the seconds that model threads spent on them."""

    text: float
    padding: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Stream:
    """A worker that is ready, and the broker it listens to."""

    settings: Settings
    #: Where each worker's health and metrics pages are.
    urls: Sequence[str]
    pids: Sequence[int] = ()

    def model_work(self) -> Work:
        """What the models did so far."""
        text = padding = seconds = 0.0
        for url in self.urls:
            with urlopen(f"{url}/metrics", timeout=10) as page:
                for family in text_string_to_metric_families(page.read().decode()):
                    for sample in family.samples:
                        if sample.name == "streams_batch_tokens_total":
                            text += sample.value * (sample.labels["kind"] == "text")
                            padding += sample.value * (sample.labels["kind"] == "padding")
                        elif sample.name == "streams_stage_seconds_sum" and sample.labels["step"] == "run":
                            seconds += sample.value
        return Work(text, padding, seconds)

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

    def one_by_one(self, texts: Sequence[str], tag: str, lane: LaneName = LaneName.BULK) -> list[float]:
        """Produces one text at a time; returns for each the seconds until its result was read."""
        codec, topic = Codec(), request_topics(self.settings)[lane]
        producer = Producer({**self._client(), "linger.ms": 0})
        reader = self._reader()
        seconds = []
        for n, text in enumerate(texts):
            time.sleep(PAUSE)
            identity = f"{tag}-{n}"
            value = codec.encode(Sentence(id=identity, text=text), topic)
            started = time.perf_counter()
            producer.produce(topic, value, identity.encode())
            producer.poll(0)
            while (message := reader.poll(1.0)) is None or message.key() != identity.encode():
                pass
            seconds.append(time.perf_counter() - started)
        producer.flush()
        reader.close()
        return seconds

    @contextmanager
    def draining(self, texts: Sequence[str], tag: str) -> Iterator[None]:
        """Produces all texts at once to the bulk lane; at the end of the block waits until they are embedded."""
        codec, topic = Codec(), self.settings.topic_requests
        producer = Producer({**self._client(), "queue.buffering.max.messages": 2_000_000})
        reader, left = self._reader(), len(texts)
        for n, text in enumerate(texts):
            producer.produce(topic, codec.encode(Sentence(id=f"{tag}-{n}", text=text), topic))
        producer.flush()
        yield
        while left:
            left -= sum(
                (message.key() or b"").startswith(tag.encode()) for message in reader.consume(1000, timeout=0.2)
            )
        reader.close()

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
async def running(
    servers: str,
    folder: Path,
    name: str = "worker",
    processors: Sequence[int] = (),
    root: Path = Path(__file__).parents[1],
    **settings: str,
) -> AsyncIterator[Stream]:
    """Provisions topics of this name's own and runs a worker with these settings until the block ends.

    Where `processors` are given, there is one worker for each of them, which has only that one. `root`: whose code.
    """
    name = re.sub(r"[^a-z0-9]+", "-", name)
    environment = {"STREAMS_BOOTSTRAP_SERVERS": servers, "STREAMS_GROUP": name}
    environment |= {f"STREAMS_{topic.upper()}": f"{name}.{topic}" for topic in TOPICS}
    environment |= {"STREAMS_MODELS_DIR": str(models.FOLDER), "STREAMS_CACHE_BYTES": "0"}  # every text is embedded
    environment |= {f"STREAMS_{key.upper()}": value for key, value in settings.items()}
    with _environment(environment):
        loaded = load()
    provision(servers, topics.specs(loaded))
    environment |= {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}  # the folder it is started in has code, too
    async with Supervisor(folder, print) as supervisor:
        children = [supervisor.start(f"{name}-{number}", ["worker"], environment) for number in processors or (0,)]
        if processors:
            await _pin(children, processors)
        await supervisor.ready()
        pids = [child.process.pid for child in children if child.process]
        yield Stream(loaded, [child.url for child in children], pids)


async def _pin(children: Sequence[Child], processors: Sequence[int]) -> None:
    """Leaves each child one processor; threads that it starts later have the same."""
    for child, processor in zip(children, processors, strict=True):
        while child.process is None:
            await asyncio.sleep(0.001)
        os.sched_setaffinity(child.process.pid, {processor})


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
