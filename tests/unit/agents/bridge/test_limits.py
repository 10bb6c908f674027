"""Rate limits: how much passes, and what callers are told. Redis is in `tests/contract/test_rate_limits.py`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.bridge import limits
from agents.bridge.limits import MemoryWindows, RateLimits, Usage
from agents.bridge.problems import Problem
from streams.settings import Settings


class Clock:
    """Seconds that pass when a test says so; it starts with a window of 60 seconds."""

    now = 6000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of `allowed`."""
    return Clock()


@pytest.fixture
def allowed(clock: Clock) -> RateLimits:
    """Ten sentences a minute."""
    return RateLimits("10/minute", clock=clock)


async def test_the_headers_tell_what_is_left(allowed: RateLimits, clock: Clock) -> None:
    """Policy and rest, as the IETF's draft names them; a unit is a sentence, not a request."""
    assert await allowed.spend("ann", 4) == {
        "RateLimit-Policy": '"default";q=10;w=60',
        "RateLimit": '"default";r=6;t=60',
    }
    clock.now += 20
    assert (await allowed.spend("ann", 1))["RateLimit"] == '"default";r=5;t=40'


async def test_what_is_too_much_is_429(allowed: RateLimits, clock: Clock) -> None:
    """It counts nothing, says when it would pass, and then it does; a client has no part in another's limit."""
    await allowed.spend("ann", 8)
    clock.now += 30
    with pytest.raises(Problem) as caught:
        await allowed.spend("ann", 3)
    assert (caught.value.status, caught.value.kind.value.slug) == (429, "rate-limited")
    assert caught.value.headers["RateLimit"].startswith('"default";r=2;t=')
    assert await allowed.spend("ann", 2)
    assert await allowed.spend("bob", 10)
    clock.now += int(caught.value.headers["Retry-After"])
    with pytest.raises(Problem):
        await allowed.spend("ann", 10)


async def test_waiting_as_told_is_enough(allowed: RateLimits, clock: Clock) -> None:
    """After Retry-After the same request passes, if the client sent nothing meanwhile."""
    await allowed.spend("ann", 10)
    with pytest.raises(Problem) as caught:
        await allowed.spend("ann", 6)
    clock.now += int(caught.value.headers["Retry-After"]) - 1
    with pytest.raises(Problem) as again:
        await allowed.spend("ann", 6)
    assert again.value.headers["Retry-After"] == "1"
    clock.now += 1
    assert await allowed.spend("ann", 6)


async def test_a_full_window_says_when_it_opens(allowed: RateLimits) -> None:
    """The answer that took the last unit already tells how long there is none."""
    headers = await allowed.spend("ann", 10)
    assert headers["RateLimit"] == '"default";r=0;t=61'


async def test_more_than_the_limit_never_passes(allowed: RateLimits) -> None:
    """One request with more sentences than a whole window allows is wrong, not early: waiting would not help."""
    with pytest.raises(Problem) as caught:
        await allowed.spend("ann", 11, field="/sentences")
    assert caught.value.status == 422
    assert caught.value.errors == ({"field": "/sentences", "expected": "at most 10 sentences"},)
    assert await allowed.spend("ann", 10)


async def test_no_limit_has_no_headers() -> None:
    """`none` counts nothing; it is the default."""
    assert await RateLimits.from_settings(Settings()).spend("ann", 1_000_000) == {}


async def test_clients_that_went_away_are_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by time, and by a number where more come than that."""
    monkeypatch.setattr(limits, "CLIENTS", 50)
    windows = MemoryWindows(60, clock)
    for client in range(1000):
        assert await windows.acquire_sliding_window_entry(str(client), 10, 60)
    assert len(windows._counts) == 100
    clock.now += 121
    assert await windows.acquire_sliding_window_entry("ann", 10, 60)
    assert len(windows._counts) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 10)), max_size=30))
async def test_no_window_ever_has_more_than_allowed(requests: list[tuple[float, int]]) -> None:
    """However requests come, two limits never pass in one window's time, and one limit in each of its own windows."""
    clock = Clock()
    windows, passed = MemoryWindows(60, clock), []
    for pause, amount in requests:
        clock.now += pause
        if await windows.acquire_sliding_window_entry("ann", 10, 60, amount):
            passed.append((clock.now, amount))
    for start, _ in passed:
        assert sum(amount for at, amount in passed if at // 60 == start // 60) <= 10
        assert sum(amount for at, amount in passed if start <= at < start + 60) < 20


@settings(deadline=None)
@given(
    previous=st.integers(0, 1000),
    current=st.integers(0, 1000),
    gone=st.integers(0, 59),
    amount=st.integers(1, 1000),
)
def test_the_wait_is_neither_too_short_nor_too_long(previous: int, current: int, gone: int, amount: int) -> None:
    """A second before it ends it would not pass, a moment after it does; computed the slow way, second by second."""
    usage = Usage(1000, 60, previous, 60 - gone, current, 60 - gone)

    def fits(after: float) -> bool:
        if after < usage.left:
            later = Usage(1000, 60, previous, usage.weighs - after, current, usage.left - after)
        else:
            later = Usage(1000, 60, current, max(0.0, 60 + usage.left - after), 0, 60)
        return later.limit - later.current - int(later.previous * later.weighs / 60) >= amount

    wait = usage.wait(amount)
    assert fits(wait + 1e-6)
    assert wait == 0 or not fits(wait - 1)
