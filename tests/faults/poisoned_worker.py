"""A worker whose model fails on command: `python -m tests.faults.poisoned_worker worker`.

It is the product's worker with the deterministic model, and a word in a text says what the model does with it.
"""

import asyncio
import os
import signal
import time

import numpy as np

from agents.embed import serve
from streams.embedding.embedder import Vectors
from streams.observe.logs import configure
from streams.settings import load
from streams.testing.embedder import DeterministicEmbedder


def die(_: Vectors) -> Vectors:
    """Ends the process as the kernel does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def hang(_: Vectors) -> Vectors:
    """Never returns."""
    while True:
        time.sleep(3600)


def fail(_: Vectors) -> Vectors:
    """Raises what no code of ours foresees."""
    raise ValueError("the model does not like this one")


def exhaust(_: Vectors) -> Vectors:
    """Has no memory left."""
    raise MemoryError


def spoil(row: Vectors) -> Vectors:
    """Gives numbers that are none."""
    return np.full_like(row, np.nan)


POISON = {"die": die, "hang": hang, "fail": fail, "exhaust": exhaust, "spoil": spoil}


def main() -> None:
    """Runs until SIGTERM, as the worker does."""
    settings = load()
    configure(settings)
    asyncio.run(serve(settings, DeterministicEmbedder(POISON)))


if __name__ == "__main__":
    main()
