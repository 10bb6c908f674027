"""Waiting for something that another task, or another process, will bring."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from agents.bridge.stores.protocols import Looked, Pending

#: Seconds after which a waiting caller looks again, should nobody have woken it.
LOOK_AGAIN = 5.0


class Bells:
    """Wakes those who wait, by name; any number may wait for one name, or for many."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def ring(self, name: str) -> None:
        """Has all who wait for the name look again."""
        for bell in self._waiting.get(name, ()):
            bell.set()

    async def wait(self, name: str, look: Callable[[], Awaitable[Looked]], timeout: float) -> Looked:
        """Looks until what it sees is not Pending, at each ring and now and then; returns the last it saw."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        with self._listening(name) as bell:
            while True:
                bell.clear()  # before the look: a ring during it is not lost
                looked = await look()
                left = end - loop.time()
                if left <= 0 or not isinstance(looked, Pending):
                    return looked
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LOOK_AGAIN)):
                        await bell.wait()

    @contextmanager
    def _listening(self, name: str) -> Iterator[asyncio.Event]:
        bell = asyncio.Event()
        bells = self._waiting.setdefault(name, set())
        bells.add(bell)
        try:
            yield bell
        finally:
            bells.discard(bell)
            if not bells:
                self._waiting.pop(name, None)
