"""What stands between a scorer and its subscribers: scores that make no sense are replaced, and a scorer that goes on
making none is quarantined until a person resumes it.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import Reject
from schemas.packing import values
from schemas.records import Score, Severity
from streams.observe.metrics import Metrics
from streams.scoring.drift import Sample
from streams.scoring.quality import Band, Limits, Monitor, Report, broken
from streams.scoring.scorer import Scorer, Verdict, require_model
from streams.scoring.verdicts import Answer, Subject, inputs

#: How the reason of a score begins that the kill switch took out of the stream.
QUARANTINED: Final = "quarantined: "
SEVERITIES: Final = {Band.GOOD: Severity.INFO, Band.WATCH: Severity.WARNING, Band.POOR: Severity.CRITICAL}


@dataclass(frozen=True, slots=True)
class Policy:
    """When a scorer is quarantined."""

    limits: Limits = field(default_factory=Limits)
    #: After so many scores in a row that were none,
    run: int = 50
    #: after a window in which this share of them was none,
    share: float = 0.2
    #: or after so many poor windows in a row.
    windows: int = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """A label for the texts in which something is found."""

    match: re.Pattern[str]
    label: str


@dataclass(frozen=True, slots=True)
class Fallback:
    """What answers in place of a scorer."""

    #: `previous`: the version before, or the prior where there is none; `prior`: each label's share in the baseline;
    #: `rule`: the label of the first rule whose pattern is in the text, or else `otherwise`.
    kind: Literal["previous", "prior", "rule"] = "prior"
    rules: tuple[Rule, ...] = ()
    otherwise: str = "unknown"


@dataclass(frozen=True, slots=True)
class Event:
    """Something about a scorer that a person should look at, or that it is over."""

    kind: Literal["scorer-drift", "scorer-quarantined"]
    scorer: str
    version: str
    severity: Severity
    message: str
    reason: str
    figures: Mapping[str, float]


@dataclass(slots=True)
class _Watched:
    """One version of one scorer."""

    labels: tuple[str, ...]
    monitor: Monitor
    band: Band = Band.GOOD
    #: Why its scores are replaced, all of them; None where they are not.
    distrust: str | None = None
    poor_windows: int = 0
    #: Scores in a row that were none.
    run: int = 0

    def trust(self) -> None:
        self.band, self.distrust, self.poor_windows, self.run = Band.GOOD, None, 0, 0


@dataclass(slots=True)
class _Held:
    """Why scorers are quarantined: as everybody knows, and as only this process knows yet."""

    known: Mapping[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        return self.known.get(name) or self.own.get(name)


def no_previous(_name: str) -> Scorer | None:
    """Knows no version before any."""
    return None


class Guard:
    """Judges the scores of one process. Any number of threads may call it."""

    def __init__(
        self,
        policy: Policy,
        metrics: Metrics,
        *,
        tell: Callable[[Event], None],
        fallbacks: Mapping[str, Fallback] = {},
        previous: Callable[[str], Scorer | None] = no_previous,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` must return at once, and may be called by any thread; `previous` is asked for a scorer by its name."""
        self._policy = policy
        self._metrics = metrics
        self._tell = tell
        self._fallbacks = fallbacks
        self._previous = previous
        self._clock = clock
        self._lock = threading.Lock()
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._held = _Held()

    def hold(self, reasons: Mapping[str, str]) -> None:
        """Says which scorers are quarantined from now on, and why; those that no longer are begin afresh."""
        with self._lock:
            for (name, _), watched in self._watched.items():
                if name in self._held.known and name not in reasons:
                    watched.trust()
            self._held.known = dict(reasons)
            self._held.own = {name: why for name, why in self._held.own.items() if name not in reasons}
        for name, _ in self._watched:
            self._metrics.scorer_quarantined.labels(name).set(self._held.get(name) is not None)

    def judge(self, scorer: Scorer, subjects: Sequence[Subject], verdicts: Sequence[Verdict]) -> list[Answer]:
        """Answers for as many subjects as verdicts, at least one: the verdicts, or what replaces them and why."""
        with self._lock:
            watched = self._of(scorer, verdicts)
            sample = _sample(watched.labels, subjects, verdicts)
            wrong = broken(sample.values, scorer.bounds)
            self._note(scorer, watched, sample, wrong)
            held, distrust = self._held.get(scorer.name), watched.distrust
        if held is not None:
            return self._replace(scorer, subjects, dict.fromkeys(range(len(subjects)), QUARANTINED + held))
        if distrust is not None:
            return self._replace(scorer, subjects, dict.fromkeys(range(len(subjects)), distrust) | wrong)
        answers = [Answer(verdict) for verdict in verdicts]
        rows = list(wrong)
        for row, answer in zip(rows, self._replace(scorer, [subjects[row] for row in rows], wrong), strict=True):
            answers[row] = answer
        return answers

    # -- what is noticed --------------------------------------------------------------------------------------

    def _of(self, scorer: Scorer, verdicts: Sequence[Verdict]) -> _Watched:
        key = scorer.name, scorer.version
        if key not in self._watched:
            monitor = Monitor(self._policy.limits, scorer.reference, self._clock())
            self._watched[key] = _Watched(tuple(verdicts[0].labels), monitor)
        return self._watched[key]

    def _note(self, scorer: Scorer, watched: _Watched, sample: Sample, wrong: Mapping[int, str]) -> None:
        good = np.ones(len(sample), dtype=bool)
        good[list(wrong)] = False
        report = watched.monitor.observe(sample.only(good), len(wrong), self._clock())
        longest = _longest_run(watched, good)
        if longest >= self._policy.run:
            why = f"{longest} scores in a row were none: {next(iter(wrong.values()))}"
            self._trip(scorer, why, {"in_a_row": float(longest)})
        if report is not None:
            self._note_window(scorer, watched, report)

    def _note_window(self, scorer: Scorer, watched: _Watched, report: Report) -> None:
        self._measure(scorer, report)
        poor = report.band is Band.POOR
        watched.distrust = report.reason if poor else None
        watched.poor_windows = watched.poor_windows + 1 if poor else 0
        if report.band != watched.band:
            watched.band = report.band
            self._tell_drift(scorer, report)
        if report.broken >= self._policy.share:
            self._trip(scorer, f"{report.broken:.0%} of a window's scores were none", _figures(report))
        elif watched.poor_windows >= self._policy.windows:
            self._trip(scorer, f"{watched.poor_windows} poor windows in a row, {report.reason}", _figures(report))

    def _trip(self, scorer: Scorer, why: str, figures: Mapping[str, float]) -> None:
        name = scorer.name
        if self._held.get(name) is not None:
            return
        self._held.own[name] = why
        self._metrics.scorer_quarantined.labels(name).set(1)
        message = (
            f"scorer {name} is quarantined: {why}; `sentence-streams models resume scorer:{name} --why ...` ends it"
        )
        self._tell(Event("scorer-quarantined", name, scorer.version, Severity.CRITICAL, message, why, figures))

    def _tell_drift(self, scorer: Scorer, report: Report) -> None:
        what = {
            Band.GOOD: "is as its baseline again",
            Band.WATCH: f"moves away from its baseline: {report.reason}",
            Band.POOR: f"is not to be trusted, its fallback answers: {report.reason}",
        }[report.band]
        message = f"scorer {scorer.name} {what}"
        severity = SEVERITIES[report.band]
        version, reason = scorer.version, report.reason
        self._tell(Event("scorer-drift", scorer.name, version, severity, message, reason, _figures(report)))

    def _measure(self, scorer: Scorer, report: Report) -> None:
        names, metrics = (scorer.name, scorer.version), self._metrics
        metrics.score_windows.labels(*names, report.band.name.lower()).inc()
        for figure, value in report.psi.items():
            metrics.score_psi.labels(*names, figure).set(value)
        for label, share in report.shares.items():
            metrics.score_label_share.labels(*names, label).set(share)
        metrics.score_tokens.labels(*names).set(report.mean_tokens)
        metrics.score_truncated.labels(*names).set(report.truncated)

    # -- what answers instead ---------------------------------------------------------------------------------

    def _replace(self, scorer: Scorer, subjects: Sequence[Subject], reasons: Mapping[int, str]) -> list[Answer]:
        """An answer for each subject, with its reason, of the one (in order) for each of them."""
        if not subjects:
            return []
        self._metrics.scores_replaced.labels(scorer.name, scorer.version).inc(len(subjects))
        fallback = self._fallbacks.get(scorer.name, Fallback())
        if fallback.kind == "rule":
            found: Sequence[Verdict | None] = [_by_rule(fallback, subject.text) for subject in subjects]
        elif fallback.kind == "previous":
            found = self._by_previous(scorer, subjects)
        else:
            found = [None] * len(subjects)
        prior = self._prior(scorer)
        return [Answer(verdict or prior, why) for verdict, why in zip(found, reasons.values(), strict=True)]

    def _by_previous(self, scorer: Scorer, subjects: Sequence[Subject]) -> Sequence[Verdict | None]:
        previous = self._previous(scorer.name)
        if previous is None or previous.version == scorer.version:
            return [None] * len(subjects)
        try:
            for subject in subjects:
                require_model(previous, subject.embedding.weights_digest)
            verdicts = previous.score(inputs(previous, subjects))
        except Reject:
            return [None] * len(subjects)
        values = _sample(tuple(verdicts[0].labels), subjects, verdicts).values
        wrong = broken(values, previous.bounds)
        return [None if row in wrong else verdict for row, verdict in enumerate(verdicts)]

    def _prior(self, scorer: Scorer) -> Verdict:
        watched = self._watched[scorer.name, scorer.version]
        reference = watched.monitor.reference
        shares = reference.baseline.shares if reference else {}
        labels = dict(shares) or {label: 1 / len(watched.labels) for label in watched.labels}
        best = max(labels, key=lambda label: labels[label])
        return Verdict(best, labels[best], labels)


def is_quarantined(score: Score) -> bool:
    """Whether the kill switch keeps a score from subscribers."""
    return score.reason is not None and score.reason.startswith(QUARANTINED)


def _sample(labels: tuple[str, ...], subjects: Sequence[Subject], verdicts: Sequence[Verdict]) -> Sample:
    embeddings = [subject.embedding for subject in subjects]
    return Sample(
        values=np.array([[verdict.labels.get(label, np.nan) for label in labels] for verdict in verdicts], np.float64),
        labels=labels,
        tokens=np.array([embedding.token_count for embedding in embeddings], np.int64),
        truncated=np.array([embedding.truncated for embedding in embeddings], np.bool_),
        vectors=np.stack([values(embedding) for embedding in embeddings]),
    )


def _longest_run(watched: _Watched, good: NDArray[np.bool_]) -> int:
    """The longest run of scores that were none, that which goes on from before included."""
    if good.all():
        watched.run = 0
        return 0
    longest = 0
    for fine in good.tolist():
        watched.run = 0 if fine else watched.run + 1
        longest = max(longest, watched.run)
    return longest


def _by_rule(fallback: Fallback, text: str | None) -> Verdict:
    label = next((rule.label for rule in fallback.rules if rule.match.search(text or "")), fallback.otherwise)
    return Verdict(label, 1.0, {label: 1.0})


def _figures(report: Report) -> dict[str, float]:
    shares = {f"share_{label}": share for label, share in report.shares.items()}
    indices = {f"psi_{name}": value for name, value in report.psi.items()}
    return {"records": float(report.records), "broken": report.broken, **indices, **shares}
