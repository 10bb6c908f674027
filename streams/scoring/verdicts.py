"""Scores of embeddings: what scorers say of a whole batch, one call of a scorer for all rows of a size."""

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from schemas.errors import Reject, Retry, ScoringFailed, UnknownScorer
from schemas.packing import values
from schemas.records import Embedding, Score, ScoreStatus
from streams.scoring.scorer import Scorer, Verdict, require_model, require_query

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "sentence-streams/score")


class Subject(NamedTuple):
    """An embedding, its text and query where they are known, and the scorers that it is for."""

    embedding: Embedding
    text: str | None
    scorers: Sequence[Scorer]
    query: str | None = None

    def check(self) -> None:
        """Raises ScoringFailed where a scorer does not understand the vector, or reads a text that is not known."""
        for scorer in self.scorers:
            require_model(scorer, self.embedding.weights_digest)
            if scorer.needs != "vector" and self.text is None:
                raise ScoringFailed(f"text: scorer {scorer.name} reads the text, and this embedding carries none")
            require_query(scorer, self.query)


def chosen(scorers: Mapping[str, Scorer], names: Iterable[str]) -> list[Scorer]:
    """The scorers of these names, in their order. Raises UnknownScorer."""
    try:
        return [scorers[name] for name in names]
    except KeyError as unknown:
        message = f"scorers: expected some of {', '.join(scorers)}, got {unknown.args[0]!r}"
        raise UnknownScorer(message) from None


class Answer(NamedTuple):
    """What is said of a subject, and why it is not the scorer's own verdict; None where it is."""

    verdict: Verdict
    reason: str | None = None


class Judge(Protocol):
    """Says what becomes of a scorer's verdicts: `streams.scoring.guard`."""

    def judge(self, scorer: Scorer, subjects: Sequence[Subject], verdicts: Sequence[Verdict]) -> list[Answer]:
        """An answer for each verdict, in order."""
        ...


class Trusting:
    """Believes every scorer."""

    def judge(self, scorer: Scorer, subjects: Sequence[Subject], verdicts: Sequence[Verdict]) -> list[Answer]:
        """The verdicts."""
        return [Answer(verdict) for verdict in verdicts]


TRUSTING: Final = Trusting()


class _Asked(NamedTuple):
    """One call of a scorer: for which subjects, and where their scores belong (row, column)."""

    scorer: Scorer
    subjects: list[Subject]
    places: list[tuple[int, int]]


def scored(subjects: Sequence[Subject], judge: Judge = TRUSTING) -> list[list[Score]]:
    """Scores of each subject, in the order of its scorers. Raises what a scorer raises, for the whole batch."""
    groups: dict[tuple[str, str, int], _Asked] = {}
    for row, subject in enumerate(subjects):
        for column, scorer in enumerate(subject.scorers):
            key = scorer.name, scorer.version, subject.embedding.dimensions
            asked = groups.setdefault(key, _Asked(scorer, [], []))
            asked.subjects.append(subject)
            asked.places.append((row, column))
    # The judge hears of no verdict of a batch that will be tried again in halves.
    verdicts = [asked.scorer.score(inputs(asked.scorer, asked.subjects)) for asked in groups.values()]
    found: dict[tuple[int, int], Score] = {}
    for (scorer, group, places), said in zip(groups.values(), verdicts, strict=True):
        for place, subject, answer in zip(places, group, judge.judge(scorer, group, said), strict=True):
            found[place] = _score(subject.embedding, scorer, answer)
    return [[found[row, column] for column in range(len(subject.scorers))] for row, subject in enumerate(subjects)]


def scored_each(subjects: Sequence[Subject], judge: Judge = TRUSTING) -> list[list[Score] | Reject]:
    """As `scored`, but a subject on which a scorer fails has the reason, and the others have their scores."""
    try:
        return [*scored(subjects, judge)]
    except (MemoryError, Retry):
        raise
    except Exception as error:
        if len(subjects) == 1:
            return [error if isinstance(error, Reject) else failure(error)]
    middle = len(subjects) // 2
    return scored_each(subjects[:middle], judge) + scored_each(subjects[middle:], judge)


def failure(error: Exception) -> Reject:
    """Names an exception of a scorer on one embedding."""
    return ScoringFailed(f"the scorer raised {type(error).__name__}")


def inputs(scorer: Scorer, subjects: Sequence[Subject]) -> Sequence[object]:
    """What a scorer reads of some subjects, whose vectors have one size."""
    if scorer.needs == "text":
        return [subject.text for subject in subjects]
    if scorer.needs == "pair":
        return [(subject.query, subject.text) for subject in subjects]
    return np.stack([values(subject.embedding) for subject in subjects])  # type: ignore[return-value]


def _score(embedding: Embedding, scorer: Scorer, answer: Answer) -> Score:
    verdict, reason = answer
    return Score(
        id=str(uuid.uuid5(_NAMESPACE, f"{embedding.id}\0{scorer.name}\0{scorer.version}")),
        sentence_id=embedding.sentence_id,
        scorer=scorer.name,
        scorer_version=scorer.version,
        label=verdict.label,
        score=verdict.score,
        labels=verdict.labels,
        status=ScoreStatus.OK if reason is None else ScoreStatus.FALLBACK,
        reason=reason,
        model=embedding.model,
        revision=embedding.revision,
        metadata=embedding.metadata,
        source=embedding.source,
        scored_at=int(time.time() * 1000),
    )
