"""What a switch of the model costs: `python -m benchmarks.switching`.

The default model is switched to a copy of itself under another name, which is loaded anew (on torch, since it is not
prepared), and back, which is loaded still. Meanwhile one sentence after another is asked for in the interactive lane.
"""

import argparse
import asyncio
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents import switching
from benchmarks.figures import Figure, show
from benchmarks.sentences import sentences
from benchmarks.stream import Stream, running
from schemas.codec import Codec
from schemas.records import Embedding
from streams.embedding.loader import DEFAULT_MODEL, find, target
from streams.lanes import LaneName
from streams.models import routing
from tests.support.kafka import single

#: Sentences before each switch, and between two looks at who answers.
ALONE, STEP = 200, 20


class Switching:
    """A worker, and switches of its model."""

    def __init__(self, stream: Stream, texts: Sequence[str]) -> None:
        self._stream, self._texts = stream, texts
        self._turn = 0

    def ask(self, count: int) -> list[float]:
        """Seconds of so many sentences, one after another."""
        self._turn += 1
        return self._stream.one_by_one(self._texts[:count], f"turn-{self._turn}", LaneName.INTERACTIVE)

    def switch(self, source: str) -> tuple[float, list[float]]:
        """Seconds from the command to the first record of its model, and those of each sentence until then."""
        name, reader, seconds = target(source).name, self._stream._reader(), list[float]()
        began = time.time()
        deciding = threading.Thread(target=self._decide, args=[source])
        deciding.start()
        while True:
            seconds += self.ask(STEP)
            for message in reader.consume(1000, timeout=0.1):
                if message.error() is None:
                    embedding = Codec().decode(Embedding, message.value())
                    if embedding.model == name:
                        deciding.join()
                        reader.close()
                        return embedding.embedded_at / 1000 - began, seconds

    def _decide(self, source: str) -> None:
        def decision(at: routing.Alias) -> switching.Decision:
            target = switching.target(at, source)
            return switching.Decision(
                "activate", lambda state, why: routing.activate(state, target, why), "benchmark", "measured"
            )

        asyncio.run(switching.command(self._stream.settings, Codec(), routing.DEFAULT, decision))


async def measure(servers: str, folder: Path, rounds: int) -> list[Figure]:
    """Switches to and fro so many times; each time to a copy that was never loaded."""
    model = find(DEFAULT_MODEL).folder
    new, back, ratios = list[float](), list[float](), list[float]()
    async with running(servers, folder, "switching", models_bytes=str(2**40)) as stream:
        bench = Switching(stream, sentences(ALONE))
        bench.ask(ALONE)
        for turn in range(rounds):
            copy = folder / f"copy-{turn}"
            shutil.copytree(model, copy)
            alone = bench.ask(ALONE)
            took, during = bench.switch(str(copy))
            new.append(took)
            ratios.append(_p99(during) / _p99(alone))
            back.append(bench.switch(DEFAULT_MODEL)[0])
            print(
                f"alone {_p99(alone) * 1000:.1f} ms, during {_p99(during) * 1000:.1f} ms of {len(during)}, {took:.2f} s"
            )
    print(f"switch {statistics.median(new):.2f} s, back {statistics.median(back):.2f} s")
    return [
        Figure("switch to a model that has to be loaded, command to first record", "s", new, ""),
        Figure("switch to one that is loaded, command to first record", "s", back, ""),
        Figure("interactive p99 during a switch : before", "x", ratios, "<= 1.5"),
    ]


def _p99(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 99))


def main() -> None:
    """Parses, measures, prints, writes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end like any other: what was started is ended, too
    parser = argparse.ArgumentParser(prog="python -m benchmarks.switching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    folder = Path(tempfile.mkdtemp(prefix="sentence-streams-bench-"))
    kafka = single(folder)
    kafka.start()
    try:
        show(asyncio.run(measure(kafka.bootstrap_servers, folder, parser.parse_args().rounds)))
    finally:
        kafka.stop()


if __name__ == "__main__":
    main()
