"""Scores of embeddings: what scorers say of a whole batch, one call of a scorer for all rows of a size."""

import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from schemas.errors import Reject, Retry, ScoringFailed, UnknownScorer
from schemas.records import Embedding, Score
from streams.scoring.scorer import Scorer, Verdict, require_model

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "sentence-streams/score")


class Subject(NamedTuple):
    """An embedding, its text where it is known, and the scorers that it is for."""

    embedding: Embedding
    text: str | None
    scorers: Sequence[Scorer]

    def check(self) -> None:
        """Raises ScoringFailed where a scorer does not understand the vector, or reads a text that is not known."""
        for scorer in self.scorers:
            require_model(scorer, self.embedding.weights_digest)
            if scorer.needs == "text" and self.text is None:
                raise ScoringFailed(f"text: scorer {scorer.name} reads the text, and this embedding carries none")


def chosen(scorers: Mapping[str, Scorer], names: Iterable[str]) -> list[Scorer]:
    """The scorers of these names, in their order. Raises UnknownScorer."""
    try:
        return [scorers[name] for name in names]
    except KeyError as unknown:
        message = f"scorers: expected some of {', '.join(scorers)}, got {unknown.args[0]!r}"
        raise UnknownScorer(message) from None


def scored(subjects: Sequence[Subject]) -> list[list[Score]]:
    """Scores of each subject, in the order of its scorers. Raises what a scorer raises, for the whole batch."""
    places: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for row, (embedding, _, scorers) in enumerate(subjects):
        for column, scorer in enumerate(scorers):
            places[scorer.name, embedding.dimensions].append((row, column))
    found: dict[tuple[int, int], Score] = {}
    for group in places.values():
        row, column = group[0]
        scorer, asked = subjects[row].scorers[column], [subjects[row] for row, _ in group]
        for place, subject, verdict in zip(group, asked, scorer.score(_inputs(scorer, asked)), strict=True):
            found[place] = _score(subject.embedding, scorer, verdict)
    return [[found[row, column] for column in range(len(subject.scorers))] for row, subject in enumerate(subjects)]


def scored_each(subjects: Sequence[Subject]) -> list[list[Score] | Reject]:
    """As `scored`, but a subject on which a scorer fails has the reason, and the others have their scores."""
    try:
        return [*scored(subjects)]
    except (MemoryError, Retry):
        raise
    except Exception as error:
        if len(subjects) == 1:
            return [error if isinstance(error, Reject) else failure(error)]
    middle = len(subjects) // 2
    return scored_each(subjects[:middle]) + scored_each(subjects[middle:])


def failure(error: Exception) -> Reject:
    """Names an exception of a scorer on one embedding."""
    return ScoringFailed(f"the scorer raised {type(error).__name__}")


def _inputs(scorer: Scorer, subjects: Sequence[Subject]) -> Sequence[object]:
    if scorer.needs == "text":
        return [subject.text for subject in subjects]
    return np.stack([subject.embedding.vector for subject in subjects])  # type: ignore[return-value]


def _score(embedding: Embedding, scorer: Scorer, verdict: Verdict) -> Score:
    return Score(
        id=str(uuid.uuid5(_NAMESPACE, f"{embedding.id}\0{scorer.name}\0{scorer.version}")),
        sentence_id=embedding.sentence_id,
        scorer=scorer.name,
        scorer_version=scorer.version,
        label=verdict.label,
        score=verdict.score,
        labels=verdict.labels,
        model=embedding.model,
        revision=embedding.revision,
        metadata=embedding.metadata,
        source=embedding.source,
        scored_at=int(time.time() * 1000),
    )
