"""Faults of workers: killed, told to leave, joining and leaving."""

import random
import time
from pathlib import Path

from tests.faults.scene import Outcome, Scene, Size
from tests.support.kafka import HasBrokers
from tests.support.stream import Program

#: Seconds that a worker is given to join, on a machine where many start at once.
JOIN = 30.0
#: Seconds without a result that are no failure yet where workers load a real model, on a machine that is busy.
LOADING = 300.0


def killed(
    kafka: HasBrokers, folder: Path, size: Size, delivery: str, longest: int = 1, **settings: str | float
) -> Outcome:
    """Workers are killed (SIGKILL) at random moments under load, and started again.

    Texts are one to `longest` times a short sentence: a real model pads the short ones differently each time.
    """
    dice = random.Random(1)
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, session_timeout=3, **settings) as scene:
        workers = [scene.start() for _ in range(size.workers)]
        for _ in range(size.strikes):
            count = size.records // size.strikes
            texts = {n: f"Sentence number {scene.sent + n}. " * dice.randint(1, longest) for n in range(count)}
            scene.send(count, texts)
            scene.await_results(int(count * dice.uniform(0.1, 0.6)), LOADING)
            time.sleep(dice.uniform(0, 0.1))
            victim = dice.randrange(size.workers)
            workers[victim].kill()
            workers[victim] = scene.start()
            scene.recover(LOADING)
        scene.finish(patience=LOADING)
        found = scene.audit()
        assert delivery == "at_least_once" or found.repeated == 0, f"{found.repeated} came twice"
        alike = "" if found.cosine == 1.0 else f", least cosine of repeats {found.cosine:.8f}"
        return scene.outcome(found, f"{size.strikes} kills, {size.workers} workers{alike}")


def told_to_leave(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """A worker is told to leave (SIGTERM) in the middle of batches, and another takes over."""
    dice = random.Random(2)
    slowest = 0.0
    # Small batches, so that a worker is still in the middle of the rest when it is told.
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, token_budget=64) as scene:
        worker = scene.start()
        for _ in range(size.strikes):
            scene.send(size.records // size.strikes)
            scene.await_results(int(size.records / size.strikes * dice.uniform(0.1, 0.6)))
            time.sleep(dice.uniform(0, 0.1))
            since = time.monotonic()
            worker.stop()
            slowest = max(slowest, time.monotonic() - since)
            worker = scene.start()
            scene.recover()
        scene.finish()
        found = scene.audit()
        assert found.repeated == 0, f"{found.repeated} came twice"
        return scene.outcome(found, f"{size.strikes} SIGTERMs, slowest exit {slowest:.1f} s")


def _let_join(worker: Program) -> None:
    """Gives a worker the time to join: half of them are members when the next thing happens, half are on their way."""
    deadline = time.monotonic() + JOIN
    while not worker.says("ready") and time.monotonic() < deadline:
        time.sleep(0.2)


def coming_and_going(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """Workers join and leave at random, several rebalances under way at once."""
    dice = random.Random(3)
    partitions = max(4, size.workers)
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, token_budget=64, partitions=partitions) as scene:
        scene.send(size.records // 2)
        workers = [scene.start()]
        scene.await_results(1)
        with scene.flood(size.records // 2 // max(1, size.strikes * 2)):
            for _ in range(size.strikes):
                if len(workers) == 1 or (len(workers) < size.workers and dice.random() < 0.6):
                    workers.append(scene.start())
                    if dice.random() < 0.5:
                        _let_join(workers[-1])
                else:
                    workers.pop(dice.randrange(len(workers) - 1)).leave()
                time.sleep(dice.uniform(0.5, 3.5))
        scene.send(max(0, size.records - scene.sent))
        scene.finish()
        found = scene.audit()
        # At least once: a worker that gets no processor for as long as its session repeats what it had in hand.
        assert delivery == "at_least_once" or found.repeated == 0, f"{found.repeated} came twice"
        return scene.outcome(found, f"{size.strikes} joins and leaves, up to {size.workers} workers")
