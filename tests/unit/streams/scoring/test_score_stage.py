"""The scoring stage without a broker, and the scores that it shares with the worker's replies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from schemas.codec import Codec
from schemas.errors import InvalidField, Reject, Retry, ScoringFailed, UnknownScorer
from schemas.records import Embedding, Score, Source
from streams.records import Headers, Outgoing
from streams.scoring.scorer import Needs, Verdict
from streams.scoring.stage import ScoreStage, ScoreWork
from streams.scoring.verdicts import Subject, chosen, scored, scored_each

CODEC = Codec()
EMBEDDING = Embedding(
    id="e-1",
    sentence_id="s-1",
    metadata={"a": "1"},
    text="Hello.",
    model="small",
    revision="1",
    weights_digest="d1",
    dimensions=2,
    token_count=3,
    truncated=False,
    precision="float32",
    source=Source("requests", 0, 7, 1_700_000_000_000),
    embedded_at=1_700_000_000_123,
    vector=np.array([1, 0], np.float32),
)


@dataclass
class First:
    """Scores a vector by its first value; what is below zero breaks its batch."""

    name: str = "first"
    version: str = "1"
    model: str | None = "d1"
    needs: Needs = "vector"

    def __post_init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def score(self, inputs: Any) -> list[Verdict]:
        self.shapes.append(inputs.shape)
        if (inputs[:, 0] == -1).any():
            raise ScoringFailed("it is minus one")
        if (inputs[:, 0] < 0).any():
            raise ValueError("it is negative")
        return [Verdict("x", float(row[0]), {"x": float(row[0])}) for row in inputs]


@dataclass
class Words:
    """Scores a text by its words."""

    name: str = "words"
    version: str = "2"
    model: str | None = None
    needs: Needs = "text"

    def score(self, inputs: Sequence[Any]) -> list[Verdict]:
        return [Verdict("n", len(text.split()), {"n": len(text.split())}) for text in inputs]


@dataclass(frozen=True)
class Record:
    """A consumed embedding."""

    value: bytes | None
    key: bytes | None = b"key"
    headers: Headers = ()
    topic: str = "embeddings"
    partition: int = 0
    offset: int = 3
    timestamp: int = 0
    timestamp_type: int = 0


def record(key: bytes | None = b"key", **fields: Any) -> Record:
    return Record(CODEC.encode(replace(EMBEDDING, **fields), "embeddings"), key)


def vector(*values: float) -> Embedding:
    return replace(EMBEDDING, dimensions=len(values), vector=np.array(values, np.float32))


def stage(*scorers: Any) -> ScoreStage:
    return ScoreStage({scorer.name: scorer for scorer in scorers}, CODEC, "scores", "quarantine")


def results(on: ScoreStage, *records: Record) -> list[list[Outgoing] | Reject]:
    """What the stage makes of these records, taken as one batch."""
    prepared = on.prepare(records)
    works = [each for each in prepared if isinstance(each, ScoreWork)]
    done = iter(on.run(works))
    return [next(done) if isinstance(each, ScoreWork) else each for each in prepared]


def scores(result: list[Outgoing] | Reject) -> list[Score]:
    assert isinstance(result, list)
    return [CODEC.decode(Score, out.value or b"") for out in result]


def test_an_embedding_that_names_no_scorer_gets_every_score() -> None:
    """A record a scorer, under the embedding's key and the scorer's name."""
    [result] = results(stage(First(), Words()), record())
    assert [out.key for out in result if isinstance(result, list)] == [b"key:first", b"key:words"]
    first, words = scores(result)
    assert (first.scorer, first.scorer_version, first.label, first.score) == ("first", "1", "x", 1.0)
    assert (words.sentence_id, words.metadata, words.source) == ("s-1", {"a": "1"}, EMBEDDING.source)
    assert first.id != words.id


def test_scorers_that_are_named_are_the_only_ones() -> None:
    """In the order in which the sentence names them; without a key the sentence's id is it."""
    [result] = results(stage(First(), Words()), record(None, scorers=("words",)))
    assert [out.key for out in result if isinstance(result, list)] == [b"s-1:words"]


def test_the_id_of_a_score_is_always_the_same() -> None:
    """It follows from the embedding's id, the scorer and its version, in every release."""
    [[score]] = scored([Subject(EMBEDDING, None, [First()])])
    assert score.id == "9d7e919c-1917-53d2-84e0-9f86069d6032"
    [[other]] = scored([Subject(EMBEDDING, None, [First(version="2")])])
    assert other.id != score.id


def test_vectors_of_one_size_are_scored_in_one_call() -> None:
    """A matrix for each size; every subject gets its scores in the order of its scorers."""
    first, words = First(), Words()
    subjects = [
        Subject(vector(0.5, 0), "a b", [first, words]),
        Subject(vector(0.25), "c", [words, first]),
        Subject(vector(0.75, 0), None, [first]),
        Subject(vector(1, 0), None, []),
    ]
    found = [[(score.scorer, score.score) for score in each] for each in scored(subjects)]
    assert found == [[("first", 0.5), ("words", 2)], [("words", 1), ("first", 0.25)], [("first", 0.75)], []]
    assert sorted(first.shapes) == [(1, 1), (2, 2)]


def test_a_subject_that_breaks_a_scorer_stands_alone() -> None:
    """The others have their scores; its own reject says why, and what a scorer raises otherwise gets a name."""
    subjects = [Subject(vector(value, 0), None, [First()]) for value in (0.5, -1, 0.25, -2)]
    fine, rejected, also_fine, failed = scored_each(subjects)
    assert isinstance(fine, list)
    assert isinstance(also_fine, list)
    assert str(rejected) == "it is minus one"
    assert str(failed) == "the scorer raised ValueError"
    assert scored_each([]) == []


@pytest.mark.parametrize("error", [MemoryError(), Retry("away")])
def test_what_is_nobodys_fault_is_passed_on(error: Exception) -> None:
    """No memory, and a world that is not ready, are no reason to refuse a record."""

    class Away(Words):
        def score(self, inputs: Sequence[Any]) -> list[Verdict]:
            raise error

    with pytest.raises(type(error)):
        scored_each([Subject(EMBEDDING, "a", [Away()])])


def test_unknown_scorers_are_refused() -> None:
    """With the names that there are."""
    with pytest.raises(UnknownScorer, match="scorers: expected some of first, words, got 'nobody'"):
        chosen({"first": First(), "words": Words()}, ["words", "nobody"])


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (record(scorers=("nobody",)), "expected some of first, words, got 'nobody'"),
        (record(weights_digest="d2"), "understands vectors of the model with weights d1"),
        (record(text=None), "scorer words reads the text, and this embedding carries none"),
        (Record(b"!"), "value: expected to start with"),
        (Record(None, None), "key: expected a key on a record without a value"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_any_scorer_runs(refused: Record, message: str) -> None:
    """With the reason, and its neighbours are scored."""
    first = First()
    reason, fine = results(stage(first, Words()), refused, record())
    assert isinstance(reason, Reject)
    assert message in str(reason)
    assert len(scores(fine)) == 2
    assert first.shapes == [(1, 2)]


def test_a_deletion_deletes_every_score_of_its_key() -> None:
    """A tombstone for each scorer there is, and for what lies in quarantine."""
    [result] = results(stage(First(), Words()), Record(None))
    topics = ("scores", "quarantine")
    assert result == [Outgoing(topic, key, None, []) for key in (b"key:first", b"key:words") for topic in topics]


def test_a_scorers_error_is_named_without_its_words() -> None:
    """The message may hold the text, so it stays out."""
    reason = stage().failed(ValueError("Hello."))
    assert str(reason) == "the scorer raised ValueError"
    assert not isinstance(reason, InvalidField)
