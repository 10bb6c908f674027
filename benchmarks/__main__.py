"""`make bench`: prints the table of figures, and writes it as JSON beside the machine it was measured on."""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.sentences import sentences
from benchmarks.stream import Stream, running
from tests.support.kafka import single

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: what was measured, over the rounds, and what it should reach."""

    name: str
    unit: str
    values: Sequence[float]
    goal: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def backlog_against_encode(stream: Stream, encode: Callable[[Sequence[str]], float], count: int, rounds: int) -> Figure:
    """The stream's rate over a backlog, divided by what `encode(texts, batch_size=32)` does with the whole list."""
    texts = sentences(count)
    ratios = []
    for turn in range(rounds):
        alone = encode(texts)
        through = stream.backlog(texts, f"backlog-{turn}")
        ratios.append(alone / through)
        Console(stderr=True).print(
            f"  round {turn + 1}: encode {count / alone:.0f}/s, stream {count / through:.0f}/s", highlight=False
        )
    return Figure(f"backlog of {count:,}, stream : encode(batch_size=32)", "x", ratios, ">= 0.9")


def idle_sentence(stream: Stream, encode_one: Callable[[str], float], rounds: int) -> Figure:
    """What the stream adds to one sentence on an idle system: its p50 less that of the bare call, in ms."""
    texts = sentences(150)
    stream.one_by_one(texts[:20], "warm")
    added = []
    for turn in range(rounds):
        bare = statistics.median(encode_one(text) for text in texts)
        whole = statistics.median(stream.one_by_one(texts, f"idle-{turn}"))
        added.append((whole - bare) * 1000)
    return Figure("one sentence, produced to consumed, p50 less bare encode p50", "ms", added, "< 15")


def _encoders() -> tuple[Callable[[Sequence[str]], float], Callable[[str], float]]:
    """What the stream is compared with, in this process: seconds of a whole list, and of one sentence."""
    from sentence_transformers import SentenceTransformer

    from streams.embedding.loader import DEFAULT_MODEL, find

    model = SentenceTransformer(str(find(DEFAULT_MODEL).folder), device="cpu")

    def many(texts: Sequence[str]) -> float:
        started = time.perf_counter()
        model.encode(list(texts), batch_size=32)
        return time.perf_counter() - started

    def one(text: str) -> float:
        started = time.perf_counter()
        model.encode(text)
        return time.perf_counter() - started

    many(sentences(64))
    return many, one


async def measure(count: int, rounds: int) -> list[Figure]:
    """Runs everything against one real broker and one worker."""
    many, one = _encoders()
    folder = Path(tempfile.mkdtemp(prefix="sentence-streams-bench-"))
    kafka = single(folder)
    kafka.start()
    try:
        async with running(kafka.bootstrap_servers, folder) as stream:
            stream.backlog(sentences(200), "warm")
            return [
                idle_sentence(stream, one, rounds),
                backlog_against_encode(stream, many, count, rounds),
            ]
    finally:
        kafka.stop()


def main() -> None:
    """Parses, measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--count", type=int, default=2_000, help="sentences in the backlog (default 2,000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, taken in turn (default 3)")
    chosen = parser.parse_args()
    figures = asyncio.run(measure(chosen.count, chosen.rounds))
    Console().print(_table(figures))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({"machine": _machine(), "figures": [asdict(figure) for figure in figures]}, indent=2))
    print(f"written to {path}")


def _table(figures: Sequence[Figure]) -> Table:
    table = Table(title=f"{_machine()['processor']}, {_machine()['processors']} processors")
    for column in ("figure", "median", "spread", "goal"):
        table.add_column(column)
    for figure in figures:
        spread = f"{min(figure.values):.2f} to {max(figure.values):.2f}"
        table.add_row(figure.name, f"{figure.median:.2f} {figure.unit}", spread, figure.goal)
    return table


def _machine() -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "?")
    packages = ("torch", "sentence-transformers", "faust-streaming", "aiokafka", "confluent-kafka")
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
