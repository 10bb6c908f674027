"""The scene of a fault: a stream under load, a watch that counts its results as they come, and the final audit."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

from tests.faults.audit import Audit, audit
from tests.support.kafka import unique
from tests.support.stream import Program, Stream, encoded

MB = 1024 * 1024
#: Seconds without a result, while nothing is broken any more, after which a stream has failed.
PATIENCE = 90.0
#: Least cosine between two answers of the real model to one request.
ALIKE = 0.99999


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a fault: records, how often it strikes, how long an outage lasts, and over how many workers."""

    records: int
    strikes: int = 1
    seconds: float = 0.0
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row of the table; `stall` and `recovery` are the longest, in seconds."""

    records: int
    lost: int
    repeated: int
    stall: float
    recovery: float
    note: str = ""


class Watch:
    """Counts results and dead letters the moment they can be read."""

    def __init__(self, servers: str, topics: tuple[str, ...]) -> None:
        self.count = 0
        self.last = 0.0
        #: Longest time between two results.
        self.stall = 0.0
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": unique("watch"),
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        known = self._consumer.list_topics(timeout=20).topics
        parts = [(name, number) for name in topics for number in known[name].partitions]
        self._consumer.assign([TopicPartition(*part, OFFSET_BEGINNING) for part in parts])
        self._ends = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Stops counting."""
        self._ends.set()
        self._thread.join()
        self._consumer.close()

    @property
    def idle(self) -> float:
        """Seconds since the last result."""
        return time.monotonic() - self.last

    def _run(self) -> None:
        while not self._ends.is_set():
            came = sum(message.error() is None for message in self._consumer.consume(1000, timeout=0.05))
            if came:
                now = time.monotonic()
                self.stall = max(self.stall, now - self.last) if self.last else 0.0
                self.last = now
                self.count += came


class Scene:
    """A stream of its own on given brokers; use it in a `with`."""

    def __init__(self, servers: str, folder: Path, **settings: str | int | float) -> None:
        """`settings` as `streams.settings.Settings` names them."""
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {"session_timeout": 6, "lanes": "bulk", **settings}
        self.stream = Stream(servers, folder, **wanted)
        self.settings = self.stream.settings
        self.watch = Watch(servers, (self.settings.topic_embeddings, self.settings.topic_dead_letters))
        self.recovery = 0.0
        #: Requests that are to be found in the end.
        self.sent = 0
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 2_000_000,
                "message.max.bytes": 1_000_000_000,  # what is too large is the topic's to say
                "compression.type": "zstd",
                "log_level": 0,
            }
        )

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *error: object) -> None:
        self.watch.close()
        self.stream.__exit__(*error)

    # -- load -------------------------------------------------------------------------------------------------

    def start(self, module: str = "agents.cli", **settings: str | int | float) -> Program:
        """Starts a worker without waiting; `module` is what runs it."""
        return self.stream.start("worker", module, **settings)

    def send(self, count: int, words: Mapping[int, str] = {}) -> None:
        """Produces so many sentences; `words` has the text of some, by their number in this call."""
        for number in range(count):
            fields = {"text": words[number]} if number in words else {}
            self.produce(encoded(self.sent, **fields))
        self.flush()

    def produce(self, value: bytes, key: bytes | None = None) -> None:
        """Produces one request, without waiting for it."""
        self._producer.produce(self.settings.topic_requests, value, key)
        self._producer.poll(0)
        self.sent += 1

    def flush(self) -> None:
        """Waits until the broker has what was produced."""
        assert self._producer.flush(PATIENCE) == 0, "the broker does not take the requests"

    @contextmanager
    def flood(self, rate: int = 400) -> Iterator[None]:
        """So many requests a second until the block ends, broker or no broker."""
        ends = Event()

        def run() -> None:
            while not ends.wait(0.05):
                for _ in range(rate // 20):
                    self.produce(encoded(self.sent))

        thread = Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()
        self.flush()

    # -- progress ---------------------------------------------------------------------------------------------

    def await_results(self, more: int, patience: float = PATIENCE) -> None:
        """Waits for so many more results."""
        target, since = self.watch.count + more, time.monotonic()
        while self.watch.count < target:
            waited = time.monotonic() - max(since, self.watch.last)
            assert waited < patience, f"no result for {waited:.0f} s; {target - self.watch.count} are missing"
            time.sleep(0.02)

    def recover(self, patience: float = PATIENCE) -> None:
        """Waits for the next result, where there is work left, and keeps the longest time it took."""
        since, count = time.monotonic(), self.watch.count
        while self.watch.count == count and self.lag() != 0:
            waited = time.monotonic() - since
            assert waited < patience, f"no result for {waited:.0f} s"
            time.sleep(0.02)
        self.recovery = max(self.recovery, time.monotonic() - since)

    def finish(self, tend: Callable[[], Any] = lambda: None, patience: float = PATIENCE) -> None:
        """Waits until everything is committed; calls `tend` meanwhile."""
        since = time.monotonic()
        while (lag := self.lag()) != 0:
            tend()
            idle = time.monotonic() - max(since, self.watch.last)
            assert idle < patience, f"nothing moved for {idle:.0f} s with a lag of {lag}"
            time.sleep(0.1)

    def lag(self) -> int | None:
        """Requests the group has not committed; None where the broker does not say."""
        try:
            return self.stream.lag()
        except KafkaException:
            return None

    def audit(self, *, mutated: bool = False) -> Audit:
        """Reads everything back; fails where anything is wrong that no fault excuses."""
        found = audit(self.settings, mutated=mutated, exact=self.settings.model == "deterministic")
        assert len(found.requests) == self.sent
        assert not found.wrong, found.wrong[:5]
        assert found.lost == 0, f"{found.lost} of {self.sent} are lost"
        assert found.cosine >= ALIKE, f"two answers of the model have a cosine of {found.cosine}"
        return found

    def outcome(self, found: Audit, note: str = "") -> Outcome:
        """The row of the table."""
        return Outcome(
            len(found.requests), found.lost, found.repeated, round(self.watch.stall, 1), round(self.recovery, 1), note
        )


def outlast(program: Program, seconds: float) -> None:
    """Lets an outage last; fails where the worker says meanwhile that it is not alive: to restart it would not help."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        status, why = program.get("/health/live")
        assert status != HTTPStatus.SERVICE_UNAVAILABLE, f"the worker calls itself dead: {why}"
        time.sleep(min(1.0, max(0.0, ends - time.monotonic())))


def memory(program: Program) -> int:
    """Resident bytes of a process."""
    return int(psutil.Process(program.pid).memory_info().rss)


def peak(program: Program) -> int:
    """The most resident bytes a process ever had; those of now where the system does not say."""
    status = Path(f"/proc/{program.pid}/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else memory(program)


def processor(program: Program) -> float:
    """Seconds of processor time a process has used."""
    times = psutil.Process(program.pid).cpu_times()
    return float(times.user + times.system)
