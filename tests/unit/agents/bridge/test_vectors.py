"""What is known of vectors: with their tokens, in this process and for those who share the cache."""

import asyncio
from typing import Any

import numpy as np
import pytest

from agents.bridge.app import Bridge
from agents.bridge.vectors import KnownVectors, Vector, _row, _vector
from streams.cache import MemoryCache
from streams.embedding.embedder import Vectors
from streams.observe.metrics import Metrics
from tests.support.bridge import client, looped_back


class Shared(MemoryCache):
    """A cache whose store is elsewhere: putting is slow, and remembering does not reach it."""

    def __init__(self) -> None:
        super().__init__(1_000_000, Metrics())
        self.put: list[set[str]] = []
        self.closed = False

    def put_many(self, vectors: Any) -> None:
        self.put.append(set(vectors))
        super().put_many(vectors)

    def remember(self, vectors: Any) -> None:
        """Keeps nothing."""

    def close(self) -> None:
        self.closed = True


@pytest.fixture
async def shared() -> Any:
    """A bridge on such a cache, and the cache."""
    async with looped_back() as (bridge, _):
        cache = Shared()
        bridge.known = KnownVectors(cache, shared=True)
        yield bridge, cache


async def test_what_is_learnt_is_shared_in_the_background(shared: tuple[Bridge, Shared]) -> None:
    """Once the answer is given; a caller of another replica finds vector, tokens and all."""
    bridge, cache = shared
    async with client(bridge) as http:
        first = await http.post("/v1/embeddings", json={"input": ["One two.", "long " * 300]})
        await bridge.known.close()
        assert cache.closed
        bridge.known = KnownVectors(cache, shared=True)
        again = await http.post("/v1/embeddings", json={"input": ["One two.", "long " * 300]})
    assert again.content == first.content
    assert len(cache.put) == 1, "what is known already is not put again"


async def test_what_comes_while_sharing_is_shared_next(shared: tuple[Bridge, Shared]) -> None:
    """One thread at a time puts; nothing is lost."""
    bridge, cache = shared
    async with client(bridge) as http:
        await asyncio.gather(*(http.post("/v1/embeddings", json={"input": f"text {n}"}) for n in range(20)))
        await bridge.known.close()
    assert len(set().union(*cache.put)) == 20


@pytest.mark.parametrize("tokens", [1, 8192, 131_073, 16_777_215])
def test_a_row_holds_counts_exactly(tokens: int) -> None:
    """float32 is exact for more tokens than any model reads."""
    values: Vectors = np.arange(4, dtype=np.float32)
    found = _vector(_row(Vector(values, tokens, True)))
    np.testing.assert_array_equal(found.values, values)
    assert (found.tokens, found.truncated) == (tokens, True)
