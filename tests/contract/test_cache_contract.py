"""One suite for every cache of vectors: in memory, in a real Redis, and the one before the other."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import redis
from pydantic import SecretStr
from structlog.testing import capture_logs

from streams.cache import LayeredCache, MemoryCache, VectorCache, shared
from streams.cache.shared import PREFIX, RedisCache
from streams.observe.metrics import Metrics
from tests.support.kafka import unique
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.vectors import KEY, content, vector

#: So long that no machine is too busy for it, and so short that what never answers costs a test nothing.
LONG, SHORT = 20.0, 0.05
REAL = [pytest.param(form, marks=pytest.mark.redis) for form in ("redis", "layered")]


@pytest.fixture
def metrics() -> Metrics:
    """Figures of one test."""
    return Metrics()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of what answers wait for it."""
    monkeypatch.setattr(shared, "PATIENCE", LONG)


@pytest.fixture(params=["memory", *REAL])
def cache(request: pytest.FixtureRequest, metrics: Metrics) -> Iterator[VectorCache]:
    """Each cache in turn."""
    memory = MemoryCache(1_000_000, metrics)
    if request.param == "memory":
        yield memory
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    far = opened(server.url, metrics)
    yield far if request.param == "redis" else LayeredCache(memory, far)
    far.close()


@pytest.fixture
def far(own_redis: RedisServer, metrics: Metrics) -> Iterator[RedisCache]:
    """A cache in a Redis of this test."""
    cache = opened(own_redis.url, metrics)
    yield cache
    cache.close()


def opened(url: str, metrics: Metrics) -> RedisCache:
    return RedisCache(SecretStr(url), 600, metrics)


def count(metrics: Metrics, outcome: str, name: str = "lookups") -> float:
    labels = {"layer": "redis", "outcome": outcome}
    return metrics.registry.get_sample_value(f"streams_cache_{name}_total", labels) or 0.0


# -- what all of them do --------------------------------------------------------------------------------------


def test_what_was_put_is_found_in_the_order_of_the_question(cache: VectorCache) -> None:
    """Bit for bit, of any length, with None where there is nothing; a key may be asked for twice."""
    one, other, none = unique("one"), unique("other"), unique("none")
    cache.put_many({one: vector(384), other: vector(7, seed=1)})
    found = cache.get_many([none, other, one, other])
    expected = [None, vector(7, seed=1), vector(384), vector(7, seed=1)]
    for got, want in zip(found, expected, strict=True):
        assert (got is None) == (want is None)
        if got is not None and want is not None:
            assert got.dtype == np.float32
            assert got.tobytes() == want.tobytes()


async def test_an_event_loop_finds_the_same(cache: VectorCache) -> None:
    """`find_many` answers as `get_many` does."""
    key = unique("key")
    await asyncio.to_thread(cache.put_many, {key: vector(8)})
    missing, found = await cache.find_many([unique("none"), key])
    assert missing is None
    assert found is not None
    assert found.tobytes() == vector(8).tobytes()


def test_a_vector_that_is_put_again_takes_the_place_of_the_old(cache: VectorCache) -> None:
    """The last one counts."""
    key = unique("key")
    cache.put_many({key: vector(8)})
    cache.put_many({key: vector(8, seed=1)})
    (found,) = cache.get_many([key])
    assert found is not None
    assert found.tobytes() == vector(8, seed=1).tobytes()


def test_a_column_of_a_matrix_is_kept_as_its_numbers(cache: VectorCache) -> None:
    """Vectors need not be contiguous in memory, nor float32 already."""
    key, wide = unique("key"), np.arange(12, dtype=np.float64).reshape(3, 4)
    cache.put_many({key: wide[:, 1]})  # type: ignore[dict-item]
    (found,) = cache.get_many([key])
    assert found is not None
    assert found.tolist() == [1.0, 5.0, 9.0]


async def test_nothing_asked_is_nothing_found(cache: VectorCache) -> None:
    """An empty question and an empty put are no errors."""
    cache.put_many({})
    assert cache.get_many([]) == []
    assert await cache.find_many([]) == []


def test_a_long_list_is_one_question(cache: VectorCache) -> None:
    """2,048 sentences, the longest list of a caller."""
    name = unique("long")
    keys = [f"{name}-{number}" for number in range(2048)]
    cache.put_many({key: np.full(4, number, np.float32) for number, key in enumerate(keys)})
    assert [found[0] for found in cache.get_many(keys) if found is not None] == list(range(2048))


# -- Redis: what lies there -----------------------------------------------------------------------------------


def test_entries_have_our_prefix_and_leave_in_time(far: RedisCache, own_redis: RedisServer) -> None:
    """Nothing stays for ever, and other users of the Redis can tell whose it is."""
    far.put_many({KEY: vector(8)})
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.keys() == [f"{PREFIX}{KEY}".encode()]
        assert 0 < int(client.ttl(f"{PREFIX}{KEY}")) <= 600  # type: ignore[arg-type]


def test_what_one_process_put_another_finds(far: RedisCache, own_redis: RedisServer, metrics: Metrics) -> None:
    """That is what Redis is for; the other's memory has it afterwards."""
    far.put_many({KEY: vector(8)})
    other = LayeredCache(MemoryCache(1_000_000, metrics), opened(own_redis.url, metrics))
    for _ in range(2):
        (found,) = other.get_many([KEY])
        assert found is not None
        assert found.tobytes() == vector(8).tobytes()
    assert count(metrics, "hit") == 1
    other.close()


@pytest.mark.parametrize("kind", ["empty", "short", "raw", "moved", "list"])
def test_foreign_values_are_no_vectors(kind: str, far: RedisCache, own_redis: RedisServer, metrics: Metrics) -> None:
    """Values that we did not write, or that lie under another key, are misses that are counted."""
    far.put_many({content(1): vector(8)})
    name = f"{PREFIX}{KEY}"
    with redis.Redis.from_url(own_redis.url) as client:
        moved = client.get(f"{PREFIX}{content(1)}")
        values = {"empty": b"", "short": b"abc", "raw": vector(8).tobytes(), "moved": moved}
        if kind == "list":
            client.rpush(name, "x")  # Redis answers a question for many with nothing where a list lies
        else:
            client.set(name, values[kind])  # type: ignore[arg-type]
    assert far.get_many([KEY]) == [None]
    assert count(metrics, "foreign") == (kind != "list")


# -- Redis: away ----------------------------------------------------------------------------------------------


def test_a_dead_redis_is_a_miss_and_soon_left_alone(far: RedisCache, own_redis: RedisServer, metrics: Metrics) -> None:
    """Some questions fail, the next are not even asked; puts likewise."""
    own_redis.kill()
    for _ in range(shared.FAILURES + 2):
        assert far.get_many([KEY, content(1)]) == [None, None]
    far.put_many({KEY: vector(8)})
    assert count(metrics, "error") == 2 * shared.FAILURES
    assert count(metrics, "skipped") == 4
    assert count(metrics, "skipped", "writes") == 1


async def test_a_frozen_redis_costs_a_bounded_wait(
    own_redis: RedisServer, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: connections open and nothing answers. Threads and event loop get their misses all the same."""
    monkeypatch.setattr(shared, "PATIENCE", SHORT)
    cache = opened(own_redis.url, metrics)
    own_redis.pause()
    waiting = asyncio.create_task(cache.find_many([KEY]))
    await asyncio.sleep(0)
    assert not waiting.done()  # the loop went on
    assert await waiting == [None]
    found = await asyncio.gather(*(cache.find_many([KEY]) for _ in range(200)))
    assert found == [[None]] * 200
    assert cache.get_many([KEY]) == [None]
    assert count(metrics, "skipped") > 0
    own_redis.resume()
    cache.close()


@pytest.mark.parametrize("on_a_loop", [True, False])
def test_a_redis_that_trickles_is_bounded_as_a_whole(
    on_a_loop: bool, own_redis: RedisServer, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read is quick, all of them together are not: the caller's patience ends, not only a socket's."""
    patient = opened(own_redis.url, metrics)
    patient.put_many({KEY: vector(500_000)})
    patient.close()
    with Proxy(own_redis.port) as proxy:
        proxy.slow(0.0, 1_000_000)  # the value takes 2 s, a chunk of it 16 ms
        monkeypatch.setattr(shared, "PATIENCE", 0.5)
        cache = opened(f"redis://{proxy.address}", metrics)
        found = asyncio.run(cache.find_many([KEY])) if on_a_loop else cache.get_many([KEY])
        assert found == [None]
        assert count(metrics, "error") == 1
        cache.close()


def test_a_full_redis_still_answers(far: RedisCache, own_redis: RedisServer, metrics: Metrics) -> None:
    """It refuses what is put, which is counted, and is not left alone for that."""
    far.put_many({KEY: vector(8)})
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    with capture_logs() as logs:
        for number in range(shared.FAILURES + 2):
            far.put_many({content(10 + number): vector(8)})
    (found,) = far.get_many([KEY])
    assert found is not None
    assert [(line["event"], line["question"]) for line in logs] == [("shared-cache-fails", "store")]
    assert count(metrics, "error", "writes") == shared.FAILURES + 2
    assert count(metrics, "stored", "writes") == 1


def test_a_redis_that_came_back_is_used_again(
    own_redis: RedisServer, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its rest; the outage and its end are one line each in the log, however many questions failed."""
    monkeypatch.setattr(shared, "REST", SHORT)
    cache = opened(own_redis.url, metrics)
    with capture_logs() as logs:
        own_redis.kill()
        for _ in range(10):
            assert cache.get_many([KEY]) == [None]
        own_redis.start()
        while count(metrics, "miss") == 0:
            assert cache.get_many([KEY]) == [None]
    assert [line["event"] for line in logs] == ["shared-cache-fails", "shared-cache-works-again"]
    cache.close()


def test_a_restart_between_two_questions_is_not_noticed(
    far: RedisCache, own_redis: RedisServer, metrics: Metrics
) -> None:
    """Connections of before are dead, and replaced within the question."""
    far.put_many({KEY: vector(8)})
    own_redis.kill()
    own_redis.start()
    assert far.get_many([KEY]) == [None]
    assert count(metrics, "miss") == 1
    assert count(metrics, "error") == 0


def test_a_server_that_is_no_redis_is_a_miss(metrics: Metrics) -> None:
    """Whatever it answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        chatter = threading.Thread(target=_chatter, args=(server,))
        chatter.start()
        cache = opened("redis://127.0.0.1:{1}".format(*server.getsockname()), metrics)
        assert cache.get_many([KEY]) == [None]
        assert count(metrics, "error") == 1
        cache.close()
        server.shutdown(socket.SHUT_RDWR)
        chatter.join()


def _chatter(server: socket.socket) -> None:
    """Answers every connection with something that is no Redis's, until the server is shut down."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_password_is_shown_nowhere(own_redis: RedisServer, metrics: Metrics) -> None:
    """Not in the log of a refused login, not in what the objects print."""
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "right")
    with capture_logs() as logs:
        cache = opened(own_redis.url.replace("://", "://worker:hunter2@"), metrics)
        assert cache.get_many([KEY]) == [None]
    assert count(metrics, "error") == 1
    assert logs
    assert "hunter2" not in f"{logs} {cache!r} {vars(cache)}"
    cache.close()
