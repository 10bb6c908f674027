"""A worker that measures its own event loop: `python -m tests.faults.measured_worker worker`.

It is the product's worker, and a task beside it that asks to be woken every ten milliseconds. At its end it tells in
the log how late it was woken.
"""

import asyncio
import time

import numpy as np
import structlog

from agents.embed import checked_embedder, serve
from streams.embedding.embedder import Embedder
from streams.observe.logs import configure
from streams.settings import Settings, load

log = structlog.get_logger(__name__)

#: Seconds between two looks.
PACE = 0.01


async def watched(settings: Settings, embedder: Embedder) -> None:
    """Serves until SIGTERM, then tells."""
    late: list[float] = []
    watching = asyncio.get_running_loop().create_task(look(late))
    try:
        await serve(settings, embedder)
    finally:
        watching.cancel()
        log.info("loop", looks=len(late), p99=float(np.quantile(late, 0.99)), worst=max(late))


async def look(late: list[float]) -> None:
    """Collects how late the loop is, in seconds."""
    while True:
        due = time.monotonic() + PACE
        await asyncio.sleep(PACE)
        late.append(max(0.0, time.monotonic() - due))


def main() -> None:
    """Runs until SIGTERM, as the worker does."""
    settings = load()
    configure(settings)
    asyncio.run(watched(settings, checked_embedder(settings)))


if __name__ == "__main__":
    main()
