"""`make bench`: measures every figure of the README against a real Kafka, and prints the table."""

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks import beside, compare, cuda, latency, models, overhead, workers
from benchmarks.embedding import Backlog, Library, console, shares
from benchmarks.figures import Figure, show
from benchmarks.sentences import sentences
from benchmarks.stream import Stream, running
from streams.embedding.loader import DEFAULT_MODEL, find
from tests.support.kafka import single


@dataclass(frozen=True, slots=True)
class Length:
    """How much is measured."""

    sentences: int
    rounds: int
    #: Records of the overhead rows, whose model does nothing.
    records: int
    #: A deep backlog, for the same.
    deep: int
    peers: bool


LENGTHS = {
    "quick": Length(500, 1, 10_000, 50_000, peers=False),
    "usual": Length(2_000, 3, 30_000, 200_000, peers=True),
    "full": Length(20_000, 3, 100_000, 1_000_000, peers=True),
}
#: The ways our own worker is run.
VARIANTS: dict[str, dict[str, str]] = {
    "float32": {"model_backend": "auto"},
    "float32, 64 queued": {"queue_records": "64"},
    "int8": {"model_precision": "int8"},
}
GOALS = {"float32": ">= 1.9", "float32, 64 queued": ">= 1.7", "int8": ">= 2.7"}
#: What can be measured alone: `--only`.
GROUPS = ("overhead", "flat", "ready", "latencies", "backlogs", "second", "shares", "cuda")
#: What is measured in `quick`: three minutes.
QUICK = ("overhead", "ready", "latencies", "backlogs", "shares")
#: Sentences whose latency is taken, one at a time.
SINGLES = 200


class Bench:
    """One run: a broker, the bare library, and figures as they come."""

    def __init__(self, length: Length, servers: str, folder: Path) -> None:
        self.length, self.servers, self.folder = length, servers, folder
        self.figures: list[Figure] = []

    @cached_property
    def library(self) -> Library:
        """The bare library, loaded where something is compared with it."""
        return Library(find(DEFAULT_MODEL).folder)

    async def latencies(self) -> None:
        """One sentence, idle and under load."""
        texts, rounds = sentences(SINGLES), self.length.rounds
        async with running(self.servers, self.folder, "latency") as stream:
            self.figures.append(latency.idle(stream, self.library.one, texts, rounds))
            self.figures.append(latency.under_load(stream, texts, sentences(self.length.sentences), rounds))

    async def backlogs(self) -> None:
        """A backlog through the stream, the bare library, and the peers."""
        texts, rounds = sentences(self.length.sentences), self.length.rounds
        turns = Backlog(texts, rounds)
        for turn in range(rounds):
            console.print(f"round {turn + 1} of {rounds}, {len(texts):,} sentences")
            turns.note("encode", self.library.many(texts))
            for name, settings in VARIANTS.items():
                async with self._warm(name, **settings) as stream:
                    turns.note(name, stream.backlog(texts, f"{name}-{turn}"))
            if self.length.peers:
                turns.peers(self.servers, self.library.folder, self.folder)
                self._infinity(turns)
        self._compare(turns)

    async def shares(self) -> None:
        """How well the processors are used while a backlog is embedded, and what of the work is padding."""
        async with self._warm("shares") as stream:
            self.figures += shares(stream, sentences(self.length.sentences), self.length.rounds)

    async def second(self) -> None:
        """What a second worker adds."""
        texts = sentences(self.length.sentences)
        if figure := await workers.second(self.servers, self.folder, texts, self.length.rounds):
            self.figures.append(figure)
        else:
            console.print("[yellow]two workers: skipped, this process has one core")

    async def ready(self) -> None:
        """How soon a worker serves, and in how much memory."""
        self.figures += await workers.ready(self.servers, self.folder, sentences(200), self.length.rounds)

    async def cuda(self) -> None:
        """The GPU path, where there is a GPU."""
        if cuda.available():
            self.figures += cuda.half(self.library.folder, sentences(self.length.sentences), self.length.rounds)
        else:
            console.print("[yellow]CUDA: skipped, torch finds no device here")

    @asynccontextmanager
    async def _warm(self, name: str, **settings: str) -> AsyncIterator[Stream]:
        async with running(self.servers, self.folder, name, **settings) as stream:
            stream.backlog(sentences(200), "warm")
            yield stream

    def _infinity(self, turns: Backlog) -> None:
        try:
            with beside.Infinity(self.library.folder, self.folder) as engine:
                turns.note("infinity", engine.embed(turns.texts))
        except beside.PeerFailed as error:
            console.print(f"[red]  infinity: {error}")

    def _compare(self, turns: Backlog) -> None:
        encode, ours, count = turns.rates["encode"], turns.rates["float32"], f"backlog of {len(turns.texts):,}"
        for name, goal in GOALS.items():
            if name in turns.rates:
                self.figures.append(turns.rates[name].over(encode, f"{count}, {name} : encode(batch_size=32)", goal))
        if best := turns.best_peer():
            self.figures.append(ours.over(best, f"{count}, float32 : {best.name}, the best of the peers", ">= 4"))
        if engine := turns.rates.get("infinity"):
            self.figures.append(ours.over(engine, f"{count}, float32 : Infinity's engine, fed directly", ">= 2"))

    async def flat(self) -> None:
        """Whether a record costs the same, however many there are and wherever they lie."""
        self.figures += overhead.flatness(self.servers, self.length.deep, self.length.rounds, self.folder)

    async def overhead(self) -> None:
        """CPU a record where the model does nothing."""
        programs = (overhead.OURS, overhead.PLAIN, overhead.FAUST)
        found = overhead.in_turn(programs, self.servers, self.length.records, self.length.rounds, self.folder)
        ours = found[overhead.OURS.name]
        self.figures.append(Figure("CPU a record, no-op embedder", "us", ours, ""))
        for program, goal in ((overhead.PLAIN, ">= 1"), (overhead.FAUST, ">= 7")):
            ratios = [theirs / mine for theirs, mine in zip(found[program.name], ours, strict=True)]
            self.figures.append(Figure(f"CPU a record, {program.name} : ours", "x", ratios, goal))


@contextmanager
def broker() -> Iterator[tuple[str, Path]]:
    """A real Kafka for one run, and the folder of its logs and everybody's."""
    folder = Path(tempfile.mkdtemp(prefix="sentence-streams-bench-"))
    console.print(f"logs are in {folder}")
    kafka = single(folder)
    kafka.start()
    try:
        yield kafka.bootstrap_servers, folder
    finally:
        kafka.stop()


async def measure(length: Length, groups: Sequence[str]) -> list[Figure]:
    """Runs these groups against one real broker; each is told as soon as it is done."""
    models.prepare()
    with broker() as (servers, folder):
        bench = Bench(length, servers, folder)
        for group in groups:
            known = len(bench.figures)
            await getattr(bench, group)()
            for figure in bench.figures[known:]:
                console.print(f"{figure.name}: {figure.median:.2f} {figure.unit} ({figure.spread})")
        return bench.figures


async def beside_revision(revision: str) -> list[Figure]:
    """The code here beside that of another revision, in one run."""
    models.prepare()
    with broker() as (servers, folder):
        return await compare.measure(revision, servers, folder, sentences(1_000), 20_000, 3)


def main() -> int:
    """Parses, measures, prints, writes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end like any other: what was started is ended, too
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", choices=(*LENGTHS, "compare"), default="usual", help="how much is measured")
    parser.add_argument(
        "revision", nargs="?", help="compare: the revision to compare with; 1 is the exit code if worse"
    )
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="measure only these")
    asked = parser.parse_args()
    if asked.what == "compare":
        figures = asyncio.run(beside_revision(asked.revision or "HEAD~1"))
        show(figures)
        return int(compare.regressed(figures))
    groups = asked.only or (QUICK if asked.what == "quick" else GROUPS)
    show(asyncio.run(measure(LENGTHS[asked.what], groups)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
