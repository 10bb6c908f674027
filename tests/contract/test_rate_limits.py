"""Rate limits that replicas share through a real Redis, and what they do without it."""

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
import structlog

from agents.bridge.limits import RECOVERY, RateLimits
from agents.bridge.problems import Problem
from tests.support.redis import RedisServer


class Clock:
    """Seconds that pass when a test says so; Redis has its own."""

    now = 6000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of the replicas."""
    return Clock()


@pytest.fixture
async def replica(clock: Clock) -> AsyncIterator[Callable[[RedisServer], RateLimits]]:
    """Makes replicas that allow ten sentences an hour."""
    made = []

    def make(redis: RedisServer) -> RateLimits:
        made.append(RateLimits("10/hour", redis.url, clock))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def client() -> str:
    """A client that nobody else is."""
    return f"key:{uuid4()}"


async def test_replicas_count_together(
    redis_server: RedisServer, replica: Callable[[RedisServer], RateLimits], client: str
) -> None:
    """What a client spent at one replica is spent at the other, and what is refused at either counts nothing."""
    one, other = replica(redis_server), replica(redis_server)
    assert (await one.spend(client, 6))["RateLimit"].startswith('"default";r=4;t=')
    with pytest.raises(Problem) as caught:
        await other.spend(client, 5)
    assert caught.value.status == 429
    assert 0 < int(caught.value.headers["Retry-After"]) <= 2 * 3600
    assert (await other.spend(client, 4))["RateLimit"].startswith('"default";r=0;t=')
    assert await one.spend(client + "-another", 10)


async def test_redis_and_memory_agree(
    redis_server: RedisServer, replica: Callable[[RedisServer], RateLimits], clock: Clock, client: str
) -> None:
    """The same requests pass and the same rest is told, whoever counts."""
    shared, own = replica(redis_server), RateLimits("10/hour", clock=clock)
    for amount in (3, 4, 5, 2, 1, 1):
        told = []
        for each in (shared, own):
            try:
                told.append((True, (await each.spend(client, amount))["RateLimit"].split(";t=")[0]))
            except Problem as problem:
                told.append((False, problem.headers["RateLimit"].split(";t=")[0]))
        assert told[0] == told[1]


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_a_dead_redis_is_noticed_once_and_missed_by_nobody(
    trouble: str, own_redis: RedisServer, replica: Callable[[RedisServer], RateLimits], clock: Clock, client: str
) -> None:
    """Each replica counts for itself, leaves Redis alone for a while, and returns to it when it is back."""
    allowed = replica(own_redis)
    await allowed.spend(client, 7)
    own_redis.kill() if trouble == "killed" else own_redis.pause()
    with structlog.testing.capture_logs() as logs:
        assert (await allowed.spend(client, 8))["RateLimit"].startswith('"default";r=2;')
        with pytest.raises(Problem):
            await allowed.spend(client, 3)
    assert [entry["event"] for entry in logs] == ["rate-limits-without-redis"]
    assert own_redis.url not in str(logs)
    own_redis.start() if trouble == "killed" else own_redis.resume()
    clock.now += RECOVERY
    left = (await allowed.spend(client, 1))["RateLimit"]
    assert left.startswith('"default";r=9;' if trouble == "killed" else '"default";r=2;')
