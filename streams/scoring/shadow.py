"""A scorer that is watched before it answers: it scores what another one scores, and nobody gets its scores."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import structlog

from schemas.records import ModelCommand
from streams.models.routing import portion
from streams.observe.metrics import Metrics
from streams.scoring.scorer import Scorer, Verdict
from streams.scoring.verdicts import Answer, Judge, Subject, inputs

log = structlog.get_logger(__name__)

#: Name of a scorer -> what commands say of it, and its shadow; None where it has none.
ShadowOf = Callable[[str], tuple[ModelCommand, Scorer] | None]
#: What becomes of a shadow's scores, as the metric says.
AGREES: Final = "agrees"
DIFFERS: Final = "differs"
BROKEN: Final = "broken"
FAILED: Final = "failed"


class Shadowed:
    """A judge that has shadows score a share of what comes before it, for their metric alone."""

    def __init__(self, judge: Judge, shadow_of: ShadowOf, metrics: Metrics) -> None:
        self._judge, self._shadow_of, self._metrics = judge, shadow_of, metrics

    def judge(self, scorer: Scorer, subjects: Sequence[Subject], verdicts: Sequence[Verdict]) -> list[Answer]:
        """The answers of the judge itself."""
        found = self._shadow_of(scorer.name)
        if found is not None:
            self._watch(*found, subjects, verdicts)
        return self._judge.judge(scorer, subjects, verdicts)

    def _watch(
        self, state: ModelCommand, shadow: Scorer, subjects: Sequence[Subject], verdicts: Sequence[Verdict]
    ) -> None:
        rows = [row for row, subject in enumerate(subjects) if _is_for(state, shadow, subject)]
        if not rows:
            return
        counted = self._metrics.shadow_scores
        try:
            said = shadow.score(inputs(shadow, [subjects[row] for row in rows]))
        except Exception as error:  # whatever it raises: that it fails is what one wants to know of a shadow
            log.warning("shadow-failed", scorer=shadow.name, version=shadow.version, error=repr(error))
            counted.labels(shadow.name, shadow.version, FAILED).inc(len(rows))
            return
        for row, verdict in zip(rows, said, strict=True):
            counted.labels(shadow.name, shadow.version, _outcome(verdict, verdicts[row])).inc()


def _is_for(state: ModelCommand, shadow: Scorer, subject: Subject) -> bool:
    embedding = subject.embedding
    understands = shadow.model in {None, embedding.weights_digest}
    return understands and portion(state.alias, embedding.sentence_id) < state.shadow_share


def _outcome(verdict: Verdict, other: Verdict) -> str:
    if not np.isfinite(verdict.score):
        return BROKEN
    return AGREES if verdict.label == other.label else DIFFERS
