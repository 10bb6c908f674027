"""A scale-out without a cluster: a real broker, real worker processes, and the ScaledObject's rule in between.

Long, by hand: `python -m tests.deploy.scale_out --burst 20000 --workers 6`. Each worker does a set number of sentences
a second without using the processor, so that several of them help on a small machine, too.
"""

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.deploy.autoscaler import Autoscaler, Trigger
from tests.deploy.manifests import keda, of_kind
from tests.deploy.slow_worker import RATE
from tests.faults.audit import audit
from tests.support.kafka import single, unique
from tests.support.stream import Program, Stream, encoded

#: Seconds between two looks at the lag; a cluster looks every 15.
TICK = 1.0
#: Seconds that anything may take that should come to an end.
PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much load, for whom, and how fast the autoscaler lives beside its manifest."""

    #: Sentences that come at once, and those that come each second before and after.
    burst: int
    trickle: int = 5
    #: Sentences a second of one worker, and the most workers; so many partitions, too.
    rate: int = 60
    workers: int = 4
    #: Seconds that the lag of a threshold takes one worker: `sentence-streams capacity` takes 60 for this lane.
    threshold_seconds: float = 5.0
    pace: float = 60.0


@dataclass(frozen=True, slots=True)
class Moment:
    """A row of the table; `oldest` is how long the oldest record that is not committed has waited, in seconds."""

    seconds: float
    lag: int
    replicas: int
    ready: int
    oldest: float

    def __str__(self) -> str:
        return f"{self.seconds:8.1f} {self.lag:8d} {self.replicas:9d} {self.ready:6d} {self.oldest:8.1f}"


HEADING = f"{'seconds':>8} {'lag':>8} {'replicas':>9} {'ready':>6} {'oldest':>8}"


@dataclass(slots=True)
class Report:
    """What happened."""

    moments: list[Moment]
    lost: int
    repeated: int
    #: Seconds from the burst until nothing waited, and those that the workers that were ready had needed at their rate.
    drained: float
    ideal: float

    @property
    def most(self) -> int:
        """The most replicas there were."""
        return max(moment.replicas for moment in self.moments)

    @property
    def turns(self) -> int:
        """How often the number of replicas changed its direction: once, up and then down, is no flapping."""
        counts = [moment.replicas for moment in self.moments]
        steps = [b - a for a, b in pairwise(counts) if a != b]
        return sum((a > 0) != (b > 0) for a, b in pairwise(steps))


class Load:
    """Sends requests, and knows when each place of the topic was written."""

    def __init__(self, servers: str, topic: str) -> None:
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 5, "log_level": 0})
        self._topic = topic
        self._written: dict[tuple[int, int], float] = {}
        self.sent = 0

    def send(self, count: int) -> None:
        """Sends so many, spread over the partitions, and waits for the receipts."""
        for _ in range(count):
            self._producer.produce(self._topic, encoded(self.sent), f"{self.sent}", on_delivery=self._noted)
            self.sent += 1
        assert self._producer.flush(60) == 0

    def _noted(self, error: object, message: Message) -> None:
        assert error is None
        self._written[message.partition(), message.offset()] = time.monotonic()

    def waited(self, committed: Mapping[int, int]) -> float:
        """Returns how long the oldest record at or beyond these offsets has waited, in seconds."""
        now = time.monotonic()
        return max((now - self._written.get((part, offset), now) for part, offset in committed.items()), default=0.0)


@dataclass(slots=True)
class Deployment:
    """Worker processes in place of pods: the newest leaves first."""

    start: Callable[[], Program]
    programs: list[Program] = field(default_factory=list)
    leaving: list[Program] = field(default_factory=list)

    def scale(self, replicas: int) -> None:
        """Starts or tells to leave, and waits for nobody."""
        while len(self.programs) < replicas:
            self.programs.append(self.start())
        while len(self.programs) > replicas:
            self.leaving.append(self.programs.pop())
            self.leaving[-1].leave()

    @property
    def ready(self) -> int:
        """How many could take a record now."""
        return sum(program.says("ready") for program in self.programs)


def rule(plan: Plan) -> Autoscaler:
    """The worker's ScaledObject, with the first of its triggers and the threshold of these slow workers."""
    spec = copy.deepcopy(of_kind("ScaledObject", keda())["sentence-streams-worker"]["spec"])
    spec["maxReplicaCount"] = plan.workers
    metadata = spec["triggers"][0]["metadata"] | {"lagThreshold": str(int(plan.rate * plan.threshold_seconds))}
    return Autoscaler(spec, [Trigger.of(metadata)], plan.pace)


def simulate(servers: str, folder: Path, plan: Plan, say: Callable[[str], Any] = print) -> Report:
    """Quiet, a burst, quiet again, until one worker is left; returns what happened."""
    with Stream(servers, folder, lanes="bulk", partitions=plan.workers, token_budget=30) as stream:
        deployment = Deployment(lambda: stream.start("worker", "tests.deploy.slow_worker"))
        load, moments, autoscaler = Load(servers, stream.settings.topic_requests), [], rule(plan)
        watch = Watch(servers, stream)
        deployment.scale(1)
        deployment.programs[0].ready()
        say(HEADING)
        began, drained, ideal = time.monotonic(), 0.0, 0.0
        load.send(plan.burst)
        while True:
            now = time.monotonic()
            ends, committed = watch.look()
            lags = [ends[part] - committed[part] for part in sorted(ends)]
            moments.append(
                Moment(now - began, sum(lags), len(deployment.programs), deployment.ready, load.waited(committed))
            )
            say(str(moments[-1]))
            if not drained and sum(lags) <= plan.trickle:
                drained, ideal = now - began, _ideal(plan, moments)
            if drained and len(deployment.programs) == 1 and len(moments) > 5:
                break
            assert now - began < PATIENCE, "the workers never came to rest"
            deployment.scale(autoscaler.decide(now, len(deployment.programs), [lags]))
            load.send(plan.trickle)
            time.sleep(max(0.0, TICK - (time.monotonic() - now)))
        stream.finish()
        for program in [*deployment.programs, *deployment.leaving]:
            program.leave()
            assert program.exit() == 0, program.tail()
        watch.close()
        found = audit(stream.settings)
    assert len(found.requests) == load.sent
    assert not found.wrong, found.wrong[:3]
    return Report(moments, found.lost, found.repeated, drained, ideal)


def _ideal(plan: Plan, moments: list[Moment]) -> float:
    """Seconds that the burst needs, if whoever is ready does its rate from the moment on that it is."""
    left, seconds = float(plan.burst), 0.0
    for moment, following in zip(moments, [*moments[1:], moments[-1]], strict=True):
        took = following.seconds - moment.seconds
        done = max(1, moment.ready) * plan.rate * took
        if done >= left:
            return seconds + left / (max(1, moment.ready) * plan.rate)
        left, seconds = left - done, seconds + took
    return seconds + left / (max(1, moments[-1].ready) * plan.rate)


class Watch:
    """Asks the broker how far the group is, as KEDA does."""

    def __init__(self, servers: str, stream: Stream) -> None:
        self._topic = stream.settings.topic_requests
        self._partitions = range(stream.settings.partitions)
        settings = {"bootstrap.servers": servers, "enable.auto.commit": False, "log_level": 0}
        self._group = Consumer({**settings, "group.id": stream.settings.group})
        self._any = Consumer({**settings, "group.id": unique("watch")})

    def look(self) -> tuple[dict[int, int], dict[int, int]]:
        """Returns end and committed offset of each partition."""
        parts = [TopicPartition(self._topic, number) for number in self._partitions]
        committed = {part.partition: max(0, part.offset) for part in self._group.committed(parts, timeout=20)}
        ends = {part.partition: self._any.get_watermark_offsets(part, timeout=20)[1] for part in parts}
        return ends, committed

    def close(self) -> None:
        """Disconnects."""
        self._group.close()
        self._any.close()


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.scale_out", description=__doc__)
    parser.add_argument("--burst", type=int, default=20_000, help="sentences that come at once")
    parser.add_argument("--rate", type=int, default=100, help="sentences a second of one worker")
    parser.add_argument("--workers", type=int, default=6, help="most workers, and partitions")
    chosen = parser.parse_args()
    os.environ[RATE] = str(chosen.rate)
    folder = Path(tempfile.mkdtemp(prefix="sentence-streams-scale-out-"))
    kafka = single(folder / "kafka")
    kafka.start()
    try:
        plan = Plan(chosen.burst, rate=chosen.rate, workers=chosen.workers)
        report = simulate(kafka.bootstrap_servers, folder, plan)
    finally:
        kafka.stop()
    print(
        f"{report.lost} lost, {report.repeated} repeated, up to {report.most} workers, {report.turns} change of "
        f"direction; drained in {report.drained:.0f} s, {report.ideal:.0f} s without any loss"
    )


if __name__ == "__main__":
    main()
