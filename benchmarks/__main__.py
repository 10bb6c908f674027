"""`make bench`: measures every figure of the README against a real Kafka, and prints the table."""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import beside, latency, overhead
from benchmarks.embedding import Backlog, Library, console, matrix_share
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
    peers: bool


LENGTHS = {
    "quick": Length(500, 1, 10_000, peers=False),
    "usual": Length(2_000, 3, 30_000, peers=True),
    "full": Length(20_000, 3, 1_000_000, peers=True),
}
#: The ways our own worker is run.
VARIANTS: dict[str, dict[str, str]] = {"float32": {}, "float32, 64 queued": {"queue_records": "64"}}
#: Sentences whose latency is taken, one at a time.
SINGLES = 200


class Bench:
    """One run: a broker, the bare library, and figures as they come."""

    def __init__(self, length: Length, servers: str, folder: Path) -> None:
        self.length, self.servers, self.folder = length, servers, folder
        self.library = Library(find(DEFAULT_MODEL).folder)
        self.figures: list[Figure] = []

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
        async with self._warm("float32") as stream:
            self.figures.append(matrix_share(stream, texts, rounds))

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
        goals = {"float32": ">= 1.9", "float32, 64 queued": ">= 1.7", "int8": ">= 2.7"}
        for name, goal in goals.items():
            if name in turns.rates:
                self.figures.append(turns.rates[name].over(encode, f"{count}, {name} : encode(batch_size=32)", goal))
        if best := turns.best_peer():
            self.figures.append(ours.over(best, f"{count}, float32 : {best.name}, the best of the peers", ">= 4"))
        if engine := turns.rates.get("infinity"):
            self.figures.append(ours.over(engine, f"{count}, float32 : Infinity's engine, fed directly", ">= 2"))

    def overheads(self) -> None:
        """CPU a record where the model does nothing."""
        programs = (overhead.OURS, overhead.PLAIN, overhead.FAUST)
        found = overhead.in_turn(programs, self.servers, self.length.records, self.length.rounds, self.folder)
        ours = found[overhead.OURS.name]
        self.figures.append(Figure("CPU a record, no-op embedder", "us", ours, ""))
        for program, goal in ((overhead.PLAIN, ">= 1"), (overhead.FAUST, ">= 7")):
            ratios = [theirs / mine for theirs, mine in zip(found[program.name], ours, strict=True)]
            self.figures.append(Figure(f"CPU a record, {program.name} : ours", "x", ratios, goal))


async def measure(length: Length) -> list[Figure]:
    """Runs everything against one real broker."""
    folder = Path(tempfile.mkdtemp(prefix="sentence-streams-bench-"))
    console.print(f"logs are in {folder}")
    kafka = single(folder)
    kafka.start()
    try:
        bench = Bench(length, kafka.bootstrap_servers, folder)
        bench.overheads()
        await bench.latencies()
        await bench.backlogs()
        return bench.figures
    finally:
        kafka.stop()


def main() -> None:
    """Parses, measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("length", nargs="?", choices=LENGTHS, default="usual", help="how much is measured")
    show(asyncio.run(measure(LENGTHS[parser.parse_args().length])))


if __name__ == "__main__":
    main()
