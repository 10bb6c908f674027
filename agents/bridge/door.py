"""The door: while the event loop is late, whoever comes is told so at once, and nothing else is done for them.

Admission knows how much the stream can do. What the bridge itself can do shows on its event loop: where hundreds of
requests wait for their turn there, Kafka's receipts and replies wait among them, until nothing is answered any more. So
a timer says how late the loop is, and while it stays late a few requests pass each time the timer has its turn: all
others get a 429 from the connection itself (`wire`), for a twentieth of the time that an answer takes. So a turn of the
loop is short, and has work in it, however many come. One large request, which makes the loop late once, is no reason.

These refusals are counted like all others; the log has one line a second for them. Pages of other origins cannot read
them: CORS headers are the application's.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Iterable

import structlog

from agents.bridge import openai_errors
from agents.bridge.identity import PROTECTED
from agents.bridge.metrics import BridgeMetrics
from agents.bridge.problems import Kind, Problem, respond

log = structlog.get_logger(__name__)

#: Seconds between two looks, that the loop may be late (hundreds of requests wait then), that it may stay so, and
#: without a refusal after which it is all right again.
LOOK, LATE, PATIENCE, CALM = 0.005, 0.3, 0.5, 1.0
#: Requests that pass between two looks when that was so: some 15 ms of work.
ROOM = 16
#: Seconds between two lines of the log.
TELL = 1.0
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
#: Stands for the id of a request until there is one.
MARK = "00000000000000000000000000000000"


class Lateness:
    """How late the event loop is: seconds that pass between when a timer is due and its turn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due, self._ends = float("inf"), float("-inf")
        self._since: float | None = None
        self._room = ROOM
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Looks from now on, on the running loop."""
        self._room = ROOM
        self._due = self._clock() + LOOK
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def stop(self) -> None:
        """Looks no more: nothing is late."""
        self._due = float("inf")
        if self._timer is not None:
            self._timer.cancel()

    def full(self) -> bool:
        """Whether the loop stays late, and what may pass until the next look has passed; False lets one more pass."""
        now = self._clock()
        if now >= self._ends and not (now - self._due > LATE and self._lasts(now)):
            return False
        self._room -= 1
        return self._room < 0

    def _look(self) -> None:
        now = self._clock()
        if self._room < 0 or (now - self._due > LATE and self._lasts(now)):
            self._ends = now + CALM
        elif now - self._due <= LATE:
            self._since = None
        else:
            self._since = self._since or self._due
        self.start()

    def _lasts(self, now: float) -> bool:
        return now - (self._since or self._due) > PATIENCE


class Door:
    """Says who is refused at once, and with what."""

    def __init__(self, metrics: BridgeMetrics) -> None:
        self.lateness = Lateness()
        self._requests = metrics.requests.labels("none", "429")
        self._problems = metrics.problems.labels(Kind.OVERLOADED.value.slug)
        self._plain, self._openai = _body(PROTECTED), _body(openai_errors.PATHS[0])
        self._untold = 0

    def refuses(self, url: bytes) -> bool:
        """Whether a request for this is refused now; health and metrics never are."""
        return url.startswith(PROTECTED.encode()) and self.lateness.full()

    def refusal(self, url: bytes, headers: Iterable[tuple[bytes, bytes]], more: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Returns the whole answer to a request with these headers; `more` are headers of the answer."""
        self._requests.inc()
        self._problems.inc()
        if not self._untold:
            asyncio.get_running_loop().call_later(TELL, self._tell)
        self._untold += 1
        name = _request_id(headers)
        template = self._openai if url.startswith(_OPENAI) else self._plain
        body = template.replace(MARK.encode(), name)
        lines = b"".join(b"%b: %b\r\n" % header for header in more)
        return _HEAD % (name, len(body), lines) + body

    def _tell(self) -> None:
        log.warning("refused-at-the-door", requests=self._untold)
        self._untold = 0


_OPENAI = tuple(path.encode() for path in openai_errors.PATHS)
_HEAD = (
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n"
    b"x-request-id: %b\r\ncontent-length: %d\r\n%b\r\n"
)


def _body(path: str) -> bytes:
    problem = Problem(Kind.OVERLOADED, "too many requests are under way")
    return bytes(respond(problem, {"path": path, "state": {"request_id": MARK}}).body)


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
