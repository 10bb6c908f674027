"""Faults of the model, and of records."""

import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults.audit import Audit
from tests.faults.scene import MB, Outcome, Scene, Size, memory, peak
from tests.support.kafka import HasBrokers
from tests.support.stream import encoded
from tests.unit.schemas.test_codec_hostile import BYTES, mutated  # the same damage, on its way through Kafka

#: Seconds that a record alone may hold up its neighbours before the stream counts as stuck.
ISOLATION = 180.0
#: Deaths over a record before it is found; each of a hanging model takes as long as liveness allows.
DEATHS = 6
POISONED = "tests.faults.poisoned_worker"
#: Seconds after the stall time within which liveness must have failed.
SLACK = 15.0


def kills(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """A text makes the process die each time it is embedded; whoever watches the worker starts it again."""
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, session_timeout=3) as scene:
        return _isolated(scene, size, "die")


def hangs(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """A text makes the model hang for ever; whoever watches the worker kills it as liveness fails."""
    settings = {"session_timeout": 3, "stall_seconds": size.seconds}
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, **settings) as scene:
        return _isolated(scene, size, "hang")


def _isolated(scene: Scene, size: Size, word: str) -> Outcome:
    scene.send(size.records, {size.records // 2: f"This one will {word} at once"})
    watcher = Supervisor(scene)
    scene.finish(watcher.tend, ISOLATION + DEATHS * size.seconds)
    found = scene.audit()
    _assert_dead(found, {word: "killer"})
    assert watcher.slowest <= size.seconds + SLACK, f"liveness failed only after {watcher.slowest:.0f} s"
    stalls = f", liveness failed after {watcher.slowest:.0f} s at most" if watcher.slowest else ""
    return scene.outcome(found, f"{watcher.deaths} deaths until it was found{stalls}")


class Supervisor:
    """Starts a worker again whenever it has ended, and kills one that says it is not alive, as an orchestrator does."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.deaths = 0
        #: Longest time that a worker with work to do did nothing before liveness failed.
        self.slowest = 0.0
        self._start()

    def _start(self) -> None:
        self._worker = self._scene.start(POISONED)
        self._ready = False

    def tend(self) -> None:
        """Looks after the worker once."""
        if not self._worker.running:
            self.deaths += 1
            self._start()
        elif not self._ready:
            self._ready = self._worker.says("ready")
            self._since = time.monotonic()
        elif self._worker.get("/health/live")[0] == 503:
            self.slowest = max(self.slowest, time.monotonic() - max(self._since, self._scene.watch.last))
            self._worker.kill()


def fails(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """The model raises, has no memory left, or gives NaN, each for some of the texts."""
    reasons = {"fail": "embedding-failed", "exhaust": "embedding-failed", "spoil": "embedding-failed"}
    words = {size.records // 10 * step: f"This one will {word}" for step, word in enumerate(reasons)}
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery) as scene:
        worker = scene.start(POISONED)
        scene.send(size.records, words)
        scene.finish()
        found = scene.audit()
        assert worker.running
        assert found.repeated == 0
        _assert_dead(found, reasons)
        return scene.outcome(found, f"{len(words)} of the texts, each a dead letter")


def poison(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """One text in a thousand raises: these are the only dead letters, everybody else is answered, at little cost."""
    words = dict.fromkeys(range(333, size.records, 1000), "This one will fail")
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery) as scene:
        scene.send(size.records, words)
        worker = scene.start(POISONED)
        scene.finish()
        calls = [line["rows"] for line in worker.lines() if line["event"] == "model-call"]
        batches = worker.metrics()['streams_batch_rows_count{stage="embed"}'] - len(words)  # each has a second try
        found = scene.audit()
        assert found.repeated == 0
        _assert_dead(found, {"fail": "embedding-failed"})
        extra, most = len(calls) - batches, len(words) * (2 * math.ceil(math.log2(max(calls))) + 1)
        assert extra <= most, f"{extra} extra calls of the model"
        note = f"{len(words)} dead letters, {extra:.0f} extra calls of the model, {max(calls)} texts a call at most"
        return scene.outcome(found, note)


def crawls(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """The model is slow and moves: a batch takes nearly as long as may be, many of them far longer, and it lives."""
    settings = {"stall_seconds": size.seconds, "token_budget": 64}
    words = {number: f"Number {number} will crawl" for number in range(size.records)}
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, **settings) as scene:
        scene.send(size.records, words)
        watcher = Supervisor(scene)
        scene.finish(watcher.tend)
        found = scene.audit()
        assert watcher.deaths == 0, "a worker was killed that was only slow"
        assert found.repeated == 0
        return scene.outcome(found, f"never called dead, {size.seconds:g} s without progress being allowed")


def _assert_dead(found: Audit, reasons: dict[str, str]) -> None:
    """The dead letters are those texts that hold one of the words, with its reason, and nobody else."""
    expected = {
        place: reasons[word] for place in found.requests for word in reasons.keys() & set(found.text(place).split())
    }
    assert found.letters == expected
    assert found.answers.keys() == found.requests.keys() - expected.keys()


def hostile(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """Requests are damaged in every way: each is a dead letter or, where it still is a record, answered."""
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, dead_letter_limit="none") as scene:
        worker = scene.start()
        scene.send(1000)
        scene.await_results(1000)
        before = memory(worker)
        for value in _damaged(size.records):
            scene.produce(value)
        scene.flush()
        scene.finish()
        most = peak(worker)
        assert worker.running
        found = scene.audit(mutated=True)
        assert found.repeated == 0
        assert most - before < 256 * MB, f"the worker grew by {(most - before) / MB:.0f} MB"
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(found.letters.values()).most_common())
        return scene.outcome(found, f"grew by {(most - before) / MB:.0f} MB; {reasons}")


def _damaged(count: int) -> Iterator[bytes]:
    dice = random.Random(20260101)
    cases = [value for value, _ in BYTES.values() if len(value) < 1000]
    for number in range(count):
        yield dice.choice(cases) if number % 10 == 0 else bytes(mutated(encoded(number), dice))  # type: ignore[no-untyped-call]
