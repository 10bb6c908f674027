"""Faults of workers: killed, told to leave, joining and leaving."""

import random
import time
from pathlib import Path

from tests.faults.scene import Outcome, Scene, Size
from tests.support.kafka import HasBrokers


def killed(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """Workers are killed (SIGKILL) at random moments under load, and started again."""
    dice = random.Random(1)
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, session_timeout=3) as scene:
        workers = [scene.start() for _ in range(size.workers)]
        for _ in range(size.strikes):
            scene.send(size.records // size.strikes)
            scene.await_results(int(size.records / size.strikes * dice.uniform(0.1, 0.6)))
            time.sleep(dice.uniform(0, 0.1))
            victim = dice.randrange(size.workers)
            workers[victim].kill()
            workers[victim] = scene.start()
            scene.recover()
        scene.finish()
        found = scene.audit()
        assert delivery == "at_least_once" or found.repeated == 0, f"{found.repeated} came twice"
        return scene.outcome(found, f"{size.strikes} kills, {size.workers} workers")


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
                else:
                    workers.pop(dice.randrange(len(workers) - 1)).leave()
                time.sleep(dice.uniform(0.5, 3.5))
        scene.finish()
        found = scene.audit()
        assert delivery == "at_least_once" or found.repeated == 0, f"{found.repeated} came twice"
        return scene.outcome(found, f"{size.strikes} joins and leaves, up to {size.workers} workers")
