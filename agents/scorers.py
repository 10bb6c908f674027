"""The scorers of a process, as commands on sentence.models say: swapped while it runs, between two records."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

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


class Followed:
    """The scorers that commands say, `own` among them."""

    def __init__(self, settings: Settings, own: Mapping[str, Scorer]) -> None:
        """Loads nothing yet."""
        self.pool = ScorerPool(own, partial(trained, settings))
        self._changes: asyncio.Queue[Routing] = asyncio.Queue()

    def follow(self, routing: Routing) -> None:
        """Loads what commands name now, in the background; returns at once."""
        self._changes.put_nowait(routing)

    @asynccontextmanager
    async def following(self, routing: Routing) -> AsyncIterator[None]:
        """Loads what `routing` names; while inside, what comes after it."""
        done = await asyncio.to_thread(self.pool.follow, routing)
        task = asyncio.get_running_loop().create_task(self._follow(routing, done))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, routing: Routing, done: bool) -> None:
        """One routing after the other, off the event loop."""
        while True:
            with suppress(TimeoutError):  # what could not be loaded is tried again
                routing = await asyncio.wait_for(self._changes.get(), None if done else AGAIN)
            done = await asyncio.to_thread(self.pool.follow, routing)
