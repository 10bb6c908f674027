"""The quality gate: what a cheaper way to compute vectors may change of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.embedding.embedder import Embedder, ModelError, Vectors

#: Least mean cosine and rank correlation against float32.
LEAST = 0.995
#: Least cosine between a sentence's vectors alone and in a batch.
SAME = 0.9999
_ROWS = 16
_ALONE = 100


class QualityTooLow(ModelError):
    """The vectors are too far from those of the model in float32."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How close vectors are to the exact ones of the same sentences."""

    sentences: int
    mean_cosine: float
    min_cosine: float
    #: Spearman's rank correlation of the similarities of all pairs: whether a search finds things in the same order.
    spearman: float
    #: Least cosine between a sentence's vectors alone and in a batch of mixed lengths.
    neighbours: float

    def check(self) -> None:
        """Raises QualityTooLow where the gate is not passed."""
        if not (self.mean_cosine >= LEAST and self.spearman >= LEAST):  # so written, NaN fails too
            raise QualityTooLow(
                f"mean cosine {self.mean_cosine:.5f} and rank correlation {self.spearman:.5f} against float32 "
                f"on {self.sentences} sentences, expected at least {LEAST} of each"
            )
        if not self.neighbours >= SAME:
            raise QualityTooLow(f"cosine {self.neighbours:.6f} between a sentence alone and in a batch, not {SAME}")


def alone(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Vectors of the texts, embedded one at a time; shape (texts, dimensions)."""
    return np.concatenate([embedder.embed([tokens]) for tokens in embedder.tokenise(texts)])


def _in_batches(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """The same, embedded in batches of mixed lengths."""
    tokens = embedder.tokenise(texts)
    return np.concatenate([embedder.embed(tokens[start : start + _ROWS]) for start in range(0, len(tokens), _ROWS)])


def measure(embedder: Embedder, texts: Sequence[str], exact: Vectors) -> Quality:
    """Embeds at least three texts and compares their vectors with the exact ones, shape (texts, dimensions)."""
    vectors = _in_batches(embedder, texts)
    single = alone(embedder, texts[:_ALONE])
    cosines = np.einsum("ij,ij->i", exact, vectors)
    pairs = np.triu_indices(len(exact), 1)
    ranks = [_ranks((rows @ rows.T)[pairs]) for rows in (exact, vectors)]
    return Quality(
        sentences=len(exact),
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        spearman=float(ranks[0] @ ranks[1]),
        neighbours=float(np.einsum("ij,ij->i", single, vectors[:_ALONE]).min()),
    )


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each value's place in ascending order, with mean 0 and length 1; next to no values are equal."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values)) - (len(values) - 1) / 2
    return np.asarray(ranks / np.linalg.norm(ranks))
