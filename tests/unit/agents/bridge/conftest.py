"""A bridge over a stream that needs no broker, and a client of it."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from agents.bridge.app import Bridge
from tests.support.bridge import Loopback, client, looped_back


@pytest.fixture
async def both() -> AsyncIterator[tuple[Bridge, Loopback]]:
    """A bridge and the stream behind it."""
    async with looped_back() as found:
        yield found


@pytest.fixture
def bridge(both: tuple[Bridge, Loopback]) -> Bridge:
    """The bridge."""
    return both[0]


@pytest.fixture
def stream(both: tuple[Bridge, Loopback]) -> Loopback:
    """The stream behind the bridge."""
    return both[1]


@pytest.fixture
async def http(bridge: Bridge) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the bridge."""
    async with client(bridge) as found:
        yield found
