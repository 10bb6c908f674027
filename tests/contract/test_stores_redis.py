"""The bridge's stores in a real Redis that dies, freezes, fills up or comes back; and leases that end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import redis as blocking
from pydantic import SecretStr
from redis.asyncio import Redis

from agents.bridge.stores import (
    Begun,
    Done,
    Found,
    Mismatch,
    Pending,
    Running,
    StoreUnavailable,
    Unknown,
    open_stores,
    shared,
    waiting,
)
from agents.bridge.stores.protocols import DAY
from agents.bridge.stores.shared import RedisIdempotency, RedisResults, connect
from streams.settings import load
from tests.support.kafka import unique
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer

#: So long that it only ends what would never end, and so short that what never answers costs a test nothing.
LONG, SHORT = 60.0, 0.1


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of what answers wait for it, and only a ring wakes who waits."""
    monkeypatch.setattr(shared, "PATIENCE", LONG)
    monkeypatch.setattr(waiting, "LOOK_AGAIN", 10 * LONG)


@pytest.fixture
async def redis(own_redis: RedisServer) -> AsyncIterator[Redis]:
    """A client of a Redis of this test."""
    client = connect(SecretStr(own_redis.url))
    yield client
    await client.aclose()


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[Proxy]:
    """A line to it that can be slow, or cut."""
    with Proxy(own_redis.port) as proxy:
        yield proxy


@pytest.fixture
async def results(redis: Redis) -> AsyncIterator[RedisResults]:
    """Results in it."""
    store = RedisResults(redis, 600)
    yield store
    await store.close()


async def until(look: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Looks until it sees what is wanted; what is away does not count."""
    async with asyncio.timeout(LONG):
        while await _calm(look) != wanted:
            await asyncio.sleep(0.01)


async def _calm(look: Callable[[], Awaitable[object]]) -> object:
    try:
        return await look()
    except StoreUnavailable as error:
        return error


# -- leases ---------------------------------------------------------------------------------------------------


async def test_the_key_of_a_replica_that_died_is_free_after_its_lease(redis: Redis) -> None:
    """It does not block for a day; before that it is running."""
    dead, alive = RedisIdempotency(redis, SHORT), RedisIdempotency(redis, 600)
    await dead.begin("client", "key", "body")
    await until(lambda: alive.begin("client", "key", "body"), Begun())
    assert await RedisIdempotency(redis, 600).begin("client", "key", "body") == Running()


async def test_who_still_runs_after_its_lease_does_not_begin_again(redis: Redis) -> None:
    """Its own process knows better than Redis."""
    slow, server = RedisIdempotency(redis, SHORT), redis
    await slow.begin("client", "key", "body")
    await until(server.dbsize, 0)
    assert await slow.begin("client", "key", "body") == Running()
    assert await slow.begin("client", "key", "other") == Mismatch()


async def test_of_two_that_ran_after_all_the_first_answer_stays(redis: Redis) -> None:
    """Callers with one key and body get one answer, whoever made it."""
    slow, fast = RedisIdempotency(redis, SHORT), RedisIdempotency(redis, 600)
    await slow.begin("client", "key", "body")
    await until(lambda: fast.begin("client", "key", "body"), Begun())
    await slow.finish("client", "key", b"slow")
    await fast.finish("client", "key", b"fast")
    assert [await store.begin("client", "key", "body") for store in (slow, fast)] == [Done(b"slow")] * 2


async def test_a_late_answer_does_not_take_a_key_from_another_body(redis: Redis) -> None:
    """Nor does giving up late free what another replica holds."""
    for end in ("finish", "abandon"):
        slow, fast = RedisIdempotency(redis, SHORT), RedisIdempotency(redis, 600)
        await slow.begin("client", end, "body")
        await until(lambda fast=fast, end=end: fast.begin("client", end, "other"), Begun())
        await (slow.finish("client", end, b"late") if end == "finish" else slow.abandon("client", end))
        assert await slow.begin("client", end, "other") == Running()


async def test_a_late_answer_is_kept_where_nobody_took_the_key(redis: Redis) -> None:
    """It was done, so whoever asks again gets the answer."""
    slow = RedisIdempotency(redis, SHORT)
    await slow.begin("client", "key", "body")
    await until(redis.dbsize, 0)
    await slow.finish("client", "key", b"late")
    assert await slow.begin("client", "key", "body") == Done(b"late")


async def test_everything_in_redis_leaves_in_time(redis: Redis, results: RedisResults) -> None:
    """Answers after a day, results after theirs; no key is kept for ever."""
    store = RedisIdempotency(redis, 600)
    await store.begin("client", "key", "body")
    assert [0 < await redis.ttl(name) <= 600 for name in await redis.keys()] == [True]
    await store.finish("client", "key", b"answer")
    assert [600 < await redis.ttl(name) <= DAY for name in await redis.keys()] == [True]
    await results.expect("client", "1", "2")
    await results.put("client", "2", b"result")
    await results.wait("client", "1", 0)
    ages = sorted([await redis.ttl(name) for name in await redis.keys(f"{shared.PREFIX}result:*")])
    assert len(ages) == 5  # two values, two that are known, one that waits
    assert 0 < ages[0] <= ages[2] <= 600 + 4 * waiting.LOOK_AGAIN < DAY < ages[3] <= ages[4] <= DAY + 600
    await results.put("client", "1", b"result")
    assert await _count(redis, "waiting") == 0


# -- away -----------------------------------------------------------------------------------------------------


async def test_a_dead_redis_is_unavailable_and_a_restarted_one_is_used_again(
    own_redis: RedisServer, redis: Redis, results: RedisResults
) -> None:
    """Every question says so; afterwards all is as new, for it held nothing on disk."""
    store = RedisIdempotency(redis, 600)
    await store.begin("client", "held", "body")
    await store.begin("client", "given up", "body")
    own_redis.kill()
    questions = [
        store.begin("client", "key", "body"),
        store.finish("client", "held", b"answer"),
        results.expect("client", "1"),
        results.put("client", "1", b"result"),
        results.get("client", "1"),
    ]
    for question in questions:
        with pytest.raises(StoreUnavailable):
            await question
    await store.abandon("client", "given up")  # never raises: the lease would free it
    own_redis.start()
    assert await store.begin("client", "held", "body") == Begun()
    assert await store.begin("client", "given up", "body") == Begun()
    assert await results.get("client", "1") == Unknown()


async def test_a_frozen_redis_is_unavailable_in_bounded_time(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP, and more callers than connections: all of them are told. When it goes on, so do they."""
    monkeypatch.setattr(shared, "PATIENCE", SHORT)
    monkeypatch.setattr(shared, "CONNECTIONS", 4)
    redis = connect(SecretStr(own_redis.url))
    store, results = RedisIdempotency(redis, SHORT), RedisResults(redis, 600)
    own_redis.pause()
    questions: list[Awaitable[object]] = [store.begin("client", str(number), "body") for number in range(50)]
    questions += [results.get("client", "1"), results.wait("client", "1", 10 * LONG)]
    async with asyncio.timeout(LONG):
        answers = await asyncio.gather(*questions, return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    own_redis.resume()
    await until(lambda: results.get("client", "1"), Unknown())
    await until(lambda: store.begin("client", "0", "body"), Begun())
    await results.close()
    await redis.aclose()


async def test_a_full_redis_is_unavailable(redis: Redis, results: RedisResults) -> None:
    """What it cannot hold is not promised."""
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set("maxmemory", "1")
    for question in (RedisIdempotency(redis, 600).begin("c", "k", "b"), results.expect("c", "1")):
        with pytest.raises(StoreUnavailable):
            await question
    with pytest.raises(StoreUnavailable):
        await results.put("c", "1", b"result")


async def test_a_caller_who_leaves_while_its_key_is_begun_frees_it(proxy: Proxy, redis: Redis) -> None:
    """Redis began it, but the answer was still on its way: nobody would ever end it."""
    far = connect(SecretStr(f"redis://{proxy.address}/0"))
    leaving, other = RedisIdempotency(far, 600), RedisIdempotency(redis, 600)
    await leaving.begin("client", "before", "body")  # so that the connection and the script are there
    proxy.slow(0.3, 0)
    caller = asyncio.create_task(leaving.begin("client", "key", "body"))
    await until(redis.dbsize, 2)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    await until(lambda: other.begin("client", "key", "body"), Begun())
    await asyncio.gather(*leaving._freeing)
    await far.aclose()


async def test_a_key_whose_connection_broke_while_it_was_begun_is_begun(proxy: Proxy, redis: Redis) -> None:
    """It is asked for once more, and finds itself: whoever asks is told so, and not that somebody is running."""
    far = connect(SecretStr(f"redis://{proxy.address}/0"))
    store = RedisIdempotency(far, 600)
    await store.begin("client", "before", "body")  # so that the connection and the script are there
    proxy.slow(0.3, 0)
    caller = asyncio.create_task(store.begin("client", "key", "body"))
    await until(redis.dbsize, 2)
    proxy.slow(0, 0)
    proxy.heal()  # which drops the connections that there are
    async with asyncio.timeout(LONG):
        assert await caller == Begun()
    await far.aclose()


async def test_a_password_is_in_no_error(own_redis: RedisServer, redis: Redis) -> None:
    """Nor in what a store or its client prints."""
    await redis.config_set("requirepass", "right")
    client = connect(SecretStr(own_redis.url.replace("://", "://worker:hunter2@")))
    store = RedisResults(client, 600)
    with pytest.raises(StoreUnavailable) as caught:
        await store.get("client", "1")
    assert "hunter2" not in f"{caught.value!r} {caught.value} {caught.value.__cause__} {client!r} {vars(store)}"
    await client.aclose()
    with blocking.Redis.from_url(own_redis.url, password="right") as plain:
        plain.config_set("requirepass", "")


# -- the connection that listens ------------------------------------------------------------------------------


async def waits_and_is_woken(waiter: RedisResults, putter: RedisResults) -> None:
    """Waits until a put wakes it, as it does while the connection that listens is whole."""
    client = unique("client")
    await putter.expect(client, "1")
    found = asyncio.create_task(waiter.wait(client, "1", 10 * LONG))
    await asyncio.sleep(0.05)
    await putter.put(client, "1", b"result")
    async with asyncio.timeout(LONG):
        assert await found == Found(b"result")


async def test_it_ends_at_whatever_moment(own_redis: RedisServer) -> None:
    """Closing while it still connects, subscribes or looks: no cancellation is lost, and nobody hangs."""
    for steps in range(100):
        redis = connect(SecretStr(own_redis.url))
        store = RedisResults(redis, 600)
        await store.expect("client", "1")
        waiters = [asyncio.create_task(store.wait("client", "1", 10 * LONG)) for _ in range(3)]
        for _ in range(steps % 50):
            await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        async with asyncio.timeout(LONG):
            await asyncio.wait(waiters)
            await store.close()
        assert all(waiter.cancelled() for waiter in waiters)
        await redis.aclose()


async def test_a_thousand_who_wait_need_few_connections(redis: Redis, results: RedisResults) -> None:
    """One listens for all; the others are shared."""
    ids = [str(number) for number in range(1000)]
    await results.expect("client", *ids)
    waiters = [asyncio.create_task(results.wait("client", id, 10 * LONG)) for id in ids]
    await until(lambda: _count(redis, "waiting"), 1000)
    assert len(await redis.client_list()) <= shared.CONNECTIONS
    assert len(await redis.client_list(_type="pubsub")) == 1
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)


async def _count(redis: Redis, kind: str) -> int:
    return len(await redis.keys(f"{shared.PREFIX}result:*:{kind}"))


async def test_a_broken_listening_connection_is_made_again(
    redis: Redis, results: RedisResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis closes it; who waits later is woken as before."""
    monkeypatch.setattr(shared, "RECONNECT", 0.01)
    await waits_and_is_woken(results, results)
    await redis.client_kill_filter(_type="pubsub")
    await until(lambda: _listening(redis, results), 1)
    await waits_and_is_woken(results, results)


async def _listening(redis: Redis, results: RedisResults) -> int:
    return sum(count for _, count in await redis.pubsub_numsub(results._channel))


async def test_after_a_restart_who_waits_is_woken_as_before(
    own_redis: RedisServer, redis: Redis, results: RedisResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new Redis knows nothing of the channel until this process connects again."""
    monkeypatch.setattr(shared, "RECONNECT", 0.01)
    await waits_and_is_woken(results, results)
    own_redis.kill()
    own_redis.start()
    await until(lambda: _listening(redis, results), 1)
    await waits_and_is_woken(results, results)


async def test_a_listening_connection_that_went_silent_is_noticed(
    proxy: Proxy, results: RedisResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut line tells nobody: it is tried now and then, and made again."""
    monkeypatch.setattr(shared, "PATIENCE", 1.0)
    monkeypatch.setattr(shared, "QUIET", SHORT)
    monkeypatch.setattr(shared, "RECONNECT", 0.01)
    far = connect(SecretStr(f"redis://{proxy.address}/0"))
    store = RedisResults(far, 600)
    await waits_and_is_woken(store, results)
    proxy.cut()
    async with asyncio.timeout(LONG):
        while store._listening.is_set():
            await asyncio.sleep(0.01)
    proxy.heal()
    async with asyncio.timeout(LONG):
        await store._listening.wait()
    await until(lambda: store.get("client", "1"), Unknown())
    await waits_and_is_woken(store, results)
    await store.close()
    await far.aclose()


async def test_without_a_ring_who_waits_looks_again(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring that was lost with its connection costs time, not the result; and a Redis that died is told."""
    monkeypatch.setattr(waiting, "LOOK_AGAIN", SHORT)
    store = RedisResults(redis, 600)
    await store.expect("client", "1")
    waiter = asyncio.create_task(store.wait("client", "1", 10 * LONG))
    await until(lambda: _count(redis, "waiting"), 1)
    value, *_ = shared._keys(shared.name_of("client", "1"))
    await redis.set(value, b".result")
    async with asyncio.timeout(LONG):
        assert await waiter == Found(b"result")
    await store.close()


async def test_who_waits_is_told_when_redis_dies(
    own_redis: RedisServer, results: RedisResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next look, rather than at the end of its time."""
    monkeypatch.setattr(waiting, "LOOK_AGAIN", SHORT)
    await results.expect("client", "1")
    waiter = asyncio.create_task(results.wait("client", "1", 10 * LONG))
    await asyncio.sleep(0.05)
    own_redis.kill()
    async with asyncio.timeout(LONG):
        with pytest.raises(StoreUnavailable):
            await waiter


# -- opened ---------------------------------------------------------------------------------------------------


async def test_the_settings_open_stores_that_share(own_redis: RedisServer) -> None:
    """Two bridges with one Redis agree; the lease is longer than any request may take."""
    bridges = [open_stores(load(redis_url=SecretStr(own_redis.url), request_timeout=30.0)) for _ in range(2)]
    assert await bridges[0].idempotency.begin("client", "key", "body") == Begun()
    assert await bridges[1].idempotency.begin("client", "key", "body") == Running()
    await bridges[0].results.expect("client", "1")
    assert await bridges[1].results.wait("client", "1", 0) == Pending()
    with blocking.Redis.from_url(own_redis.url) as plain:
        (held,) = plain.keys(f"{shared.PREFIX}idempotency:*")  # type: ignore[misc]
        assert 30 < int(plain.ttl(held)) <= 90  # type: ignore[arg-type]
    for bridge in bridges:
        await bridge.close()
