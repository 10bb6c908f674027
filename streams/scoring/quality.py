"""Whether a scorer still makes sense: what it says is looked at in windows, and compared with what it was made with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from streams.scoring.drift import Counts, Reference, Sample, Values, count, psi

#: A batch of another size may sum in another order: float32 has about seven digits.
_NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class Limits:
    """What a window is, and when it is poor."""

    #: A window ends with so many records, or after so many seconds with at least `least` records: of fewer, PSI says
    #: nothing (its noise is about bins / records).
    records: int = 1000
    seconds: float = 300.0
    least: int = 300
    #: From where on the index is worth a look, and from where on the scores are not to be trusted.
    watch: float = 0.1
    poor: float = 0.25


class Band(IntEnum):
    """How far a window is from the baseline."""

    GOOD = 0
    WATCH = 1
    POOR = 2


@dataclass(frozen=True, slots=True)
class Report:
    """One window of one scorer."""

    records: int
    band: Band
    #: Why, where it is not good.
    reason: str
    #: The index of `labels`, of `scores` and `vectors` (the greatest of each label's, each projection's), of `tokens`.
    psi: Mapping[str, float]
    #: Share of the scores that were no score: not a number, or out of range.
    broken: float
    #: Share of the sentences that each label is the best of.
    shares: Mapping[str, float]
    mean_tokens: float
    #: Share of the texts that were cut.
    truncated: float


def broken(values: Values, bounds: tuple[float, float]) -> dict[int, str]:
    """Rows of `values`, shape (n, labels), that hold what is no score, and why."""
    least, most = bounds
    finite = np.asarray(np.isfinite(values).all(axis=1))
    fine = finite & np.asarray(((values >= least) & (values <= most)).all(axis=1))
    return {
        row: f"out of range: expected {least:g} to {most:g}" if finite[row] else "not a number"
        for row in np.flatnonzero(~fine).tolist()
    }


@dataclass(slots=True)
class _Window:
    """Counts since a moment."""

    began: float
    records: int = 0
    #: Of those, the scores that were some.
    good: int = 0
    tokens: int = 0
    truncated: int = 0
    labels: tuple[str, ...] = ()
    winners: Counts | int = 0
    least: Values | float = np.inf
    most: Values | float = -np.inf
    #: What is counted -> how many in each bin.
    counts: dict[tuple[str, str], Counts] = field(default_factory=dict)

    def add(self, sample: Sample, lost: int) -> None:
        self.records += len(sample) + lost
        self.good += len(sample)
        if len(sample):
            self.labels = sample.labels
            self.tokens += int(sample.tokens.sum())
            self.truncated += int(sample.truncated.sum())
            self.winners = self.winners + sample.winners()
            self.least = np.minimum(self.least, sample.values.min(axis=0))
            self.most = np.maximum(self.most, sample.values.max(axis=0))

    def compare(self, reference: Reference, sample: Sample) -> None:
        """Counts what falls in each bin of the baseline."""
        baseline = reference.baseline
        for label, column in zip(sample.labels, sample.values.T, strict=True):
            if label in baseline.scores:
                self._count(("scores", label), count(baseline.scores[label], column))
        if baseline.tokens is not None:
            self._count(("tokens", ""), count(baseline.tokens, sample.tokens))
        if sample.vectors.shape[1] == reference.directions.shape[1]:  # else they were shortened
            projected = reference.directions @ sample.vectors.T
            for number, (bins, row) in enumerate(zip(baseline.projections, projected, strict=True)):
                self._count(("vectors", str(number)), count(bins, row))

    def _count(self, what: tuple[str, str], counts: Counts) -> None:
        self.counts[what] = self.counts[what] + counts if what in self.counts else counts

    @property
    def constant(self) -> bool:
        """Whether every score was the same, but for what the order of a sum changes."""
        return self.good > 1 and bool(np.all(np.subtract(self.most, self.least) <= _NOISE))


class Monitor:
    """Watches one version of one scorer. Not for several threads at once."""

    def __init__(self, limits: Limits, reference: Reference | None, now: float) -> None:
        """Without a reference, the first `limits.records` become it. Times are monotonic seconds."""
        self._limits = limits
        self.reference = reference
        self._first: list[Sample] = []
        self._window = _Window(now)

    def observe(self, sample: Sample, lost: int, now: float) -> Report | None:
        """Notes good scores, and how many were no scores; returns the window that ends with them, if one does."""
        self._window.add(sample, lost)
        if self.reference is not None:
            self._window.compare(self.reference, sample)
        elif len(sample):
            self._learn(sample)
        if not self._ended(now):
            return None
        window, self._window = self._window, _Window(now)
        return self._report(window)

    def _ended(self, now: float) -> bool:
        window, limits = self._window, self._limits
        if window.records >= limits.records:
            return True
        return window.records >= limits.least and now - window.began >= limits.seconds

    def _learn(self, sample: Sample) -> None:
        self._first.append(sample)
        sizes = [each.vectors.shape[1] for each in self._first]
        whole = [each for each, size in zip(self._first, sizes, strict=True) if size == max(sizes)]
        if sum(map(len, whole)) >= self._limits.records:  # vectors that were shortened say less
            self.reference = Reference.of(Sample.together(whole))
            self._first.clear()

    def _report(self, window: _Window) -> Report:
        indices = {} if self.reference is None else _indices(self.reference, window)
        band, reason = _judged(self._limits, self.reference, window, indices)
        good = max(1, window.good)
        shares = np.broadcast_to(np.asarray(window.winners) / good, (len(window.labels),))
        return Report(
            records=window.records,
            band=band,
            reason=reason,
            psi=indices,
            broken=1 - window.good / window.records,
            shares=dict(zip(window.labels, shares.tolist(), strict=True)),
            mean_tokens=window.tokens / good,
            truncated=window.truncated / good,
        )


def _indices(reference: Reference, window: _Window) -> dict[str, float]:
    if not window.counts:  # the window in which the baseline was recorded
        return {}
    baseline, found = reference.baseline, dict[str, float]()
    expected = {("scores", label): bins for label, bins in baseline.scores.items()}
    expected |= {("vectors", str(number)): bins for number, bins in enumerate(baseline.projections)}
    if baseline.tokens is not None:
        expected["tokens", ""] = baseline.tokens
    for what, counts in window.counts.items():
        found[what[0]] = max(found.get(what[0], 0.0), psi(expected[what].counts, counts))
    if baseline.shares and window.good:
        found["labels"] = _label_index(reference, window)
    return found


def _label_index(reference: Reference, window: _Window) -> float:
    """The index of the best labels; those that the baseline does not know share a bin."""
    baseline = reference.baseline
    rows = max((sum(bins.counts) for bins in baseline.scores.values()), default=0)
    now = dict(zip(window.labels, np.asarray(window.winners).tolist(), strict=True))
    known = [now.get(label, 0) for label in baseline.shares]
    return psi([*(share * rows for share in baseline.shares.values()), 0], [*known, window.good - sum(known)])


def _judged(
    limits: Limits, reference: Reference | None, window: _Window, indices: Mapping[str, float]
) -> tuple[Band, str]:
    if window.constant and reference is not None and _varied(reference):
        return Band.POOR, f"constant: {window.good} sentences had the same scores"
    # Longer texts alone do not make scores wrong: their index is told, and nothing follows from it.
    judged = {name: value for name, value in indices.items() if name != "tokens"}
    worst = max(judged, key=lambda name: judged[name], default=None)
    if worst is None or judged[worst] < limits.watch:
        return Band.GOOD, ""
    band = Band.POOR if judged[worst] >= limits.poor else Band.WATCH
    return band, f"drift: the PSI of {worst} is {judged[worst]:.2f}"


def _varied(reference: Reference) -> bool:
    edges = [bins.edges for bins in reference.baseline.scores.values()]
    return any(each[-1] - each[0] > _NOISE for each in edges if each)
