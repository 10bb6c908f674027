"""`make bench-load`: measures the bridge under load on this machine, loopback only, and prints the table."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import Figure, machine, show
from benchmarks.load.parts import PARTS, Measured
from benchmarks.load.scene import OURS, prepared
from tests.support.kafka import single


async def measure(parts: Sequence[str], rounds: int, backend: str) -> list[Figure]:
    """Runs these parts against one real broker."""
    folder = Path(tempfile.mkdtemp(prefix="sentence-streams-load-"))
    print(f"logs are in {folder}", flush=True)
    settings = {"model_backend": backend}
    if backend == "onnx":
        settings["models_dir"] = prepared()
    os.sched_setaffinity(0, OURS)  # the broker has it from us
    kafka = single(folder)
    kafka.start()
    try:
        measured = Measured(kafka.bootstrap_servers, folder, rounds, settings)
        for part in parts:
            print(f"{part}: {PARTS[part].__doc__}", flush=True)
            await PARTS[part](measured)
        return measured.figures()
    finally:
        kafka.stop()


def main() -> None:
    """Parses, measures, prints, writes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end like any other: what was started is ended, too
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what is measured; without any: all of it")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turn with the others")
    parser.add_argument("--backend", choices=("torch", "onnx"), default="torch", help="what runs the model")
    parser.add_argument("--json", type=Path, help="file that gets the figures of every round, too")
    given = parser.parse_args()
    figures = asyncio.run(measure(given.parts or list(PARTS), given.rounds, given.backend))
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(), "figures": [asdict(each) for each in figures]}))
    show(figures)


if __name__ == "__main__":
    main()
