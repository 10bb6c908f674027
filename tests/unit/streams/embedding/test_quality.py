"""The quality gate."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from streams.embedding import quality
from streams.embedding.embedder import Tokens, Vectors
from streams.embedding.quality import Quality, QualityTooLow
from streams.testing import DeterministicEmbedder

TEXTS = [f"sentence number {number}" for number in range(40)]
GOOD = Quality(sentences=100, mean_cosine=0.995, min_cosine=0.9, spearman=0.995, neighbours=0.9999)


class Changed(DeterministicEmbedder):
    """Does something to the rows of each batch."""

    def __init__(self, change: Callable[[Vectors], Vectors]) -> None:
        super().__init__()
        self.change = change

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        rows = self.change(super().embed(batch))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def noisy(rows: Vectors) -> Vectors:
    """The same noise for a row wherever it stands, since it follows from the row."""
    return rows + 0.02 * np.sin(rows * 1e4).astype(np.float32)


def neighbourly(rows: Vectors) -> Vectors:
    return rows + 0.2 * rows.mean(axis=0)


def measured(change: Callable[[Vectors], Vectors]) -> Quality:
    exact = quality.alone(DeterministicEmbedder(), TEXTS)
    return quality.measure(Changed(change), TEXTS, exact)


def test_equal_vectors_are_perfect() -> None:
    """The same model compared with itself: every figure is 1, up to rounding."""
    found = measured(lambda rows: rows)

    assert found.sentences == len(TEXTS)
    figures = (found.mean_cosine, found.min_cosine, found.spearman, found.neighbours)
    assert figures == pytest.approx((1, 1, 1, 1), abs=1e-6)
    found.check()


def test_noise_lowers_cosine_and_ranks_but_not_independence() -> None:
    """Vectors that are off by a little in all directions are told from those that depend on their batch."""
    found = measured(noisy)

    assert found.min_cosine <= found.mean_cosine < 0.99
    assert 0 < found.spearman < 0.995
    assert found.neighbours == pytest.approx(1, abs=1e-5)


def test_dependence_on_the_batch_is_seen() -> None:
    """A vector that leans towards its neighbours is another one alone than in a batch."""
    assert measured(neighbourly).neighbours < 0.99995


def test_ranks_are_of_similarities() -> None:
    """Spearman's correlation sees the order of similar pairs: reversed, it is -1."""
    exact = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)  # pairs: 0.8, 0.6, 0.96
    turned = np.array([[0.8, 0.6], [0.6, 0.8], [1, 0]], np.float32)  # pairs: 0.96, 0.8, 0.6

    ranks = [quality._ranks((rows @ rows.T)[np.triu_indices(3, 1)]) for rows in (exact, turned)]

    assert float(ranks[0] @ ranks[0]) == pytest.approx(1)
    assert float(ranks[0] @ ranks[1]) == pytest.approx(-0.5)  # 2,1,3 against 3,2,1: 1 - 6 * 6 / 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean_cosine": 0.9949}, "mean cosine 0.99490"),
        ({"spearman": 0.9949}, "rank correlation 0.99490"),
        ({"spearman": float("nan")}, "rank correlation nan"),
        ({"neighbours": 0.9998}, "alone and in a batch"),
    ],
    ids=["cosine", "ranks", "not a number", "neighbours"],
)
def test_the_gate_says_which_figure_is_too_low(change: dict[str, float], message: str) -> None:
    """Each figure has its least value, and one just below it is refused with a message that names it."""
    figures = {name: getattr(GOOD, name) for name in Quality.__slots__}
    GOOD.check()

    with pytest.raises(QualityTooLow, match=message):
        Quality(**{**figures, **change}).check()
