"""Scorers that are watched before they answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from schemas.records import ModelKind, Target
from streams.models.routing import Why, initial, shadow
from streams.observe.metrics import Metrics
from streams.scoring.drift import Reference
from streams.scoring.scorer import Needs, Verdict
from streams.scoring.shadow import AGREES, BROKEN, DIFFERS, FAILED, Shadowed
from streams.scoring.verdicts import TRUSTING, Subject, scored
from tests.unit.streams.scoring.test_score_stage import EMBEDDING

WHY = Why("1", "ada", "a test", 0)


@dataclass
class Named:
    """Says the first letter of each text; of a text in `wrong` it says something else, or nothing."""

    version: str
    wrong: str = ""
    model: str | None = None
    name: str = "letter"
    needs: Needs = "text"
    bounds: tuple[float, float] = (0.0, 1.0)
    reference: Reference | None = None

    def score(self, inputs: Sequence[Any]) -> list[Verdict]:
        if "!" in self.wrong:
            raise ValueError("this one")
        return [self._said(text) for text in inputs]

    def _said(self, text: str) -> Verdict:
        value = float("nan") if text in self.wrong and text == "n" else 1.0
        label = "other" if text in self.wrong else text[0]
        return Verdict(label, value, {label: value})


def counted(below: Named, share: float, *texts: str) -> dict[str, float]:
    """What is counted of a shadow, while the scores of texts are those of the scorer itself."""
    metrics, target = Metrics(), Target(name="letter", source="2" * 64)
    state = shadow(initial(ModelKind.SCORER, "letter"), target, share, WHY)
    judge = Shadowed(TRUSTING, {"letter": (state, below)}.get, metrics)
    active = Named("1")
    subjects = [Subject(replace(EMBEDDING, sentence_id=f"s-{n}"), text, [active]) for n, text in enumerate(texts)]
    found = [score for [score] in scored(subjects, judge)]
    assert [(score.label, score.scorer_version) for score in found] == [(text[0], "1") for text in texts]
    outcomes = {each: ("letter", "2", each) for each in (AGREES, DIFFERS, BROKEN, FAILED)}
    labels = ("scorer", "version", "outcome")
    values = {
        each: metrics.registry.get_sample_value("streams_shadow_scores_total", dict(zip(labels, names, strict=True)))
        for each, names in outcomes.items()
    }
    return {each: value for each, value in values.items() if value}


def test_a_shadow_is_compared_with_what_was_answered() -> None:
    """And changes nothing of it, also where it fails."""
    assert counted(Named("2", wrong="dn"), 1.0, "a", "b", "d", "n") == {AGREES: 2, DIFFERS: 1, BROKEN: 1}
    assert counted(Named("2", wrong="!"), 1.0, "a", "b") == {FAILED: 2}


def test_a_shadow_has_its_share_of_what_it_understands() -> None:
    """By the id of the sentence; vectors of another model are not for it."""
    texts = ["a"] * 1000
    assert 200 < counted(Named("2"), 0.25, *texts)[AGREES] < 300
    assert counted(Named("2", model="f" * 64), 1.0, *texts) == {}
