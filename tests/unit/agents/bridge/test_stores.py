"""The bridge's stores in memory: how long, and how much. What they share with Redis is in tests/contract."""

import asyncio
import gc
import tracemalloc

import pytest
from structlog.testing import capture_logs

from agents.bridge.stores import Begun, Done, Found, Gone, Mismatch, Pending, Running, Unknown, open_stores
from agents.bridge.stores.memory import OVERHEAD, MemoryIdempotency, MemoryResults
from agents.bridge.stores.protocols import DAY
from agents.bridge.stores.waiting import Bells
from streams.settings import load


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Time of one test."""
    return Clock()


# -- idempotency ----------------------------------------------------------------------------------------------


async def test_an_answer_is_kept_for_a_day_from_when_it_was_given(clock: Clock) -> None:
    """A moment before it is the answer, then the key is free, for another body too."""
    store = MemoryIdempotency(clock=clock)
    await store.begin("client", "key", "body")
    clock.now += 1000
    await store.finish("client", "key", b"answer")
    clock.now += DAY - 1
    assert await store.begin("client", "key", "body") == Done(b"answer")
    clock.now += 1
    assert await store.begin("client", "key", "other") == Begun()


async def test_while_it_runs_a_key_is_taken(clock: Clock) -> None:
    """Whoever holds it lives as long as the process, so no lease ends it."""
    store = MemoryIdempotency(clock=clock)
    await store.begin("client", "key", "body")
    clock.now += DAY - 1
    assert await store.begin("client", "key", "body") == Running()
    assert await store.begin("client", "key", "other") == Mismatch()


async def test_where_room_ends_the_oldest_answer_is_forgotten(clock: Clock) -> None:
    """Its key is free again, before its day is over; the others stay."""
    store = MemoryIdempotency(3 * (OVERHEAD + 104), clock)
    for key in "abcd":
        await store.begin("client", key, "body")
        await store.finish("client", key, bytes(100))
    answers = [await store.begin("client", key, "body") for key in "dcb"]
    assert answers == [Done(bytes(100))] * 3
    assert await store.begin("client", "a", "body") == Begun()


async def test_an_answer_larger_than_all_room_frees_its_key(clock: Clock) -> None:
    """It is logged, and nobody is told for a day that the key is running."""
    store = MemoryIdempotency(OVERHEAD + 100, clock)
    await store.begin("client", "key", "body")
    with capture_logs() as logs:
        await store.finish("client", "key", bytes(1000))
    assert [line["event"] for line in logs] == ["too-large-to-keep"]
    assert await store.begin("client", "key", "body") == Begun()


# -- results --------------------------------------------------------------------------------------------------


async def test_a_result_is_kept_for_its_time_then_gone_for_a_day(clock: Clock) -> None:
    """Its time begins when it comes, not when it was expected."""
    store = MemoryResults(60, clock=clock)
    await store.expect("client", "1")
    clock.now += 59
    await store.put("client", "1", b"result")
    clock.now += 59
    assert await store.get("client", "1") == Found(b"result")
    clock.now += 1
    assert await store.get("client", "1") == Gone()
    clock.now += DAY - 1
    assert await store.get("client", "1") == Gone()
    clock.now += 1
    assert await store.get("client", "1") == Unknown()


async def test_what_never_came_is_gone_after_the_same_time(clock: Clock) -> None:
    """Nobody waits for it for ever."""
    store = MemoryResults(60, clock=clock)
    await store.expect("client", "1")
    clock.now += 60
    assert await store.wait("client", "1", 1000) == Gone()


async def test_a_result_that_comes_late_is_better_than_none(clock: Clock) -> None:
    """Gone is not for ever."""
    store = MemoryResults(60, clock=clock)
    await store.expect("client", "1")
    clock.now += 60
    await store.put("client", "1", b"late")
    assert await store.get("client", "1") == Found(b"late")


async def test_where_room_ends_the_oldest_results_are_gone(clock: Clock) -> None:
    """They were there, so they are no unknown ones; the newest stay."""
    store = MemoryResults(60, 3 * (OVERHEAD + 100), clock=clock)
    for id in "abcd":
        await store.put("client", id, bytes(100))
    assert [await store.get("client", id) for id in "abcd"] == [Gone(), *[Found(bytes(100))] * 3]


async def test_a_result_larger_than_all_room_is_gone_at_once(clock: Clock) -> None:
    """Who waits for it is told, and it pushes nobody out."""
    store = MemoryResults(60, OVERHEAD * 3, clock=clock)
    await store.expect("client", "small", "large")
    await store.put("client", "large", bytes(10_000))
    assert await store.get("client", "large") == Gone()
    assert await store.get("client", "small") == Pending()


async def test_where_room_for_ids_ends_the_oldest_are_unknown(clock: Clock) -> None:
    """A process remembers so many of those that are gone."""
    store = MemoryResults(60, max_known_bytes=3 * OVERHEAD, clock=clock)
    await store.expect("client", *"abcd")
    clock.now += 60
    assert [await store.get("client", id) for id in "abcd"] == [Unknown(), Gone(), Gone(), Gone()]


async def test_a_ring_has_who_waits_look_once() -> None:
    """A result that was put and then sent again is pending again: who waits goes on waiting, and is not kept busy."""
    bells, looks = Bells(), []

    async def look() -> Pending:
        looks.append(1)
        return Pending()

    waiter = asyncio.create_task(bells.wait("name", look, 0.2))
    await asyncio.sleep(0)
    bells.ring("name")
    bells.ring("another")
    assert await waiter == Pending()
    assert len(looks) == 3  # at the start, at the ring, at the end


@pytest.mark.parametrize("size", [0, 2000])
async def test_what_is_counted_is_what_is_taken(size: int) -> None:
    """Measured: never more than is counted, so that the bounds hold, and not much less."""
    store, keys = MemoryResults(600), MemoryIdempotency()
    gc.collect()
    tracemalloc.start()
    for number in range(1000):
        await store.put("client", str(number), bytes(size))
    results, _ = tracemalloc.get_traced_memory()
    for number in range(1000):
        await keys.begin("client", str(number), f"{number:064}")
        await keys.finish("client", str(number), bytes(size))
    both, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.4 * 1000 * (2 * OVERHEAD + size) < results <= 1000 * (2 * OVERHEAD + size)  # it is known, too
    assert 0.4 * 1000 * (OVERHEAD + 64 + size) < both - results <= 1000 * (OVERHEAD + 64 + size)


async def test_without_redis_the_stores_are_in_memory() -> None:
    """Nothing to set up on one process, and nothing left to close."""
    stores = open_stores(load(redis_url=None))
    assert isinstance(stores.idempotency, MemoryIdempotency)
    assert isinstance(stores.results, MemoryResults)
    await stores.close()
