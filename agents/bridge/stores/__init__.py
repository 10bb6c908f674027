"""What the bridge keeps for a while: answers by idempotency key, and results of what was sent.

    stores = open_stores(settings)
    match await stores.idempotency.begin(caller.name, key, fingerprint):
        case Begun(): ...               # do it, then `finish` with the answer, or `abandon`
        case Done(answer): ...          # the same answer again

Each has two forms: in the memory of one process, and in a Redis that replicas share.

What to rely on, and what not:

- Of any number of callers with one key, on any number of replicas, one gets Begun. Whoever gets it must `finish` or
  `abandon`. Where its replica dies instead, the key is free after the lease, so whatever runs under a key must end
  within it: the longest request and MARGIN seconds. An answer is kept for a day.
- A result is kept for `results_seconds`. For a day after that its id is Gone, then Unknown; so is an id that had no
  result within that time. A client sees its own ids only. Who waits is woken by the replica that puts the result.
- Where Redis is away all of it is StoreUnavailable, in bounded time: no promise is made that cannot be kept. Where the
  answer to a `begin` is lost on the way, its key may be Running until the lease ends. A Redis that evicts, or restarts
  without its data, forgets keys and results: give it `noeviction` and persistence where that matters.
- In memory all is bounded by bytes. Where they are used up the oldest leave early: their keys are free again, their
  results are Gone. A restart forgets everything.
"""

from dataclasses import dataclass

from redis.asyncio import Redis

from agents.bridge.stores.memory import MemoryIdempotency, MemoryResults
from agents.bridge.stores.protocols import (
    Begun,
    Done,
    Found,
    Gone,
    Idempotency,
    Looked,
    Mismatch,
    Pending,
    Results,
    Running,
    StoreUnavailable,
    Unknown,
)
from agents.bridge.stores.shared import RedisIdempotency, RedisResults, connect
from streams.settings import Settings

__all__ = [
    "Begun",
    "Done",
    "Found",
    "Gone",
    "Idempotency",
    "Looked",
    "Mismatch",
    "Pending",
    "Results",
    "Running",
    "StoreUnavailable",
    "Stores",
    "Unknown",
    "open_stores",
]

#: Seconds that a lease is longer than the longest request.
MARGIN = 60


@dataclass(frozen=True, slots=True)
class Stores:
    """What one bridge keeps."""

    idempotency: Idempotency
    results: Results
    redis: Redis | None = None

    async def close(self) -> None:
        """Ends the connections; those who wait for results end in StoreUnavailable."""
        await self.results.close()
        if self.redis is not None:
            await self.redis.aclose()


def open_stores(settings: Settings) -> Stores:
    """Returns the stores that the settings ask for; they connect when they are first used."""
    if settings.redis_url is None:
        return Stores(MemoryIdempotency(), MemoryResults(settings.results_seconds))
    redis = connect(settings.redis_url)
    lease = settings.request_timeout + MARGIN
    return Stores(RedisIdempotency(redis, lease), RedisResults(redis, settings.results_seconds), redis)
