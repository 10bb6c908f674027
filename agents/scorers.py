"""The scorers of a process, as commands on sentence.models say: swapped while it runs, between two records."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

from agents.clients import codec, connection
from agents.control import Control
from schemas.records import Target
from streams.models.artifacts import ArtifactStore
from streams.models.routing import Routing
from streams.scoring.head import HeadScorer
from streams.scoring.pool import ScorerPool
from streams.scoring.scorer import Scorer
from streams.settings import Settings

#: Seconds before a version that could not be loaded is tried again.
AGAIN: Final = 10.0


def trained(settings: Settings, target: Target) -> Scorer:
    """Loads a trained version from the store. Raises BadHead, BadManifest, and what the store raises."""
    return HeadScorer.stored(target.name, ArtifactStore.at(settings.artifacts), target.source)


@asynccontextmanager
async def followed(settings: Settings, own: Mapping[str, Scorer]) -> AsyncIterator[ScorerPool]:
    """Yields the scorers that commands say, `own` among them; while inside, it follows the commands."""
    pool = ScorerPool(own, partial(trained, settings))
    changes: asyncio.Queue[Routing] = asyncio.Queue()
    with codec(settings) as records:
        async with Control(settings, connection(settings), records).following(changes.put_nowait) as routing:
            done = await asyncio.to_thread(pool.follow, routing)
            task = asyncio.get_running_loop().create_task(_follow(pool, changes, routing, done))
            try:
                yield pool
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _follow(pool: ScorerPool, changes: asyncio.Queue[Routing], routing: Routing, done: bool) -> None:
    """One routing after the other, off the event loop."""
    while True:
        with suppress(TimeoutError):  # what could not be loaded is tried again
            routing = await asyncio.wait_for(changes.get(), None if done else AGAIN)
        done = await asyncio.to_thread(pool.follow, routing)
