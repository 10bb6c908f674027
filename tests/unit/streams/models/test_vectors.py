"""Vectors of a data set: in order, and what was embedded before is not embedded again."""

from collections.abc import Sequence

import numpy as np
import pytest

from schemas.errors import EmbeddingFailed
from streams.cache import MemoryCache
from streams.embedding.embedder import Tokens, Vectors
from streams.models.vectors import CHUNK, NoNotes, Stopped, Vectoriser
from streams.observe.metrics import Metrics
from streams.testing import DeterministicEmbedder

#: Three chunks, the last one not full.
TEXTS = [f"sentence {n} {'word ' * (n % 7)}" for n in range(2 * CHUNK + 10)]


class Counting(DeterministicEmbedder):
    """Counts the texts it embeds, in small batches."""

    token_budget = 64

    def __init__(self, **poison: object) -> None:
        super().__init__(poison)  # type: ignore[arg-type]
        self.embedded = 0

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        assert len(batch) == 1 or len(batch) * max(map(len, batch)) <= self.token_budget
        self.embedded += len(batch)
        return super().embed(batch)


class Kept(dict[str, bytes]):
    """Notes in a dictionary."""

    def load(self, name: str) -> bytes | None:
        return self.get(name)

    def save(self, name: str, content: bytes) -> None:
        self[name] = content


def direct(texts: Sequence[str]) -> Vectors:
    embedder = DeterministicEmbedder()
    return embedder.embed(embedder.tokenise(texts))


def test_vectors_come_in_the_order_of_the_texts() -> None:
    """However they were sorted on the way, with their lengths and how many were cut."""
    texts = [*TEXTS, "long " * 300]
    told: list[int] = []
    found = Vectoriser(Counting(), None, NoNotes())(texts[-20:], told.append)
    assert np.array_equal(found.vectors[:-1], direct(texts[-20:-1]))
    assert found.tokens.tolist() == [*(len(text.split()) for text in texts[-20:-1]), 256]
    assert found.truncated == 1 / 20
    assert told == [20]


def test_a_run_goes_on_where_another_was_stopped() -> None:
    """Whole chunks are kept; only the others are embedded."""
    notes, first, second = Kept(), Counting(), Counting()
    done: list[int] = []
    with pytest.raises(Stopped):
        Vectoriser(first, None, notes)(TEXTS, done.append, lambda: len(done) == 2)
    found = Vectoriser(second, None, notes)(TEXTS)
    assert (first.embedded, second.embedded) == (2 * CHUNK, 10)
    assert np.array_equal(found.vectors, direct(TEXTS))


@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_what_was_kept_badly_is_embedded_again(damage: bytes) -> None:
    """A note that cannot be read is no note."""
    notes, again = Kept(), Counting()
    Vectoriser(Counting(), None, notes)(TEXTS[:5])
    notes.update(dict.fromkeys(notes, damage))
    assert np.array_equal(Vectoriser(again, None, notes)(TEXTS[:5]).vectors, direct(TEXTS[:5]))
    assert again.embedded == 5


def test_what_workers_embedded_is_not_embedded_again() -> None:
    """The cache is theirs; what was missing there is there afterwards."""
    cache, first, second = MemoryCache(10**7, Metrics()), Counting(), Counting()
    Vectoriser(first, cache, NoNotes())(TEXTS[:30])
    found = Vectoriser(second, cache, NoNotes())(TEXTS[:40])
    assert (first.embedded, second.embedded) == (30, 10)
    assert np.array_equal(found.vectors, direct(TEXTS[:40]))


def test_a_vector_that_is_no_vector_ends_the_run() -> None:
    """Nothing is learned from it, and nothing is kept of it."""
    notes = Kept()
    broken = Counting(bad=lambda row: np.full_like(row, np.nan))
    with pytest.raises(EmbeddingFailed):
        Vectoriser(broken, None, notes)(["good", "bad"])
    assert notes == {}
