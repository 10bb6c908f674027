"""The guard: fallback answers, and the kill switch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from schemas.codec import Codec
from schemas.records import Score, ScoreStatus, Severity
from streams.observe.metrics import Metrics
from streams.records import Outgoing
from streams.scoring.drift import Reference, Sample
from streams.scoring.guard import Event, Fallback, Guard, Policy, Rule
from streams.scoring.quality import Limits
from streams.scoring.scorer import Needs, Verdict
from streams.scoring.stage import ScoreStage
from streams.scoring.verdicts import Subject, scored
from tests.unit.streams.scoring.test_score_stage import EMBEDDING, record, results

CODEC = Codec()
RANDOM = np.random.default_rng(5)
POLICY = Policy(Limits(records=200, seconds=60, least=200), run=5, share=0.3, windows=2)


def reference(mean: float = 0.5) -> Reference:
    likely = np.clip(RANDOM.normal(mean, 0.1, 4000), 0, 1)
    sample = Sample(
        np.stack([likely, 1 - likely], axis=1),
        ("yes", "no"),
        RANDOM.integers(3, 9, 4000),
        np.zeros(4000, np.bool_),
        RANDOM.normal(size=(4000, 2)).astype(np.float32),
    )
    return Reference.of(sample)


@dataclass
class Fixed:
    """Says of each text the number that it is."""

    name: str = "fixed"
    version: str = "2"
    model: str | None = None
    needs: Needs = "text"
    bounds: tuple[float, float] = (0.0, 1.0)
    reference: Reference | None = None

    def score(self, inputs: Sequence[Any]) -> list[Verdict]:
        return [
            Verdict("yes" if float(text) >= 0.5 else "no", float(text), {"yes": float(text), "no": 1 - float(text)})
            for text in inputs
        ]


@dataclass
class Scene:
    """A guard, and what it told."""

    policy: Policy = POLICY
    fallback: Fallback = field(default_factory=Fallback)
    previous: Fixed | None = None
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.guard = Guard(
            self.policy,
            self.metrics,
            tell=self.events.append,
            fallbacks={"fixed": self.fallback},
            previous=lambda _name: self.previous,
            clock=lambda: 0.0,
        )

    def scores(self, scorer: Fixed, *numbers: object) -> list[Score]:
        vectors = RANDOM.normal(size=(len(numbers), 2)).astype(np.float32)
        subjects = [
            Subject(replace(EMBEDDING, vector=vector, token_count=5), str(number), [scorer])
            for number, vector in zip(numbers, vectors, strict=True)
        ]
        return [score for [score] in scored(subjects, self.guard)]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def usual(rows: int, mean: float = 0.5) -> list[float]:
    return np.clip(RANDOM.normal(mean, 0.1, rows), 0, 1).tolist()


def statuses(scores: Sequence[Score]) -> list[str]:
    return [score.status for score in scores]


def test_a_score_that_is_none_is_replaced_and_says_why() -> None:
    """By the prior, which is each label's share; its neighbours keep what the scorer said."""
    scene, scorer = Scene(), Fixed(reference=reference(0.9))
    fine, none, beyond = scene.scores(scorer, 0.75, "nan", 7)
    assert (fine.status, fine.reason, fine.score) == (ScoreStatus.OK, None, 0.75)
    assert (none.status, none.reason) == (ScoreStatus.FALLBACK, "not a number")
    assert beyond.reason == "out of range: expected 0 to 1"
    assert none.label == "yes"
    assert none.score == pytest.approx(scorer.reference.baseline.shares["yes"])  # type: ignore[union-attr]
    assert scene.metric("streams_scores_replaced_total", scorer="fixed", version="2") == 2


def test_without_a_baseline_every_label_is_as_likely() -> None:
    """Nothing is known better."""
    [score] = Scene().scores(Fixed(), "nan")
    assert score.labels == {"yes": 0.5, "no": 0.5}


def test_the_version_before_answers_where_that_is_configured() -> None:
    """And where it makes no sense either, the prior does."""
    scene = Scene(fallback=Fallback("previous"), previous=Fixed(version="1", bounds=(-10.0, 10.0)))
    seven, none = scene.scores(Fixed(), 7, "nan")
    assert (seven.label, seven.score, seven.status) == ("yes", 7.0, ScoreStatus.FALLBACK)
    assert none.labels == {"yes": 0.5, "no": 0.5}


def test_a_version_before_that_does_not_understand_the_vector_says_nothing() -> None:
    """The prior answers: a number for another model's vector would mean nothing."""
    scene = Scene(fallback=Fallback("previous"), previous=Fixed(version="1", model="f" * 64, bounds=(-10.0, 10.0)))
    [seven] = scene.scores(Fixed(), 7)
    assert seven.labels == {"yes": 0.5, "no": 0.5}


def test_rules_answer_where_that_is_configured() -> None:
    """The first whose pattern is in the text, or else the label for all others."""
    rules = (Rule(re.compile("^na"), "odd"),)
    scene = Scene(fallback=Fallback("rule", rules, "other"))
    odd, other = scene.scores(Fixed(), "nan", 7)
    assert (odd.label, odd.score, other.label) == ("odd", 1.0, "other")


def test_a_shift_falls_back_then_trips_and_both_are_told() -> None:
    """After one poor window the fallback answers, after a second one the scorer is quarantined."""
    scene, scorer = Scene(), Fixed(reference=reference())
    assert set(statuses(scene.scores(scorer, *usual(200)))) == {"ok"}
    scene.scores(scorer, *usual(199, 0.8))
    assert scene.events == []
    [replaced] = scene.scores(scorer, 0.8)
    assert replaced.status is ScoreStatus.FALLBACK
    assert str(replaced.reason).startswith("drift: the PSI of ")
    [drift] = scene.events
    assert (drift.kind, drift.severity) == ("scorer-drift", Severity.CRITICAL)
    assert max(value for name, value in drift.figures.items() if name.startswith("psi_")) > 0.25
    *_, last = scene.scores(scorer, *usual(200, 0.8))
    assert str(last.reason).startswith("quarantined: 2 poor windows in a row, drift: ")
    assert [event.kind for event in scene.events] == ["scorer-drift", "scorer-quarantined"]
    assert scene.metric("streams_scorer_quarantined", scorer="fixed") == 1


def test_a_shift_that_passes_ends_the_fallback() -> None:
    """The scorer answers again, and it is told."""
    scene, scorer = Scene(), Fixed(reference=reference())
    scene.scores(scorer, *usual(200, 0.8))
    assert set(statuses(scene.scores(scorer, *usual(199)))) == {"fallback"}
    assert statuses(scene.scores(scorer, *usual(1))) == ["ok"]
    assert [event.severity for event in scene.events] == [Severity.CRITICAL, Severity.INFO]


def test_a_stream_that_does_not_shift_never_trips() -> None:
    """Windows of usual scores: no event, no fallback."""
    policy = replace(POLICY, limits=Limits(records=1000, least=300))
    scene, scorer = Scene(policy), Fixed(reference=reference())
    for _ in range(10):
        assert set(statuses(scene.scores(scorer, *usual(1000)))) == {"ok"}
    assert scene.events == []
    assert scene.metric("streams_score_windows_total", scorer="fixed", version="2", band="good") == 10


def test_scores_in_a_row_that_are_none_trip_the_switch() -> None:
    """Across batches; one good score begins the count again."""
    scene, scorer = Scene(), Fixed()
    scene.scores(scorer, "nan", "nan", "nan", "nan", 0.5, "nan", "nan", "nan", "nan")
    assert scene.events == []
    [score] = scene.scores(scorer, "nan")
    assert score.reason == "quarantined: 5 scores in a row were none: not a number"
    assert [event.kind for event in scene.events] == ["scorer-quarantined"]
    assert "models resume scorer:fixed" in scene.events[0].message


def test_a_share_of_a_window_trips_the_switch() -> None:
    """Though no five came in a row."""
    scene, scorer = Scene(), Fixed()
    scene.scores(scorer, *[0.5, "nan"] * 99, 0.5)
    assert scene.events == []
    scene.scores(scorer, 0.5)
    assert "50% of a window's scores were none" in scene.events[0].message


def test_what_another_worker_found_holds_here_until_it_is_resumed() -> None:
    """A scorer that is fine here is quarantined as soon as this worker hears of it, and answers again afterwards."""
    scene, scorer = Scene(), Fixed()
    scene.scores(scorer, 0.5)
    scene.guard.hold({"fixed": "somebody said so"})
    [held] = scene.scores(scorer, 0.5)
    assert (held.status, held.reason) == (ScoreStatus.FALLBACK, "quarantined: somebody said so")
    scene.guard.hold({})
    assert statuses(scene.scores(scorer, 0.5)) == ["ok"]
    assert scene.events == []


def test_what_is_told_of_others_does_not_lift_what_only_this_worker_knows_yet() -> None:
    """Until everybody knows; then a person's resume lifts it."""
    scene, scorer = Scene(), Fixed()
    scene.scores(scorer, *["nan"] * 5)
    scene.guard.hold({"other": "why"})
    assert statuses(scene.scores(scorer, 0.5)) == ["fallback"]
    scene.guard.hold({"other": "why", "fixed": "5 in a row"})
    scene.guard.hold({"other": "why"})
    assert statuses(scene.scores(scorer, 0.5)) == ["ok"]


def test_a_quarantined_scorer_publishes_to_the_quarantine_alone() -> None:
    """Its neighbours publish as always."""
    scene = Scene()
    scene.guard.hold({"fixed": "why"})
    stage = ScoreStage(
        {"fixed": Fixed(), "well": Fixed(name="well")}, CODEC, "scores", "quarantine", scene.guard, lambda _key: True
    )
    [outputs] = results(stage, record(text="0.5"))
    assert isinstance(outputs, list)
    assert [(out.topic, out.key) for out in outputs] == [
        ("quarantine", b"key:fixed"),
        ("scores", b"key:well"),
        ("quarantine", b"key:well"),
    ]
    assert CODEC.decode(Score, outputs[0].value or b"").status is ScoreStatus.FALLBACK


def test_scoring_again_settles_what_was_quarantined() -> None:
    """The score is published, and a tombstone takes it out of the quarantine; other keys have no tombstone."""
    scene = Scene()
    quarantined = {b"key:fixed"}
    stage = ScoreStage({"fixed": Fixed()}, CODEC, "scores", "quarantine", scene.guard, settles=quarantined.__contains__)
    settled, other = results(stage, record(text="0.5"), record(b"other", text="0.5"))
    assert isinstance(settled, list)
    assert isinstance(other, list)
    assert settled[1] == Outgoing("quarantine", b"key:fixed", None, settled[0].headers)
    assert [out.topic for out in other] == ["scores"]
