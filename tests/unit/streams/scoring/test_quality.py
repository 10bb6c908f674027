"""Windows of scores, and what is noticed in them."""

import numpy as np
import pytest

from streams.scoring.drift import Reference, Sample
from streams.scoring.quality import Band, Limits, Monitor, Report, broken

TOPICS = np.random.default_rng(3).normal(size=(4, 32)).astype(np.float32)
LIMITS = Limits(records=1000, seconds=60, least=300)


def drawn(random: np.random.Generator, rows: int, mix: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)) -> Sample:
    """Sentences of four topics: a vector near that of its topic, and two labels of a made-up scorer."""
    topics = random.choice(4, size=rows, p=mix)
    vectors = TOPICS[topics] + random.normal(size=(rows, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    likely = 1 / (1 + np.exp(-4 * vectors[:, 0].astype(np.float64)))
    return Sample(
        np.stack([likely, 1 - likely], axis=1),
        ("yes", "no"),
        random.integers(3, 30, rows),
        np.zeros(rows, np.bool_),
        vectors.astype(np.float32),
    )


def window(monitor: Monitor, sample: Sample, lost: int = 0, now: float = 1.0) -> Report:
    report = monitor.observe(sample, lost, now)
    assert report is not None
    return report


def test_a_topic_mix_that_shifts_is_seen_within_one_window() -> None:
    """PSI goes over 0.25, and the window is poor."""
    random = np.random.default_rng(1)
    monitor = Monitor(LIMITS, Reference.of(drawn(random, 5000)), 0)
    assert window(monitor, drawn(random, 1000)).band is Band.GOOD
    shifted = window(monitor, drawn(random, 1000, (0.0, 0.1, 0.1, 0.8)))
    assert max(shifted.psi.values()) > 0.25
    assert shifted.band is Band.POOR
    assert shifted.reason.startswith("drift: the PSI of ")
    assert window(monitor, drawn(random, 1000)).band is Band.GOOD


@pytest.mark.parametrize("recorded", [True, False])
def test_a_mix_that_stays_is_never_poor_in_a_thousand_windows(recorded: bool) -> None:
    """Against a baseline of its training, or against its own first window: not once even worth a look."""
    random = np.random.default_rng(2)
    monitor = Monitor(LIMITS, Reference.of(drawn(random, 5000)) if recorded else None, 0)
    pool = drawn(random, 100_000)
    bands = [window(monitor, pool.only(random.integers(0, 100_000, 1000))).band for _ in range(1000)]
    assert set(bands) == {Band.GOOD}


def test_windows_end_by_count_or_by_time() -> None:
    """By time only with enough records: of a few, the index says nothing."""
    random = np.random.default_rng(1)
    monitor = Monitor(LIMITS, Reference.of(drawn(random, 5000)), 0)
    assert monitor.observe(drawn(random, 999), 0, 1.0) is None
    assert window(monitor, drawn(random, 1), now=2.0).records == 1000
    assert monitor.observe(drawn(random, 299), 0, 62.0) is None
    assert window(monitor, drawn(random, 1), now=63.0).records == 300
    assert monitor.observe(drawn(random, 300), 0, 64.0) is None


def test_without_a_baseline_the_first_window_becomes_it() -> None:
    """A later window that differs is poor."""
    random = np.random.default_rng(1)
    monitor = Monitor(LIMITS, None, 0)
    assert window(monitor, drawn(random, 1000)).psi == {}
    assert monitor.reference is not None
    assert window(monitor, drawn(random, 1000)).band is Band.GOOD
    assert window(monitor, drawn(random, 1000, (0.0, 0.1, 0.1, 0.8))).band is Band.POOR


def test_a_scorer_that_says_the_same_of_everything_is_poor() -> None:
    """But for the noise of a sum; unless its baseline did, too."""
    random = np.random.default_rng(1)
    usual, stuck = drawn(random, 1000), drawn(random, 1000)
    stuck.values[:] = 0.5 + random.normal(scale=1e-8, size=stuck.values.shape)
    report = window(Monitor(LIMITS, Reference.of(usual), 0), stuck)
    assert (report.band, report.reason) == (Band.POOR, "constant: 1000 sentences had the same scores")
    assert window(Monitor(LIMITS, Reference.of(stuck), 0), stuck).band is Band.GOOD


def test_scores_that_are_none_are_found_with_their_reason() -> None:
    """Neither NaN nor infinity nor a probability beyond one gets by; bounds of infinity let all numbers by."""
    values = np.array([[0.5, 0.5], [np.nan, 0.5], [0, np.inf], [1.5, 0], [0, 1]])
    assert broken(values, (0, 1)) == {1: "not a number", 2: "not a number", 3: "out of range: expected 0 to 1"}
    assert broken(values, (-np.inf, np.inf)) == {1: "not a number", 2: "not a number"}


def test_a_window_says_what_was_in_it() -> None:
    """Shares of the labels, mean length, how many texts were cut, how many scores were none."""
    random = np.random.default_rng(1)
    sample = drawn(random, 600)
    sample.tokens[:] = 12
    sample.truncated[:150] = True
    report = window(Monitor(LIMITS, None, 0), sample, lost=400)
    assert (report.records, report.mean_tokens, report.truncated) == (1000, 12, 0.25)
    assert report.broken == pytest.approx(0.4)
    assert sum(report.shares.values()) == pytest.approx(1)
    assert report.shares["yes"] == pytest.approx((sample.values[:, 0] > 0.5).mean())


def test_longer_texts_alone_make_no_window_poor() -> None:
    """Their index is told."""
    random = np.random.default_rng(1)
    longer = drawn(random, 1000)
    longer.tokens[:] += 50
    report = window(Monitor(LIMITS, Reference.of(drawn(random, 5000)), 0), longer)
    assert report.psi["tokens"] > 0.25
    assert report.band is Band.GOOD


def test_vectors_that_were_shortened_are_not_compared_with_longer_ones() -> None:
    """Their scores are."""
    random = np.random.default_rng(1)
    sample = drawn(random, 1000)
    short = Sample(sample.values, sample.labels, sample.tokens, sample.truncated, sample.vectors[:, :16])
    assert set(window(Monitor(LIMITS, Reference.of(drawn(random, 5000)), 0), short).psi) == {
        "scores",
        "labels",
        "tokens",
    }
