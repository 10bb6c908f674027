"""A brake on dead letters: after a bad deploy the stream stops instead of draining a topic into them."""

import asyncio
import time
from collections.abc import Callable

import structlog
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from schemas.records import Severity
from streams.observe.alerts import Tell, nobody
from streams.observe.metrics import Metrics

log = structlog.get_logger(__name__)

#: Seconds between looks whether the window has moved on.
LOOK = 1.0


class Brake:
    """Lets so many dead letters of one worker pass in a moving window; those beyond it wait, and all behind them."""

    def __init__(self, limit: str, metrics: Metrics, subject: str = "", tell: Tell = nobody) -> None:
        """`limit` as in `100/minute`; `none`: no brake. `tell` hears of the worker `subject` when it brakes."""
        self._limit = None if limit == "none" else parse(limit)
        self._metrics = metrics
        self._subject = subject
        self._tell = tell
        self._waiting = 0  # partitions
        self._since = 0.0
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def let_pass(self, dead_letters: int, still_alive: Callable[[], None]) -> None:
        """Returns when these may be published; calls `still_alive` again and again while they wait."""
        if self._limit is not None:
            for _ in range(dead_letters):
                await self._one(self._limit, still_alive)

    async def _one(self, limit: RateLimitItem, still_alive: Callable[[], None]) -> None:
        if await self._limiter.hit(limit, "dead-letters"):
            return
        log.critical("dead-letter-limit", limit=str(limit), meaning="partitions wait; look at the reasons first")
        self._close(limit)
        try:
            while not await self._limiter.hit(limit, "dead-letters"):
                still_alive()
                await asyncio.sleep(LOOK)
        finally:
            self._open(limit)

    def _close(self, limit: RateLimitItem) -> None:
        self._metrics.braking.inc()
        self._waiting += 1
        if self._waiting == 1:
            self._since = time.time()
            self._say(limit, Severity.CRITICAL, f"more than {limit} dead letters: partitions wait")

    def _open(self, limit: RateLimitItem) -> None:
        self._metrics.braking.dec()
        self._waiting -= 1
        if not self._waiting:
            self._say(limit, Severity.INFO, "dead letters are written again, no partition waits")

    def _say(self, limit: RateLimitItem, severity: Severity, message: str) -> None:
        figures = {"limit": float(limit.amount), "seconds": float(limit.get_expiry())}
        self._tell("dead-letter-limit", self._subject, severity, message, figures=figures, since=self._since)
