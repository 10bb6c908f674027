"""How many sentences a client may send in a time: a sliding window per client, shared by replicas through Redis.

    limits = RateLimits.from_settings(settings)
    headers = await limits.spend(caller.name, sentences=len(texts))      # Problem 429 where that is too many

One unit is one sentence, however many come in one request: it is what costs. The headers go out with the answer.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
from cachetools import TTLCache
from limits import parse
from limits.aio.storage import RedisStorage
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from agents.bridge.problems import Kind, Problem
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Clients that one process counts at a time.
CLIENTS = 100_000
#: Seconds that Redis may take, and that it is left alone after it failed.
PATIENCE = 0.25
RECOVERY = 5.0


class Windows(Protocol):
    """Counts in windows of `expiry` seconds; the names and shapes are those of the storages of `limits`."""

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Counts `amount` where the sliding count stays within `limit`; otherwise counts nothing and returns False."""

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Returns the last window's count and the seconds it still weighs, this one's and its seconds left + expiry."""


class MemoryWindows:
    """Windows of this process. The memory storage of `limits` visits all its keys at each hit: 0.5 ms with 2,000."""

    def __init__(self, expiry: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: TTLCache[tuple[str, int], int] = TTLCache(2 * CLIENTS, 2 * expiry, clock)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """See Windows."""
        previous, weighs, current, _ = await self.get_sliding_window(key, expiry)
        if math.floor(previous * weighs / expiry) + current + amount > limit:
            return False
        self._counts[key, int(self._clock() // expiry)] = current + amount
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """See Windows."""
        window, gone = divmod(self._clock(), expiry)
        previous = self._counts.get((key, int(window) - 1), 0)
        current = self._counts.get((key, int(window)), 0)
        return previous, expiry - gone, current, 2 * expiry - gone


@dataclass(frozen=True, slots=True)
class Usage:
    """What one client used: `previous` weighs as much as seconds of its window lie in the last `expiry` ones."""

    limit: int
    expiry: int
    previous: int
    weighs: float
    current: int
    left: float

    def remaining(self) -> int:
        """Returns how many more fit now."""
        return max(0, self.limit - self.current - math.floor(self.previous * self.weighs / self.expiry))

    def wait(self, amount: int) -> float:
        """Returns the seconds until `amount` fit, if nobody spends meanwhile; `amount` is at most the limit."""
        room = self.limit - amount - self.current
        if room >= 0:
            return _fade(self.previous, self.weighs, room, self.expiry)
        return self.left + _fade(self.current, self.expiry, self.limit - amount, self.expiry)


def _fade(count: int, weighs: float, room: int, expiry: int) -> float:
    """Returns the seconds until a window's count, of which every second takes its share, weighs `room` at most."""
    return max(0.0, weighs - (room + 1) * expiry / count) if count else 0.0


class RateLimits:
    """One limit for each client. Redis away: every process counts for itself, until Redis is back."""

    def __init__(self, limit: str, redis_url: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` as in 600/minute, or `none`. Connects to nothing yet."""
        self._item = parse("1/second" if limit == "none" else limit)
        self._limit, self._expiry = self._item.amount, self._item.get_expiry()
        self._off = limit == "none"
        self._clock = clock
        self._memory = MemoryWindows(self._expiry, clock)
        self._pool = ConnectionPool.from_url(redis_url) if redis_url and not self._off else None
        self._redis = _storage(self._pool) if self._pool else None
        self._rests_until = 0.0

    @classmethod
    def from_settings(cls, settings: Settings) -> "RateLimits":
        """Returns the limit that the settings say, over Redis where they name one."""
        return cls(settings.rate_limit, settings.redis_url.get_secret_value() if settings.redis_url else None)

    async def spend(self, client: str, sentences: int, *, field: str = "/input") -> dict[str, str]:
        """Counts sentences of a client and returns the headers that tell what is left; none where there is no limit.

        Raises Problem, and counts nothing: 429 where they are too many now, 422 where they are too many at any time
        (`field` is where they are in the body).
        """
        if self._off:
            return {}
        if sentences > self._limit:
            detail = f"one request may hold {self._limit} sentences by the rate limit, this one holds {sentences}"
            raise Problem(
                Kind.INVALID, detail, errors=[{"field": field, "expected": f"at most {self._limit} sentences"}]
            )
        passed, usage = await self._count(client, sentences)
        if passed and usage.remaining():
            reset = math.ceil(usage.left)
        else:  # the next whole second: at the very moment it would not pass yet
            reset = math.floor(usage.wait(1 if passed else sentences)) + 1
        headers = {
            "RateLimit-Policy": f'"default";q={self._limit};w={self._expiry}',
            "RateLimit": f'"default";r={usage.remaining()};t={reset}',
        }
        if not passed:
            detail = f"{self._limit} sentences may come in {self._expiry} seconds"
            raise Problem(Kind.RATE_LIMITED, detail, headers=headers | {"Retry-After": str(reset)})
        return headers

    async def close(self) -> None:
        """Closes the connections to Redis."""
        if self._pool is not None:
            await self._pool.aclose()

    async def _count(self, client: str, sentences: int) -> tuple[bool, Usage]:
        if self._redis is not None and self._clock() >= self._rests_until:
            try:
                async with asyncio.timeout(PATIENCE):
                    return await self._count_in(self._redis, client, sentences)
            except (RedisError, OSError, TimeoutError) as error:
                self._rests_until = self._clock() + RECOVERY
                log.warning("rate-limits-without-redis", error=type(error).__name__, seconds=RECOVERY)
        return await self._count_in(self._memory, client, sentences)

    async def _count_in(self, windows: Windows, client: str, sentences: int) -> tuple[bool, Usage]:
        key = self._item.key_for(client)
        passed = await windows.acquire_sliding_window_entry(key, self._limit, self._expiry, sentences)
        previous, weighs, current, left = await windows.get_sliding_window(key, self._expiry)
        return passed, Usage(self._limit, self._expiry, previous, weighs, current, max(0.0, left - self._expiry))


def _storage(pool: ConnectionPool) -> RedisStorage:
    # The address only tells `limits` what it is; the connections are the pool's.
    return RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix="sentence-streams:rate",
        connection_pool=pool,  # type: ignore[arg-type]
    )
