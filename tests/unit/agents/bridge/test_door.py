"""The door: a 429 at once while the event loop is late, and only then."""

import asyncio
import time
from typing import Any

import httpx2
import pytest

from agents.bridge.app import Bridge
from agents.bridge.door import CALM, LATE, LOOK, PATIENCE, Lateness
from tests.support.bridge import client


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


async def test_once_is_no_trouble(lateness: Lateness, clock: Clock) -> None:
    """One large request, during which nothing else had its turn, shuts nobody out."""
    look(lateness, clock, 0.0)
    clock.now += LOOK + 2 * LATE
    assert not lateness.too_late
    look(lateness, clock, 5 * LATE)
    look(lateness, clock, 0.0)
    clock.now += LOOK + 2 * LATE
    assert not lateness.too_late


async def test_what_lasts_shuts_the_door(lateness: Lateness, clock: Clock) -> None:
    """Late at every look for long enough, it is too late whenever it is late again, until it was calm for a while."""
    for _ in range(int(PATIENCE / LATE)):
        look(lateness, clock, 2 * LATE)
    assert not lateness.too_late  # at this moment the loop keeps up
    clock.now += LOOK + 2 * LATE
    assert lateness.too_late
    look(lateness, clock, 0.0)
    clock.now += LOOK + 2 * LATE
    assert lateness.too_late
    look(lateness, clock, 0.0)
    clock.now += CALM
    look(lateness, clock, 0.0)
    clock.now += LOOK + 2 * LATE
    assert not lateness.too_late


async def test_it_sees_a_real_loop_that_is_late() -> None:
    """The timer is one of the running loop: what holds that up is seen before it has its turn again."""
    lateness = Lateness()
    lateness.start()
    time.sleep(LOOK + LATE + PATIENCE)  # noqa: ASYNC251  # holding it up is the point
    assert lateness.too_late
    lateness.stop()
    await asyncio.sleep(0)
    assert not lateness.too_late


async def test_it_is_a_429_for_callers_only(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything that answers have; health is still told, and nothing is asked of the stream."""
    monkeypatch.setattr(Lateness, "too_late", True)
    async with client(bridge) as http:
        refused: httpx2.Response = await http.post("/v1/embeddings", json={"input": "a"}, headers={"X-Request-Id": "7"})
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/overloaded")
        assert (refused.headers["Retry-After"], refused.headers["X-Request-Id"]) == ("1", "7")
        assert (await http.get("/health/live")).status_code == 503  # nobody runs it here: that is an answer
