"""How far what comes now is from what a scorer was made with: the population stability index (PSI).

PSI is the sum over bins of (actual - expected) * ln(actual / expected), of the shares of two samples: the symmetric
Kullback-Leibler divergence. By a rule of thumb of credit scoring (Siddiqi, Credit Risk Scorecards, 2006), below 0.1
nothing has changed, and from 0.25 on it is another population.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streams.embedding.embedder import Vectors
from streams.models.manifest import Baseline, Histogram

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

BINS = 10
#: Directions that vectors are projected on: enough that a shift of their mean shows in one of them.
PROJECTIONS = 16
#: Added to every count, so that a bin nobody saw yet is rare instead of impossible (Jeffreys' prior).
UNSEEN = 0.5
_SEED = 20_261_129


def psi(expected: ArrayLike, actual: ArrayLike) -> float:
    """The index of two samples, given how many of each fell in every bin, shape (bins,) each."""
    before, now = _shares(expected), _shares(actual)
    return float(((now - before) * np.log(now / before)).sum())


def _shares(counts: ArrayLike) -> Values:
    smooth = np.asarray(counts, dtype=np.float64) + UNSEEN
    return np.asarray(smooth / smooth.sum())


def directions(dimensions: int) -> Vectors:
    """Unit vectors to project on, shape (PROJECTIONS, dimensions): random, and for ever the same."""
    drawn = np.random.Generator(np.random.PCG64(_SEED)).standard_normal((PROJECTIONS, dimensions))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)


def histogram(values: ArrayLike, bins: int = BINS) -> Histogram:
    """About as many of these finite values in each bin; one that is a whole bin's share gets a bin of its own."""
    found = np.asarray(values, dtype=np.float64)
    inner = np.unique(np.quantile(found, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    if len(inner) < bins - 1:  # some value comes again and again: what lies beyond it is something new
        inner = np.unique(np.concatenate([inner, np.nextafter(inner, np.inf)]))
    edges = tuple(inner.tolist())
    return Histogram(edges=edges, counts=tuple(_counted(edges, found).tolist()))


def count(bins: Histogram, values: ArrayLike) -> Counts:
    """How many of these fall in each bin."""
    return _counted(bins.edges, np.asarray(values, dtype=np.float64))


def _counted(edges: Sequence[float], values: Values) -> Counts:
    return np.bincount(np.searchsorted(np.asarray(edges), values, side="right"), minlength=len(edges) + 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is looked at of n scores."""

    #: Every label's value, shape (n, labels), in the order of `labels`.
    values: Values
    labels: tuple[str, ...]
    #: Tokens of each text, and whether it was cut.
    tokens: Counts
    truncated: NDArray[np.bool_]
    #: Shape (n, dimensions).
    vectors: Vectors

    def __len__(self) -> int:
        return len(self.values)

    def only(self, rows: NDArray[np.bool_] | Counts) -> "Sample":
        """Some of the rows: a mask, or their numbers."""
        return Sample(self.values[rows], self.labels, self.tokens[rows], self.truncated[rows], self.vectors[rows])

    def winners(self) -> Counts:
        """How many rows each label is the best of."""
        return np.bincount(self.values.argmax(axis=1), minlength=len(self.labels))

    @classmethod
    def together(cls, samples: Sequence["Sample"]) -> "Sample":
        """All rows of samples that have the same labels, and vectors of one size."""
        return cls(
            np.concatenate([sample.values for sample in samples]),
            samples[0].labels,
            np.concatenate([sample.tokens for sample in samples]),
            np.concatenate([sample.truncated for sample in samples]),
            np.concatenate([sample.vectors for sample in samples]),
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """What a scorer's input and output looked like when it was good."""

    baseline: Baseline
    #: What the baseline's vectors were projected on, shape (k, dimensions).
    directions: Vectors

    @classmethod
    def of(cls, sample: Sample) -> "Reference":
        """That of a sample of at least one row."""
        along = directions(sample.vectors.shape[1])
        shares = sample.winners() / len(sample)
        baseline = Baseline(
            scores={label: histogram(column) for label, column in zip(sample.labels, sample.values.T, strict=True)},
            projections=tuple(histogram(column) for column in along @ sample.vectors.T),
            shares=dict(zip(sample.labels, shares.tolist(), strict=True)),
            tokens=histogram(sample.tokens),
            truncated=float(sample.truncated.mean()),
        )
        return cls(baseline, along)
