"""A worker whose model fails on command: `python -m tests.faults.poisoned_worker worker`.

It is the product's worker with the deterministic model, and a word in a text says what the model does with it. Each
call of the model is a line of its log.
"""

import asyncio
import os
import signal
import time
from collections.abc import Sequence

import numpy as np
import structlog

from agents.embed import serve
from streams.embedding.embedder import Tokens, Vectors
from streams.observe.logs import configure
from streams.settings import load
from streams.testing.embedder import DeterministicEmbedder

log = structlog.get_logger(__name__)

#: Seconds a text takes that makes the model crawl.
CRAWL = 0.05


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


def crawl(row: Vectors) -> Vectors:
    """Is slow, and gives the right answer."""
    time.sleep(CRAWL)
    return row


POISON = {"die": die, "hang": hang, "fail": fail, "exhaust": exhaust, "spoil": spoil, "crawl": crawl}


class Counted(DeterministicEmbedder):
    """Tells of each call."""

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        log.info("model-call", rows=len(batch))
        return super().embed(batch)


def main() -> None:
    """Runs until SIGTERM, as the worker does."""
    settings = load()
    configure(settings)
    asyncio.run(serve(settings, Counted(POISON)))


if __name__ == "__main__":
    main()
