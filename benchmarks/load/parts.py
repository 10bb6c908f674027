"""What is measured, part by part; each gives figures with a value for every round."""

import asyncio
import http.client
import json
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.load import scene
from benchmarks.load.generators import Closed, Open, closed, opened
from benchmarks.load.open_loop import Plan
from benchmarks.load.scene import BOTH, OURS, THEIRS, Bridge
from benchmarks.sentences import sentences
from streams.embedding.loader import DEFAULT_MODEL, find

PATH = "/v1/embeddings"
#: Connections that are open, as the goal says; callers at once that show what a model can do.
CONNECTIONS, CALLERS = 2_000, 256
#: Share of the capacity at which an answer should be quick.
SHARE = 0.8
#: Seconds that a caller of an overloaded bridge is ready to wait.
READY_TO_WAIT = 2
#: Different texts that a cache holds; where nothing is cached, so many that few are under way twice.
FEW, MANY = 64, 5_000
#: Callers at once, beside Infinity, and the seconds that they ask.
BESIDE = {1: 5, 64: 8, 512: 12}


@dataclass(slots=True)
class Measured:
    """Where things run, and the figures as they come: name -> a value for each round."""

    servers: str
    folder: Path
    rounds: int
    backend: dict[str, str]
    _rows: dict[str, tuple[str, str, list[float]]] = field(default_factory=dict)

    def note(self, name: str, unit: str, value: float, goal: str = "") -> None:
        """Notes a value of one round."""
        self._rows.setdefault(name, (unit, goal, []))[2].append(value)
        print(f"  {name}: {value:.2f} {unit}", flush=True)

    def figures(self) -> list[Figure]:
        """The table."""
        return [Figure(name, unit, values, goal) for name, (unit, goal, values) in self._rows.items()]


async def cached(measured: Measured) -> None:
    """A model that costs nothing and texts that are known: what is left is HTTP, and how much of it is ours."""
    texts = bodies(FEW)
    settings = {"model": "deterministic"}
    async with scene.bridged(
        measured.servers, measured.folder, "cached", bridge=THEIRS, worker=OURS, **settings
    ) as bridge:
        with scene.bare_fastapi(measured.folder, THEIRS) as bare:
            for port in (bare, bridge.port):
                await asyncio.to_thread(closed, port, PATH, texts, FEW, 2, OURS)
            for _ in range(measured.rounds):
                limit = await _at_capacity(measured, "bare FastAPI", bare, texts)
                ours = await _at_capacity(measured, "cached texts", bridge.port, texts)
                measured.note("cached texts : bare FastAPI, capacity", "x", ours / limit)


async def _at_capacity(measured: Measured, name: str, port: int, texts: Sequence[str]) -> float:
    """Notes what a server can do at most, and how quick it is at SHARE of that; returns the first."""
    most = await asyncio.to_thread(closed, port, PATH, texts, FEW, 6, OURS)  # more callers would be overload
    plan = Plan(port, PATH, texts, SHARE * most.rate, 8, CONNECTIONS)
    found = await asyncio.to_thread(opened, plan, OURS)
    goal, loop = name == "cached texts", f"{name}, open loop at 80 %, {CONNECTIONS:,} connections"
    measured.note(f"{name}, capacity, {FEW} callers", "requests/s", most.rate)
    measured.note(f"{loop}, p50", "ms", found.percentile(50))
    measured.note(f"{loop}, p99", "ms", found.percentile(99), "< 500" if goal else "")
    measured.note(f"{name}, errors", "", found.failed + most.failed, "0" if goal else "")
    return most.rate


async def model(measured: Measured) -> None:
    """The real model: quick at 80 % of its capacity, and no slower for those who are refused at 2 and 10 times it."""
    texts = bodies(MANY)
    settings = measured.backend | {"cache_bytes": "0"}
    async with scene.bridged(
        measured.servers, measured.folder, "model", bridge=OURS, worker=THEIRS, **settings
    ) as bridge:
        await asyncio.to_thread(closed, bridge.port, PATH, texts, CALLERS, 4, OURS)
        for turn in range(measured.rounds):
            backlog = sentences(1_000)
            alone = len(backlog) / await asyncio.to_thread(bridge.stream.backlog, backlog, f"alone-{turn}")
            most = await asyncio.to_thread(closed, bridge.port, PATH, texts, CALLERS, 8, OURS)
            measured.note("model, a backlog on the same worker without the bridge", "sentences/s", alone)
            measured.note(f"model, capacity, {CALLERS} callers", "requests/s", most.rate)
            plan = Plan(bridge.port, PATH, texts, SHARE * most.rate, 10, CALLERS)
            found = await asyncio.to_thread(opened, plan, OURS)
            measured.note("model, open loop at 80 %, p50", "ms", found.percentile(50))
            measured.note("model, open loop at 80 %, p99", "ms", found.percentile(99), "< 500")
            measured.note("model, open loop at 80 %, errors", "", found.failed, "0")
            for factor in (2, 10):
                await _overload(measured, bridge, texts, most, factor)


async def _overload(measured: Measured, bridge: Bridge, texts: Sequence[str], most: Closed, factor: int) -> None:
    headers = [f"Request-Timeout: {READY_TO_WAIT}"]
    plan = Plan(bridge.port, PATH, texts, factor * most.rate, 10, CONNECTIONS, headers)
    before = bridge.megabytes()
    with _peak(bridge) as peak:
        found = await asyncio.to_thread(opened, plan, OURS)
    name = f"overload x {factor}"
    measured.note(f"{name}, goodput : capacity", "x", found.good / most.rate, ">= 0.9")
    measured.note(f"{name}, shed, p99", "ms", found.percentile(99, [429, 503]), "< 50")
    measured.note(f"{name}, answered, p99", "ms", found.percentile(99), f"< {READY_TO_WAIT * 1000}")
    measured.note(f"{name}, share shed", "", found.count(429, 503) / max(1, _all(found)))
    measured.note(f"{name}, neither answered nor shed", "", _all(found) - found.count(200, 429, 503), "0")
    measured.note(f"{name}, memory on top", "MB", peak[0] - before)
    measured.note(f"{name}, the sender itself was late, at worst", "ms", found.late)


def _all(found: Open) -> int:
    return found.lost + sum(map(len, found.milliseconds.values()))


@contextmanager
def _peak(bridge: Bridge) -> Iterator[list[float]]:
    """The most megabytes that a bridge has while the block runs; known at its end."""
    peak, done = [bridge.megabytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], bridge.megabytes())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        done.set()
        watching.join()


async def idle(measured: Measured) -> None:
    """One caller, nobody else: what the bridge, Kafka and HTTP add to the worker's own time."""
    texts = bodies(MANY)[:150]
    settings = measured.backend | {"cache_bytes": "0"}
    async with scene.bridged(measured.servers, measured.folder, "idle", bridge=BOTH, worker=BOTH, **settings) as bridge:
        await asyncio.to_thread(_one_by_one, bridge.port, texts[:30])
        for _ in range(measured.rounds):
            times = await asyncio.to_thread(_one_by_one, bridge.port, texts)
            measured.note("one idle caller, p50", "ms", statistics.median(total for total, _ in times))
            measured.note(
                "one idle caller, of that the worker's embedding, p50", "ms", statistics.median(own for _, own in times)
            )
            added = statistics.median(total - own for total, own in times)
            measured.note("one idle caller, on top of the embedding, p50", "ms", added, "<= 15")


def _one_by_one(port: int, texts: Sequence[str]) -> list[tuple[float, float]]:
    """Milliseconds of each answer, and of its embedding as the worker says."""
    connection, found = http.client.HTTPConnection("127.0.0.1", port), []
    for text in texts:
        time.sleep(0.02)
        started = time.perf_counter()
        connection.request("POST", PATH, text.encode(), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        total = (time.perf_counter() - started) * 1e3
        steps = dict(step.split(";dur=") for step in answer.headers["Server-Timing"].split(", "))
        found.append((total, float(steps["embed"])))
    connection.close()
    return found


async def beside(measured: Measured) -> None:
    """The same questions to Infinity's HTTP server with the same model, turn about; both have every processor."""
    texts = bodies(MANY)
    theirs = [json.dumps(json.loads(text) | {"model": "model"}) for text in texts]
    folder = find(DEFAULT_MODEL).folder
    settings = measured.backend | {"cache_bytes": "0"}
    async with scene.bridged(
        measured.servers, measured.folder, "beside", bridge=BOTH, worker=BOTH, **settings
    ) as bridge:
        with scene.infinity(folder, measured.folder, BOTH) as infinity:
            sides = {"bridge": (bridge.port, PATH, texts), "Infinity": (infinity, "/embeddings", theirs)}
            for port, path, own in sides.values():
                await asyncio.to_thread(closed, port, path, own, 64, 3, BOTH)
            for _ in range(measured.rounds):
                for callers, seconds in BESIDE.items():
                    rates: dict[str, float] = defaultdict(float)
                    for name, (port, path, own) in sides.items():
                        found = await asyncio.to_thread(closed, port, path, own, callers, seconds, BOTH)
                        rates[name] = found.rate
                        measured.note(f"{callers} callers, {name}", "requests/s", found.rate)
                        measured.note(f"{callers} callers, {name}, p99", "ms", found.p99)
                        measured.note(f"{callers} callers, {name}, errors", "", found.failed)
                    measured.note(f"{callers} callers, bridge : Infinity", "x", rates["bridge"] / rates["Infinity"])


def bodies(count: int) -> list[str]:
    """So many different questions of one sentence each."""
    return [json.dumps({"input": text}) for text in sentences(count)]


PARTS = {"cached": cached, "model": model, "idle": idle, "beside": beside}
