"""A stream under test: topics of its own, real worker and scorer processes, and what they left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from schemas.codec import Codec
from schemas.dead_letters import dead_letter_headers
from schemas.errors import Reject
from schemas.records import Embedding, Score, Sentence, Source
from streams import topics
from streams.brokers.admin import provision
from streams.records import Headers
from streams.settings import PREFIX, TOPICS, load
from streams.testing import PublishedRecord
from tests.support.java import free_ports
from tests.support.kafka import unique

CODEC = Codec()
ROOT = Path(__file__).parents[2]
#: Seconds that anything may take before a test gives up; only a failing test ever waits so long.
PATIENCE = 90.0
#: Names of the headers that a dead letter adds, in order; the cause's name is only there where there is a cause.
WHY = [
    name
    for name, _ in dead_letter_headers(Reject(), read_at=Source("", 0, 0, 0), timestamp_type=0, group="", attempts=1)
]


def encoded(number: int, **fields: Any) -> bytes:
    """A sentence with the id s-`number`, as our codec writes it without a registry."""
    return CODEC.encode(Sentence(**{"id": f"s-{number}", "text": f"Sentence number {number}.", **fields}), "any")


def wait_until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Waits until something holds; fails the test where it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(0.05)


class Program:
    """One process of the product: `python -m agents.cli COMMAND` with settings of its own."""

    def __init__(self, command: str, environment: Mapping[str, str], log: Path, module: str = "agents.cli") -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, command],
                env={**environment, "STREAMS_HEALTH_PORT": str(port), "STREAMS_HTTP_PORT": str(port)},
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def get(self, page: str) -> tuple[int, str]:
        """Status and body of one of its pages; status 0 where nobody listens."""
        try:
            with urllib.request.urlopen(f"{self.url}{page}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def says(self, page: str) -> bool:
        """Whether a health page says yes."""
        return self.get(f"/health/{page}")[0] == 200

    def ready(self) -> "Program":
        """Waits until it is ready."""

        def up() -> bool:
            assert self.running, f"it ended with {self._process.returncode}; its log:\n{self.tail()}"
            return self.says("ready")

        wait_until(up, f"{self.log.name} is ready")
        return self

    def metrics(self) -> dict[str, float]:
        """Every sample of its metrics page, as `name{labels}`."""
        lines = (line for line in self.get("/metrics")[1].splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def lines(self) -> list[dict[str, Any]]:
        """Its log, an object a line."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def tail(self, size: int = 12000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-size:]

    def leave(self) -> None:
        """Tells it to leave (SIGTERM), without waiting."""
        self._process.terminate()

    def exit(self) -> int:
        """Waits for its end; returns its exit status."""
        return self._process.wait(PATIENCE)

    def stop(self) -> None:
        """Has it leave, and fails the test unless it ends cleanly."""
        self.leave()
        assert self.exit() == 0, f"it did not leave cleanly; its log:\n{self.tail()}"

    def freeze(self) -> None:
        """Freezes it (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen one run on (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once (SIGKILL)."""
        self._process.kill()
        self._process.wait()


class Stream:
    """Topics and groups that nobody else uses, on a given broker."""

    def __init__(self, servers: str, folder: Path, **settings: str | int | float) -> None:
        """`settings` as `streams.settings.Settings` names them; the model is the deterministic one unless they say."""
        names = {name: unique(name.removeprefix("topic_").replace("_", "-")) for name in TOPICS}
        wanted = {"bootstrap_servers": servers, "partitions": 4, "group": unique("group"), "model": "deterministic"}
        wanted |= {"session_timeout": 6}  # the least a broker takes: who is killed is missed soon
        self._overrides = {**wanted, **names, **settings}
        self.settings = load(**self._overrides)
        self.servers = servers
        self._folder = folder
        self._programs: list[Program] = []
        provision(servers, topics.specs(self.settings))

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.kill()
            # pytest shows what was printed in a teardown where the test failed, and only there.
            print(f"--- the end of {program.log}\n{program.tail()}")

    def start(self, command: str = "worker", module: str = "agents.cli", **settings: str | int | float) -> Program:
        """Starts a `worker`, a `score` or a `bridge`, without waiting; `settings` on top of the stream's own."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        ours = {PREFIX + name.upper(): str(value) for name, value in {**self._overrides, **settings}.items()}
        log = self._folder / f"{command}-{len(self._programs)}.log"
        program = Program(command, {**environment, **ours}, log, module)
        self._programs.append(program)
        return program

    def send(self, records: Iterable[Mapping[str, Any]], topic: str | None = None) -> list[PublishedRecord]:
        """Produces records (arguments of confluent-kafka's `produce`), and returns them with their coordinates."""
        sent: list[PublishedRecord] = []
        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 5, "log_level": 0})
        for record in records:
            producer.produce(
                topic or self.settings.topic_requests,
                on_delivery=_collecting(sent, record.get("headers", ())),
                **record,
            )
            producer.poll(0)
        assert producer.flush(PATIENCE) == 0
        return sent

    # -- what came out ----------------------------------------------------------------------------------------

    def read(self, topic: str) -> list[PublishedRecord]:
        """Every committed record of a topic, up to its end."""
        return list(read(self.servers, topic))

    def embeddings(self) -> list[tuple[PublishedRecord, Embedding]]:
        """Every embedding; tombstones are left out."""
        records = self.read(self.settings.topic_embeddings)
        return [(record, CODEC.decode(Embedding, record.value)) for record in records if record.value is not None]

    def scores(self) -> list[tuple[PublishedRecord, Score]]:
        """Every score; tombstones are left out."""
        records = self.read(self.settings.topic_scores)
        return [(record, CODEC.decode(Score, record.value)) for record in records if record.value is not None]

    def dead_letters(self) -> list[PublishedRecord]:
        """Every dead letter."""
        return self.read(self.settings.topic_dead_letters)

    # -- progress ---------------------------------------------------------------------------------------------

    def lag(self, topic: str | None = None, group: str | None = None) -> int:
        """Offsets of a topic (the requests) that a group (the worker's) has not committed, markers counted too."""
        topic, group = topic or self.settings.topic_requests, group or self.settings.group
        with _consumer(self.servers, group, "read_uncommitted") as consumer:
            parts = _partitions(consumer, topic)
            committed = {part.partition: max(part.offset, 0) for part in consumer.committed(parts, timeout=20)}
            ends = {part.partition: consumer.get_watermark_offsets(part, timeout=20)[1] for part in parts}
        assert all(committed[part] <= end for part, end in ends.items()), "committed beyond the end"
        return sum(end - committed[part] for part, end in ends.items())

    def finish(self) -> None:
        """Waits until the worker's group has committed everything."""
        lag = self.lag()

        def done() -> bool:
            nonlocal lag
            lag = self.lag()
            return lag == 0

        try:
            wait_until(done, "the worker's group has no lag")
        except AssertionError as error:
            raise AssertionError(f"{error}: it is {lag}") from None

    def finish_scores(self) -> None:
        """Waits until the scorer's group has committed everything."""
        wait_until(
            lambda: self.lag(self.settings.topic_embeddings, f"{self.settings.group}-score") == 0,
            "the scorer's group has no lag",
        )


def read(servers: str, topic: str) -> Iterator[PublishedRecord]:
    """Every committed record of a topic up to its end, partition by partition in order."""
    with _consumer(servers, unique("reader"), "read_committed") as consumer:
        parts = _partitions(consumer, topic)
        consumer.assign([TopicPartition(topic, part.partition, OFFSET_BEGINNING) for part in parts])
        found: dict[int, list[PublishedRecord]] = {part.partition: [] for part in parts}
        open_parts, deadline = set(found), time.monotonic() + PATIENCE
        while open_parts:
            assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
            for message in consumer.consume(1000, timeout=0.5):
                error = message.error()
                if error is None:
                    found[message.partition()].append(_record(message, message.headers() or ()))
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_parts.discard(message.partition())
                else:
                    raise KafkaException(error)
    for records in found.values():
        yield from records


@contextmanager
def _consumer(servers: str, group: str, isolation: str) -> Iterator[Consumer]:
    settings = {
        "bootstrap.servers": servers,
        "group.id": group,
        "isolation.level": isolation,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 50,
        "log_level": 0,
    }
    with ExitStack() as stack:
        consumer = Consumer(settings)
        stack.callback(consumer.close)
        yield consumer


def _partitions(consumer: Consumer, topic: str) -> list[TopicPartition]:
    return [
        TopicPartition(topic, number) for number in consumer.list_topics(topic, timeout=20).topics[topic].partitions
    ]


def _collecting(sent: list[PublishedRecord], headers: Headers) -> Callable[[KafkaError | None, Message], None]:
    """A delivery callback; the client does not give headers back, so they come with it."""

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise KafkaException(error)
        sent.append(_record(message, headers))

    return delivered


def _record(message: Message, headers: Headers) -> PublishedRecord:
    kind, timestamp = message.timestamp()
    return PublishedRecord(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp=timestamp,
        key=message.key(),
        value=message.value(),
        headers=tuple(headers),
        timestamp_type=int(kind == TIMESTAMP_LOG_APPEND_TIME),
    )
