"""The door: while the event loop is late, whoever comes is told so at once, and nothing else is done for them.

Admission knows how much the stream can do. What the bridge itself can do shows on its event loop: a request that comes
while hundreds wait for their turn there would be refused, or answered, only after all of them. So a timer says how
late the loop is, and a request whose turn comes while it is too late is answered with a 429 before anything is read of
it. One large request makes the loop late, too: only where it stays late the door shuts, and then only for as long.
"""

import asyncio
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from agents.bridge.identity import PROTECTED
from agents.bridge.problems import Kind, Problem, respond

#: Seconds between two looks, that the loop may be late, that it may stay so, and after which it is all right again.
LOOK, LATE, PATIENCE, CALM = 0.01, 0.02, 0.1, 1.0


class Lateness:
    """How late the event loop is: seconds that pass between when a timer is due and its turn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due, self._ends = float("inf"), float("-inf")
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Looks from now on, on the running loop."""
        self._due = self._clock() + LOOK
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def stop(self) -> None:
        """Looks no more: nothing is late."""
        self._due = float("inf")
        if self._timer is not None:
            self._timer.cancel()

    @property
    def too_late(self) -> bool:
        """Whether the loop is late at this moment, and was so for a while."""
        now = self._clock()
        return now - self._due > LATE and (now < self._ends or self._lasts(now))

    def _look(self) -> None:
        now = self._clock()
        if now - self._due <= LATE:
            self._since = None
        elif self._lasts(now):
            self._ends = now + CALM
        else:
            self._since = self._since or self._due
        self.start()

    def _lasts(self, now: float) -> bool:
        return now - (self._since or self._due) > PATIENCE


class Door:
    """ASGI middleware: 429 for what comes below PROTECTED while the loop is too late."""

    def __init__(self, app: ASGIApp, lateness: Lateness) -> None:
        self._app, self._lateness = app, lateness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._lateness.too_late and scope["path"].startswith(PROTECTED):
            problem = Problem(Kind.OVERLOADED, "too many requests are under way", headers={"Retry-After": "1"})
            await respond(problem, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)
