"""The population stability index, and what it is computed of."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy

from streams.scoring.drift import UNSEEN, Reference, Sample, count, directions, histogram, psi

RANDOM = np.random.default_rng(7)


def sample(values: Any, vectors: Any = None, labels: tuple[str, ...] = ("a", "b")) -> Sample:
    found = np.asarray(values, np.float64)
    rows = len(found)
    some = np.zeros((rows, 4), np.float32) if vectors is None else np.asarray(vectors, np.float32)
    return Sample(found, labels, np.full(rows, 5), np.zeros(rows, np.bool_), some)


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_an_independent_computation(seed: int) -> None:
    """It is both Kullback-Leibler divergences together, as SciPy has them."""
    random = np.random.default_rng(seed)
    before, now = random.integers(0, 500, 12), random.integers(0, 500, 12)
    p, q = before + UNSEEN, now + UNSEEN
    assert psi(before, now) == pytest.approx(entropy(p, q) + entropy(q, p), rel=1e-9)


def test_a_worked_example() -> None:
    """Halves that become a quarter and three quarters: 0.25 ln 3, which is 0.2747."""
    assert psi([50_000, 50_000], [25_000, 75_000]) == pytest.approx(0.2747, abs=1e-4)
    assert psi([10, 20], [10, 20]) == 0


def test_a_bin_that_nobody_saw_yet_is_rare_and_not_impossible() -> None:
    """Neither side's empty bin makes the index infinite; a full one that was empty makes it large."""
    assert 0.25 < psi([1000, 0], [900, 100]) < 10
    assert 0.25 < psi([900, 100], [1000, 0]) < 10
    assert psi([1000, 0], [1000, 0]) == 0


def test_what_lies_beyond_the_outer_edges_is_counted_in_the_outer_bins() -> None:
    """No value is lost, however far away."""
    bins = histogram(RANDOM.normal(size=1000))
    assert sum(bins.counts) == 1000
    assert max(bins.counts) - min(bins.counts) <= 2
    assert count(bins, [-1e9, 1e9]).tolist() == [1, *[0] * 8, 1]


def test_a_value_that_always_comes_has_a_bin_of_its_own() -> None:
    """So a constant that changes is seen, in both directions."""
    bins = histogram([3.0] * 50)
    assert [count(bins, [value]).tolist().index(1) for value in (2.999, 3.0, 3.001)] == [0, 1, 2]
    assert psi(bins.counts, count(bins, [3.0] * 50)) == 0
    assert psi(bins.counts, count(bins, [3.001] * 50)) > 1


def test_directions_are_for_ever_the_same() -> None:
    """A baseline of last year is projected as the vectors of today are."""
    along = directions(384)
    assert along.shape == (16, 384)
    assert np.linalg.norm(along, axis=1) == pytest.approx(np.ones(16), abs=1e-6)
    assert float(along.sum()) == pytest.approx(0.30811, abs=1e-4)


def test_a_reference_describes_its_sample() -> None:
    """Shares of the best labels, a histogram of each label's values, of the tokens, and of each projection."""
    reference = Reference.of(sample([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.eye(4)))
    baseline = reference.baseline
    assert baseline.shares == {"a": 0.75, "b": 0.25}
    assert [sum(bins.counts) for bins in (*baseline.scores.values(), *baseline.projections)] == [4] * 18
    assert baseline.tokens is not None
    assert baseline.truncated == 0
