"""Too much at once, and for long: how much memory a worker takes, what it costs, whether it grows."""

import math
import time
from pathlib import Path

import numpy as np

from tests.faults.scene import MB, Outcome, Scene, Size, memory, peak, processor
from tests.support.kafka import HasBrokers
from tests.support.stream import Program, encoded

MEASURED = "tests.faults.measured_worker"
#: Bytes by which a worker may grow over a backlog.
GROWTH = 256 * MB
#: Records before anything is measured: by then everything is loaded.
WARM = 2000
LARGE = 10 * MB
#: Share of what a worker can do at most that it is given in the long run.
SHARE = 0.7
#: Share of that run that is left out: caches fill, the allocator settles.
SETTLING = 0.2


def backlog(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """A worker finds a long backlog."""
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery) as scene:
        before = _warm(scene)
        scene.send(size.records)
        since, worker = time.monotonic(), scene.start()
        scene.finish()
        seconds = time.monotonic() - since
        note = f"{size.records / seconds:.0f} a second, {_grown(worker, before, GROWTH)}"
        return scene.outcome(scene.audit(), note)


def large(kafka: HasBrokers, folder: Path, size: Size, delivery: str, model: str = "deterministic") -> Outcome:
    """Records of 10 MB among others, half of them sentences and half of them rubbish."""
    settings = {"max_request_bytes": LARGE + MB, "model": model}
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, **settings) as scene:
        before = _warm(scene)
        noise = np.random.default_rng(5)
        for _ in range(size.strikes):
            letters = noise.integers(ord("a"), ord("z") + 8, LARGE, np.uint8)  # what is beyond z becomes a space
            text = np.where(letters > ord("z"), ord(" "), letters).astype(np.uint8).tobytes().decode()
            scene.produce(encoded(scene.sent, text=text))
            scene.produce(noise.bytes(LARGE))
            scene.send(size.records // size.strikes)
        worker = scene.start()
        scene.finish()
        grown = _grown(worker, before, math.inf)
        found = scene.audit()
        assert len(found.letters) == size.strikes
        return scene.outcome(found, f"{2 * size.strikes} of 10 MB, {grown}")


def bomb(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """Records that take some kilobytes on the wire and, unpacked, `size.seconds` MB each."""
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery) as scene:
        before = _warm(scene)
        for _ in range(size.strikes):
            scene.produce(bytes(int(size.seconds) * MB))
            scene.flush()  # a batch of its own: one that cannot be unpacked is one dead letter
            scene.send(size.records // size.strikes)
        worker = scene.start()
        scene.finish()
        grown = _grown(worker, before, math.inf)
        found = scene.audit()
        assert len(found.letters) == size.strikes
        return scene.outcome(found, f"{size.strikes} of {size.seconds:g} MB unpacked, {grown}")


def _warm(scene: Scene) -> int:
    """Returns the resident bytes of a worker that has answered some records, and has it leave."""
    worker = scene.start()
    scene.send(WARM)
    scene.finish()
    resident = memory(worker)
    worker.stop()
    return resident


def _grown(worker: Program, before: int, most: float) -> str:
    grown = peak(worker) - before
    assert grown < most, f"the worker grew by {grown / MB:.0f} MB"
    return f"peak {peak(worker) / MB:.0f} MB, {grown / MB:.0f} MB above a worker after {WARM:,} small records"


def price(kafka: HasBrokers, folder: Path, size: Size) -> Outcome:
    """What exactly once costs: both deliveries work off the same backlog, in turn."""
    modes = ("at_least_once", "exactly_once")
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    costs: dict[str, list[float]] = {mode: [] for mode in modes}
    total = 0
    for turn in range(size.strikes):
        for mode in modes:
            with Scene(kafka.bootstrap_servers, folder / f"{mode}-{turn}", delivery=mode) as scene:
                worker = scene.start()
                scene.send(WARM)
                scene.finish()
                since, used = time.monotonic(), processor(worker)
                scene.send(size.records)
                scene.await_results(WARM + size.records - scene.watch.count)
                rates[mode].append(size.records / (time.monotonic() - since))
                costs[mode].append((processor(worker) - used) / size.records * 1e6)
                outcome = scene.outcome(scene.audit())
                total += outcome.records
    words = [
        f"{mode.replace('_', ' ')} {np.median(rates[mode]):.0f} a second, {np.median(costs[mode]):.0f} us of processor"
        for mode in modes
    ]
    return Outcome(total, 0, 0, 0.0, 0.0, f"medians of {size.strikes}: {', '.join(words)} a record")


def steady(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """A worker has 70 % of what it can do for `size.seconds`: its memory stays, and its event loop is prompt."""
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery) as scene:
        worker = scene.start(MEASURED)
        scene.send(WARM)
        scene.finish()
        since = time.monotonic()
        scene.send(size.records)
        scene.finish()
        rate = int(SHARE * size.records / (time.monotonic() - since))
        resident: list[tuple[float, int]] = []
        since = time.monotonic()
        with scene.flood(rate):
            while (at := time.monotonic() - since) < size.seconds:
                resident.append((at, memory(worker)))
                time.sleep(size.seconds / 500)
        scene.finish()
        worker.stop()
        [loop] = [line for line in worker.lines() if line["event"] == "loop"]
        slope, mean = _slope([look for look in resident if look[0] > SETTLING * size.seconds])
        note = (
            f"{rate} a second for {size.seconds / 60:.0f} min, {mean / MB:.0f} MB, slope {slope:+.2f} %/h, "
            f"loop late p99 {loop['p99'] * 1000:.0f} ms, worst {loop['worst'] * 1000:.0f} ms"
        )
        return scene.outcome(scene.audit(), note)


def _slope(looks: list[tuple[float, int]]) -> tuple[float, float]:
    """Percent an hour by which memory grows, by least squares, and its mean in bytes."""
    seconds, resident = np.array(looks, float).T
    return float(np.polyfit(seconds, resident, 1)[0]) * 3600 / float(resident.mean()) * 100, float(resident.mean())
