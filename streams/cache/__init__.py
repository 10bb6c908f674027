"""Vectors that were embedded before: in this process, in Redis, or in the one before the other.

A key is a `content_key`: it names all that decides a vector, so another model or setting asks for another key and
never meets an old vector. A value is the whole float32 vector. Three forms of one protocol:

- `MemoryCache`, bounded by bytes: an entry counts its numbers and `OVERHEAD` for its key and book-keeping;
- `RedisCache`, shared by all processes: an entry leaves after a set time, or when Redis needs its room;
- `LayeredCache`, which looks in memory first and keeps there what it found in Redis.

A worker calls the blocking methods from its threads. An event loop awaits `find_many`, which answers from memory
without a change of thread, and calls `remember` with the vectors that workers send it.

What to rely on, and what not:

- No method raises because Redis is away, and none gives a vector of another key: a value in Redis carries a
  checksum over its key and its bytes, and where that does not fit, it is a miss. This finds damage and mix-ups, not
  malice: whoever may write to the Redis decides what it answers, so give it a password.
- A Redis that is dead, slow or frozen costs a caller `shared.PATIENCE` seconds at most, name lookup and connecting
  included; after a few failures in a row nobody asks for `shared.REST` seconds. A full one still answers.
- One Redis, or a proxy that looks like one. Redis Cluster is not supported: one question names many keys.
- Vectors that come out of a cache are read-only.
"""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Protocol

import numpy as np
from cachetools import LRUCache

from streams.embedding.embedder import Vectors
from streams.observe.metrics import Metrics
from streams.settings import Settings

#: Bytes an entry takes in memory besides its numbers: its key of 64 characters, its object, its rows in three tables.
OVERHEAD = 420


class VectorCache(Protocol):
    """Vectors by content key, for any number of threads. No method raises because a store is away."""

    def get_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        """Returns the vector of each key in order, None where there is none; may block."""

    async def find_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        """Returns the same to an event loop, which it does not block."""

    def put_many(self, vectors: Mapping[str, Vectors]) -> None:
        """Keeps vectors for all who share the cache; may block."""

    def remember(self, vectors: Mapping[str, Vectors]) -> None:
        """Keeps vectors in this process only, without blocking: whoever embedded them has shared them."""

    def close(self) -> None:
        """Ends connections and threads; no other method may be called afterwards."""


def open_cache(settings: Settings, metrics: Metrics) -> VectorCache | None:
    """Returns the cache that the settings ask for, if any; it connects when it is first used."""
    memory = MemoryCache(settings.cache_bytes, metrics) if settings.cache_bytes else None
    if settings.redis_url is None:
        return memory
    from streams.cache.shared import RedisCache  # here, for redis takes longer to import than a model to load

    shared = RedisCache(settings.redis_url, settings.cache_seconds, metrics)
    return LayeredCache(memory, shared) if memory else shared


class MemoryCache:
    """Vectors in this process; the least recently used leave first."""

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._values: LRUCache[str, bytes] = LRUCache(max_bytes, getsizeof=lambda value: len(value) + OVERHEAD)
        self._lock = Lock()
        self._metrics = metrics

    def get_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        with self._lock:
            values = [self._values.get(key) for key in keys]
        hits = sum(value is not None for value in values)
        self._metrics.cache_lookups.labels("memory", "hit").inc(hits)
        self._metrics.cache_lookups.labels("memory", "miss").inc(len(values) - hits)
        return [None if value is None else np.frombuffer(value, np.float32) for value in values]

    async def find_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        return self.get_many(keys)

    def put_many(self, vectors: Mapping[str, Vectors]) -> None:
        room = self._values.maxsize - OVERHEAD
        # Copies: a row that is kept must not keep its whole batch, and nobody may change what is kept.
        values = {key: np.asarray(vector, np.float32).tobytes() for key, vector in vectors.items()}
        with self._lock:
            self._values.update({key: value for key, value in values.items() if len(value) <= room})
            self._metrics.cache_bytes.set(self._values.currsize)

    def remember(self, vectors: Mapping[str, Vectors]) -> None:
        self.put_many(vectors)

    def close(self) -> None:
        """There is nothing to end."""


class LayeredCache:
    """Memory before a cache that is shared."""

    def __init__(self, memory: MemoryCache, shared: VectorCache) -> None:
        self._memory = memory
        self._shared = shared

    def get_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        near = self._memory.get_many(keys)
        missing = _missing(keys, near)
        return self._filled(keys, near, missing, self._shared.get_many(missing)) if missing else near

    async def find_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        near = self._memory.get_many(keys)
        missing = _missing(keys, near)
        return self._filled(keys, near, missing, await self._shared.find_many(missing)) if missing else near

    def put_many(self, vectors: Mapping[str, Vectors]) -> None:
        self._memory.put_many(vectors)
        self._shared.put_many(vectors)

    def remember(self, vectors: Mapping[str, Vectors]) -> None:
        self._memory.put_many(vectors)

    def close(self) -> None:
        self._shared.close()

    def _filled(
        self, keys: Sequence[str], near: list[Vectors | None], missing: list[str], far: list[Vectors | None]
    ) -> list[Vectors | None]:
        found = {key: vector for key, vector in zip(missing, far, strict=True) if vector is not None}
        self._memory.put_many(found)
        return [found.get(key) if vector is None else vector for key, vector in zip(keys, near, strict=True)]


def _missing(keys: Sequence[str], near: list[Vectors | None]) -> list[str]:
    return list(dict.fromkeys(key for key, vector in zip(keys, near, strict=True) if vector is None))
