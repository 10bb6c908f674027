"""The stores of one process, bounded by bytes; `agents.bridge.stores` says what to rely on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from cachetools import TTLCache

from agents.bridge.stores.protocols import (
    DAY,
    Begun,
    Done,
    Found,
    Gone,
    Looked,
    Mismatch,
    Pending,
    Running,
    Unknown,
    name_of,
)
from agents.bridge.stores.waiting import Bells

log = structlog.get_logger(__name__)

#: Bytes of what is kept, of each store, and of the ids whose results are gone.
MAX_BYTES = 64 * 1024 * 1024
MAX_KNOWN_BYTES = 16 * 1024 * 1024
#: Bytes an entry takes besides its content: its name, its objects, its rows in three tables.
OVERHEAD = 550

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Entry:
    fingerprint: str
    answer: bytes | None = None


class MemoryIdempotency:
    """Keys of one process. They need no lease: they end with whoever holds them."""

    def __init__(self, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: TTLCache[str, _Entry] = TTLCache(max_bytes, DAY, clock, _entry_bytes)

    async def begin(self, scope: str, key: str, fingerprint: str) -> Begun | Running | Done | Mismatch:
        name = name_of(scope, key)
        entry = self._entries.get(name)
        if entry is None:
            self._entries[name] = _Entry(fingerprint)
            return Begun()
        if entry.fingerprint != fingerprint:
            return Mismatch()
        return Running() if entry.answer is None else Done(entry.answer)

    async def finish(self, scope: str, key: str, answer: bytes) -> None:
        name = name_of(scope, key)
        if (entry := self._entries.get(name)) is not None and entry.answer is None:
            _keep(self._entries, name, _Entry(entry.fingerprint, answer))

    async def abandon(self, scope: str, key: str) -> None:
        name = name_of(scope, key)
        if (entry := self._entries.get(name)) is not None and entry.answer is None:
            del self._entries[name]


class MemoryResults:
    """Results of one process."""

    def __init__(
        self,
        seconds: float,
        max_bytes: int = MAX_BYTES,
        max_known_bytes: int = MAX_KNOWN_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds`: how long a result is kept, and how long one is waited for."""
        self._results: TTLCache[str, bytes | None] = TTLCache(max_bytes, seconds, clock, _result_bytes)
        # What was ever expected: it outlives the results, so that Gone and Unknown can be told apart.
        self._known: TTLCache[str, None] = TTLCache(max_known_bytes // OVERHEAD, seconds + DAY, clock)
        self._bells = Bells()

    async def expect(self, client: str, *ids: str) -> None:
        for id in ids:
            self._set(name_of(client, id), None)

    async def put(self, client: str, id: str, result: bytes) -> None:
        name = name_of(client, id)
        self._set(name, result)
        self._bells.ring(name)

    async def get(self, client: str, id: str) -> Looked:
        return self._look(name_of(client, id))

    async def wait(self, client: str, id: str, timeout: float) -> Looked:
        name = name_of(client, id)

        async def look() -> Looked:
            return self._look(name)

        return await self._bells.wait(name, look, timeout)

    async def close(self) -> None:
        """Nothing runs in the background."""

    def _set(self, name: str, result: bytes | None) -> None:
        self._known[name] = None
        _keep(self._results, name, result)

    def _look(self, name: str) -> Looked:
        if name in self._results:
            result = self._results[name]
            return Pending() if result is None else Found(result)
        return Gone() if name in self._known else Unknown()


def _entry_bytes(entry: _Entry) -> int:
    return OVERHEAD + len(entry.fingerprint) + len(entry.answer or b"")


def _result_bytes(result: bytes | None) -> int:
    return OVERHEAD + len(result or b"")


def _keep(kept: TTLCache[str, _Value], name: str, value: _Value) -> None:
    """Keeps a value; one that all the room together does not hold is forgotten at once."""
    try:
        kept[name] = value
    except ValueError:
        kept.pop(name, None)
        log.warning("too-large-to-keep", limit=kept.maxsize)
