"""Nearest centroid, worked out by hand on small vectors."""

from collections.abc import Sequence

import numpy as np
import pytest

from schemas.errors import ScoringFailed
from streams.embedding.embedder import Identity, Tokens, Vectors
from streams.scoring.scorer import require_model
from streams.scoring.similarity import SimilarityScorer

EAST, NORTH, UP = np.eye(3, dtype=np.float32)


class Compass:
    """Embedder of three dimensions that knows three words and their mixtures."""

    identity = Identity("compass", "1", "digest-1", "float32", "", "mean", 3, 8)
    concurrency = 1

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens(tuple(("east", "north", "up").index(word) for word in text.split())) for text in texts]

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        rows = np.stack([np.eye(3, dtype=np.float32)[list(tokens.ids)].sum(axis=0) for tokens in batch])
        vectors: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return vectors


LABELS = {"flat": ["east", "north"], "high": ["up"]}


@pytest.fixture
def scorer() -> SimilarityScorer:
    """Two labels: `flat` between east and north, (0.707, 0.707, 0); `high` straight up."""
    return SimilarityScorer("similarity", LABELS, Compass())


def half_way(one: Vectors, other: Vectors) -> Vectors:
    return (one + other) / np.float32(np.sqrt(2))


@pytest.mark.parametrize(
    ("vector", "label", "flat", "high"),
    [
        (UP, "high", 0.0, 1.0),
        (EAST, "flat", np.sqrt(0.5), 0.0),
        (half_way(EAST, NORTH), "flat", 1.0, 0.0),
        (half_way(EAST, UP), "high", 0.5, np.sqrt(0.5)),
        (-UP, "flat", 0.0, -1.0),
    ],
)
def test_the_nearest_centroid_wins(
    scorer: SimilarityScorer, vector: Vectors, label: str, flat: float, high: float
) -> None:
    """A vector gets the label of the closest centroid, with every label's cosine beside it."""
    [verdict] = scorer.score(vector[None])

    assert verdict.label == label
    assert verdict.labels == pytest.approx({"flat": flat, "high": high}, abs=1e-6)
    assert verdict.score == verdict.labels[label]


def test_a_batch_keeps_its_order(scorer: SimilarityScorer) -> None:
    """Verdicts come in the order of the vectors, and none for none."""
    assert [verdict.label for verdict in scorer.score(np.stack([UP, EAST, UP]))] == ["high", "flat", "high"]
    assert scorer.score([]) == []


def test_shortened_vectors_meet_shortened_centroids(scorer: SimilarityScorer) -> None:
    """A vector of two dimensions is compared in two dimensions, where `flat` is still (0.707, 0.707)."""
    scorer = SimilarityScorer("similarity", {"flat": ["east", "north"], "steep": ["up east"]}, Compass())

    [verdict] = scorer.score(np.array([[1.0, 0.0]], dtype=np.float32))

    assert verdict.labels == pytest.approx({"flat": np.sqrt(0.5), "steep": 1.0}, abs=1e-6)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 4), dtype=np.float32), r"expected at most 3 dimensions, got vectors of shape \(2, 4\)"),
        (np.ones((2, 0), dtype=np.float32), "expected at most 3 dimensions"),
        (np.ones(3, dtype=np.float32), "expected at most 3 dimensions"),
        (np.array([[np.nan, 0, 0]], dtype=np.float32), "not numbers"),
        (np.array([[np.inf, 0, 0]], dtype=np.float32), "not numbers"),
    ],
    ids=["too long", "empty", "one vector", "nan", "infinite"],
)
def test_vectors_that_cannot_be_scored_are_rejected(scorer: SimilarityScorer, vectors: Vectors, message: str) -> None:
    """Vectors of another size, or not finite, are a reject with the reason `scoring-failed`."""
    with pytest.raises(ScoringFailed, match=message):
        scorer.score(vectors)


def test_vectors_of_another_model_are_rejected(scorer: SimilarityScorer) -> None:
    """A scorer knows whose vectors it understands; others are a reject that names both."""
    require_model(scorer, "digest-1")
    with pytest.raises(ScoringFailed, match="with weights digest-1, this one is of digest-2"):
        require_model(scorer, "digest-2")


def test_the_version_follows_labels_and_model() -> None:
    """Equal labels and model give equal versions; a changed example or model gives another."""

    class Later(Compass):
        identity = Identity("compass", "2", "digest-2", "float32", "", "mean", 3, 8)

    def version(labels: dict[str, list[str]], embedder: Compass) -> str:
        return SimilarityScorer("similarity", labels, embedder).version

    first = version(LABELS, Compass())
    assert first == version({label: list(examples) for label, examples in LABELS.items()}, Compass())
    assert len({first, version({**LABELS, "high": ["up up"]}, Compass()), version(LABELS, Later())}) == 3
    assert len(first) == 12
