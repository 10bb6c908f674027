"""The door: a 429 at once while the event loop is late, and only then."""

import asyncio
import json
import time
from typing import Any

import pytest
import structlog
import uvicorn
from uvicorn.server import ServerState

from agents.bridge import wire
from agents.bridge.door import CALM, LATE, LOOK, MARK, PATIENCE, ROOM, Door, Lateness
from agents.bridge.metrics import BridgeMetrics
from streams.settings import Settings


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def lateness(clock: Clock) -> Any:
    """One that looks when the test says so, not by a timer of its own."""
    found = Lateness(clock)
    found.start()
    yield found
    found.stop()


def look(lateness: Lateness, clock: Clock, late: float) -> None:
    """The timer's turn comes so many seconds after it was due."""
    clock.now += LOOK + late
    lateness.stop()
    lateness._due = clock.now - late
    lateness._look()


def passing(lateness: Lateness, of: int = 3 * ROOM) -> int:
    """How many of so many who come now may pass."""
    return sum(not lateness.full() for _ in range(of))


async def test_once_is_no_trouble(lateness: Lateness, clock: Clock) -> None:
    """One large request, during which nothing else had its turn, shuts nobody out."""
    look(lateness, clock, 1.2 * LATE)
    look(lateness, clock, 0.0)
    clock.now += LOOK + 1.2 * LATE
    assert passing(lateness) == 3 * ROOM


async def test_what_lasts_lets_few_pass(lateness: Lateness, clock: Clock) -> None:
    """Late at every look for long enough, some pass at each look, however late it is, until it was calm for a while."""
    for _ in range(3):
        look(lateness, clock, 1.2 * LATE)
    assert passing(lateness) == ROOM
    look(lateness, clock, 20 * LATE)
    assert passing(lateness) == ROOM
    look(lateness, clock, 0.0)
    assert passing(lateness) == ROOM
    look(lateness, clock, 0.0)
    clock.now += CALM
    look(lateness, clock, 0.0)
    assert passing(lateness) == 3 * ROOM


async def test_it_sees_a_real_loop_that_is_late() -> None:
    """The timer is one of the running loop: what holds that up is seen before it has its turn again."""
    lateness = Lateness()
    lateness.start()
    time.sleep(LOOK + LATE + PATIENCE)  # noqa: ASYNC251  # holding it up is the point
    assert passing(lateness) == ROOM
    lateness.stop()
    await asyncio.sleep(0)
    assert passing(lateness) == 3 * ROOM


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    """One that is shut."""
    monkeypatch.setattr(Lateness, "full", lambda _: True)
    return Door(BridgeMetrics())


async def answered(door: Door, request: bytes) -> bytes:
    """What a real connection says to a request, until it is closed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, log_config=None, **wire.options(Settings(), door))
    config.load()
    loop, state, protocol = asyncio.get_running_loop(), ServerState(), config.http_protocol_class
    made = await loop.create_server(lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0)  # type: ignore[call-arg, operator, arg-type]
    async with made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.sockets[0].getsockname()[1])
        writer.write(request)
        said = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    return said


def post(path: str, *headers: str, body: str = "{}") -> bytes:
    """A request."""
    lines = [f"POST {path} HTTP/1.1", "Host: bridge", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


async def test_it_is_a_429_for_callers_only(door: Door) -> None:
    """The same as everywhere, one for each request of a connection; health is still asked of the application."""
    two = post("/v1/embeddings", "X-Request-Id: 7") + post("/v1/scores", "X-Request-Id: not an id", "Connection: close")
    first, second = (part.partition(b"\r\n\r\n") for part in (await answered(door, two)).split(b"HTTP/1.1 429 ")[1:])
    assert b"retry-after: 1\r\nx-request-id: 7\r\n" in first[0]
    problem = json.loads(first[2])
    assert (problem["type"], problem["status"], problem["instance"]) == ("/problems/overloaded", 429, "7")
    assert problem["error"]["code"] == "overloaded"
    assert b"connection: close" in second[0]
    assert "error" not in json.loads(second[2])
    assert MARK not in second[2].decode()
    assert (await answered(door, b"GET /health/live HTTP/1.1\r\nHost: bridge\r\n\r\n")).startswith(b"HTTP/1.1 204")


async def test_who_asks_first_whether_to_send_need_not(door: Door) -> None:
    """`Expect: 100-continue` is answered by the refusal, without waiting for the body."""
    request = post("/v1/embeddings", "Expect: 100-continue", body="").replace(
        b"Content-Length: 0", b"Content-Length: 9"
    )
    assert (await answered(door, request)).count(b"HTTP/1.1 429") == 1


async def test_refusals_are_counted(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """As requests and as problems, and told in the log, all together."""
    monkeypatch.setattr("agents.bridge.door.TELL", 0.01)
    with structlog.testing.capture_logs() as logs:
        await answered(door, post("/v1/scores") * 2 + post("/v1/scores", "Connection: close"))
        await asyncio.sleep(0.1)
    assert [(line["event"], line["requests"]) for line in logs] == [("refused-at-the-door", 3)]
