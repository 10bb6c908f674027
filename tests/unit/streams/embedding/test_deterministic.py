"""The embedder without a model."""

import hashlib

import numpy as np
import pytest

from streams.testing import DeterministicEmbedder


def test_vectors_are_the_same_bits_everywhere() -> None:
    """A text's vector is pinned to the bit: fault runs on different machines can be compared."""
    embedder = DeterministicEmbedder()

    vector = embedder.embed(embedder.tokenise(["The same text, always."]))

    assert (
        hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()
        == "c883228343b10f8d9a623b12408797096df36002b9231b5611a79b96d6c0f40d"
    )


def test_a_token_is_a_word() -> None:
    """Token counts are word counts, so a test can say how long a text is."""
    assert [len(tokens) for tokens in DeterministicEmbedder().tokenise(["", "one", " two  words\n"])] == [0, 1, 2]


def test_poison_changes_only_its_own_row() -> None:
    """A poisoned word's text comes back as NaN, its neighbours are untouched."""
    embedder = DeterministicEmbedder(poison={"bad": lambda row: row * np.float32(np.nan)})
    texts = ["a good text", "a bad text", "another"]

    vectors = embedder.embed(embedder.tokenise(texts))

    assert np.isnan(vectors[1]).all()
    clean = DeterministicEmbedder()
    assert (vectors[[0, 2]] == clean.embed(clean.tokenise(texts))[[0, 2]]).all()


def test_poison_can_raise() -> None:
    """A poisoned word fails every batch it is in, and no other."""

    def explode(row: np.ndarray) -> np.ndarray:
        raise ValueError("poison")

    embedder = DeterministicEmbedder(poison={"bad": explode})

    embedder.embed(embedder.tokenise(["fine"]))
    with pytest.raises(ValueError, match="poison"):
        embedder.embed(embedder.tokenise(["fine", "a bad one"]))
