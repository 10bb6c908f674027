"""One request on its way through the bridge: who asks, until when, and what the log will say of it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastapi import Request

from agents.bridge.identity import Caller
from schemas.records import Reply

if TYPE_CHECKING:
    from agents.bridge.app import Bridge


class HungUp(Exception):
    """The caller closed the connection: nobody waits for the answer any more."""


@dataclass(slots=True)
class Note:
    """What the log, the metrics and the `Server-Timing` header say of a request."""

    #: Seconds of the slowest sentence in each step; `ask` is from the first record sent to the last reply.
    steps: dict[str, float] = field(default_factory=dict)
    #: Log fields: counts, names.
    fields: dict[str, Any] = field(default_factory=dict)
    #: Texts, which the log shows only as far as a setting allows.
    texts: Sequence[str] = ()
    #: Headers that go out with the answer, whatever it is.
    headers: dict[str, str] = field(default_factory=dict)

    def replies(self, replies: Sequence[Reply], seconds: float) -> None:
        """Notes what the workers said of their time."""
        self.steps["ask"] = self.steps.get("ask", 0.0) + seconds
        for step in ("queue", "tokenise", "embed"):
            slowest = max((getattr(reply.timings, step) for reply in replies), default=0) / 1e6
            self.steps[step] = max(self.steps.get(step, 0.0), slowest)


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `deadline` is a monotonic time, `trace` a W3C traceparent."""

    bridge: "Bridge"
    id: str
    caller: Caller
    deadline: float
    trace: bytes
    note: Note
    request: Request

    @classmethod
    def of(cls, request: Request, caller: Caller, seconds: float | None) -> "Call":
        """Returns the call of a request whose caller waits so long, at most; None: as long as the settings allow."""
        state, bridge = request.state, request.app.state.bridge
        longest = bridge.settings.request_timeout
        deadline = state.started + min(longest, seconds or longest)
        return cls(bridge, state.request_id, caller, deadline, state.trace, state.note, request)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


class Attached:
    """Async context manager: what is inside is cancelled when the caller hangs up, and HungUp raised."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.get_running_loop().create_task(self._closed())
        self._watch.add_done_callback(self._cancel)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.remove_done_callback(self._cancel)
        self._watch.cancel()
        if self._gone and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise HungUp from None

    async def _closed(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _cancel(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled():
            self._gone = True
            self._task.cancel()
