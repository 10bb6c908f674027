"""The cache of vectors in this process, what is laid before it, and what is written behind it."""

import gc
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from cachetools import LRUCache
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from streams.cache import OVERHEAD, LayeredCache, MemoryCache, open_cache
from streams.cache.shared import RedisCache, _open, _seal
from streams.embedding.embedder import Vectors
from streams.observe.metrics import Metrics
from streams.settings import load
from tests.support.vectors import KEY, content, vector


class Shared(MemoryCache):
    """Stands for Redis: a cache that others fill, and that notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__(1_000_000, Metrics())
        self.asked: list[list[str]] = []
        self.closed = False

    def get_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        self.asked.append(list(keys))
        return super().get_many(keys)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def metrics() -> Metrics:
    """Figures of one test."""
    return Metrics()


def size(numbers: int) -> int:
    """Returns what one entry counts."""
    return len(np.zeros(numbers, np.float32).tobytes()) + OVERHEAD


# -- bytes ----------------------------------------------------------------------------------------------------


def test_memory_is_bounded_by_bytes_and_the_oldest_leave(metrics: Metrics) -> None:
    """Room for three: the fourth pushes out the one that nobody asked for since."""
    cache = MemoryCache(3 * size(8), metrics)
    keys = [content(number) for number in range(4)]
    cache.put_many({key: vector(8) for key in keys[:3]})
    cache.get_many(keys[:1])
    cache.put_many({keys[3]: vector(8)})
    assert [found is not None for found in cache.get_many(keys)] == [True, False, True, True]
    assert metrics.registry.get_sample_value("streams_cache_bytes") == 3 * size(8)


def test_a_vector_that_has_no_room_is_left_out(metrics: Metrics) -> None:
    """It pushes nobody out, and its neighbours are kept."""
    cache = MemoryCache(2 * size(8), metrics)
    small, large = content(1), content(2)
    cache.put_many({small: vector(8), large: vector(1000)})
    assert [found is not None for found in cache.get_many([small, large])] == [True, False]


@pytest.mark.parametrize("numbers", [8, 384])
def test_what_an_entry_counts_is_what_it_takes(numbers: int) -> None:
    """Measured: never more than is counted, so that the bound holds, and not much less."""
    cache = MemoryCache(1_000_000_000, Metrics())
    gc.collect()
    tracemalloc.start()
    for start in range(0, 1_000, 100):
        cache.put_many({content(number): vector(numbers) for number in range(start, start + 100)})
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = 1_000 * size(numbers)
    assert 0.5 * counted < taken <= counted


def test_a_kept_row_does_not_keep_its_batch(metrics: Metrics) -> None:
    """What is kept is a copy: changing the batch changes nothing, and nobody can change what is kept."""
    batch = np.stack([vector(8), vector(8, seed=1)])
    cache = MemoryCache(1_000_000, metrics)
    cache.put_many({KEY: batch[0]})
    batch[:] = 0
    (found,) = cache.get_many([KEY])
    assert found is not None
    assert np.array_equal(found, vector(8))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


class Crowded(LRUCache[str, bytes]):
    """Notes whether two were in it at once, and gives them time for it: it is not made for threads."""

    inside = 0
    crowded = False

    @contextmanager
    def _enter(self) -> Iterator[None]:
        self.inside += 1
        time.sleep(0.001)
        self.crowded |= self.inside > 1
        yield
        self.inside -= 1

    def get(self, key: str, default: Any = None) -> Any:
        with self._enter():
            return super().get(key, default)

    def update(self, values: Any) -> None:  # type: ignore[override]
        with self._enter():
            super().update(values)


def test_many_threads_may_use_it_at_once(metrics: Metrics) -> None:
    """One at a time gets at what is kept, whether it looks or adds."""
    cache = MemoryCache(1_000_000, metrics)
    cache._values = kept = Crowded(1_000_000, len)

    def work(seed: int) -> None:
        for number in range(10):
            cache.put_many({content(seed * number): vector(4)})
            cache.get_many([content(number)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 7, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not kept.crowded
    assert len(kept) > 0


# -- layers ---------------------------------------------------------------------------------------------------


def layered(metrics: Metrics) -> tuple[LayeredCache, Shared]:
    shared = Shared()
    return LayeredCache(MemoryCache(1_000_000, metrics), shared), shared


def test_only_what_memory_lacks_is_asked_of_redis_and_once(metrics: Metrics) -> None:
    """A key twice in the question is asked for once, answered twice, and found in memory from then on."""
    cache, shared = layered(metrics)
    near, far, nowhere = content(1), content(2), content(3)
    cache.remember({near: vector(4)})
    shared.put_many({far: vector(4, seed=1)})
    found = cache.get_many([near, far, nowhere, far])
    assert [None if each is None else each.tobytes() for each in found] == [
        vector(4).tobytes(),
        vector(4, seed=1).tobytes(),
        None,
        vector(4, seed=1).tobytes(),
    ]
    cache.get_many([near, far])
    assert shared.asked == [[far, nowhere]]


async def test_an_event_loop_gets_from_memory_without_asking_anybody(metrics: Metrics) -> None:
    """The far layer is not even called where memory has everything."""
    cache, shared = layered(metrics)
    shared.put_many({content(1): vector(4)})
    for _ in range(3):
        (found,) = await cache.find_many([content(1)])
        assert found is not None
    assert shared.asked == [[content(1)]]


def test_what_a_worker_sent_is_remembered_here_only(metrics: Metrics) -> None:
    """The worker has shared it already; what is put is shared."""
    cache, shared = layered(metrics)
    cache.remember({content(1): vector(4)})
    cache.put_many({content(2): vector(4)})
    assert [found is not None for found in shared.get_many([content(1), content(2)])] == [False, True]


def test_closing_ends_the_shared_layer(metrics: Metrics) -> None:
    """Its connections are the only thing there is to end."""
    cache, shared = layered(metrics)
    cache.close()
    assert shared.closed


# -- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "form"),
    [
        ({"cache_bytes": 0}, type(None)),
        ({"cache_bytes": 10_000}, MemoryCache),
        ({"cache_bytes": 0, "redis_url": SecretStr("redis://127.0.0.1:1")}, RedisCache),
        ({"cache_bytes": 10_000, "redis_url": SecretStr("redis://127.0.0.1:1")}, LayeredCache),
    ],
)
def test_the_settings_say_which_cache_there_is(overrides: Mapping[str, object], form: type, metrics: Metrics) -> None:
    """None, either, or both; nothing is connected to before it is used."""
    cache = open_cache(load(**overrides), metrics)
    assert type(cache) is form
    if cache is not None:
        cache.close()


# -- the values in Redis --------------------------------------------------------------------------------------


@given(key=st.text(max_size=80), numbers=st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_what_is_sealed_opens_again(key: str, numbers: list[float]) -> None:
    """Byte for byte, whatever the numbers."""
    written = np.array(numbers, "<f4").tobytes()
    found = _open(key, _seal(key, written))
    assert found is not None
    assert found.tobytes() == written


@given(value=st.binary(max_size=200))
def test_foreign_values_do_not_open(value: bytes) -> None:
    """Bytes that somebody else wrote are no vector, whatever their length."""
    assert _open(KEY, value) is None


@given(data=st.data(), numbers=st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_a_damaged_value_does_not_open(data: st.DataObject, numbers: list[float]) -> None:
    """A changed bit, a cut end, added bytes, the key of another text."""
    sealed = _seal(KEY, np.array(numbers, "<f4").tobytes())
    place, bit = data.draw(st.integers(0, len(sealed) - 1)), data.draw(st.integers(0, 7))
    flipped = sealed[:place] + bytes([sealed[place] ^ 1 << bit]) + sealed[place + 1 :]
    assert _open(KEY, flipped) is None
    assert _open(KEY, sealed[:place]) is None
    assert _open(KEY, sealed + bytes(4)) is None
    assert _open(content(9), sealed) is None
