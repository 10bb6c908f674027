"""The scoring stage: embeddings in, scores out, so history can be scored again without embedding it again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from schemas.codec import Codec
from schemas.errors import InvalidField, Reject
from schemas.headers import RequestHeaders, carried, parse_request, result_headers
from schemas.records import Embedding, Score
from streams.records import Outgoing, Record
from streams.scoring.guard import is_quarantined
from streams.scoring.scorer import Scorer
from streams.scoring.verdicts import TRUSTING, Judge, Subject, chosen, failure, scored

#: Separates the key of an embedding from the scorer's name in a score's key.
KEY_SEPARATOR = b":"


@dataclass(slots=True)
class ScoreWork:
    """An embedding and the scorers it is for."""

    record: Record
    request: RequestHeaders
    subject: Subject
    size: int = 1

    @property
    def deadline(self) -> int | None:
        return self.request.deadline


class ScoreStage:
    """Runs scorers over micro-batches of embeddings: one call of a scorer for all rows of a batch."""

    name = "score"
    concurrency = 1

    def __init__(
        self,
        scorers: Mapping[str, Scorer],
        codec: Codec,
        topic: str,
        quarantine: str,
        judge: Judge = TRUSTING,
        settles: Callable[[bytes], bool] = lambda _key: False,
        scorers_of: Callable[[Embedding], Mapping[str, Scorer]] | None = None,
    ) -> None:
        """`topic` takes the scores, and `quarantine` those that `judge` keeps from subscribers.

        An embedding that names no scorer gets every one of `scorers`. `settles(key)` says whether a score of this key
        lies in quarantine, so that the new one is to end that. `scorers_of` gives those of an embedding, where not all
        have the same, or raises Retry; else `scorers` are all there are.
        """
        self._scorers = scorers
        self._codec = codec
        self._topic = topic
        self._quarantine = quarantine
        self._judge = judge
        self._settles = settles
        self._scorers_of = scorers_of or (lambda _embedding: scorers)

    def prepare(self, records: Sequence[Record]) -> list[ScoreWork | list[Outgoing] | Reject]:
        """Decodes each embedding and looks up its scorers; a tombstone deletes every score of its key."""
        return [self._prepared(record) for record in records]

    def _prepared(self, record: Record) -> ScoreWork | list[Outgoing] | Reject:
        try:
            request = parse_request(record.headers)
            if record.value is None:
                return self._tombstones(record, request)
            embedding = self._codec.decode(Embedding, record.value, record.headers)
            known = self._scorers_of(embedding)
            scorers = chosen(known, embedding.scorers or _for_all(known, embedding))
            subject = Subject(embedding, embedding.text, scorers, embedding.query)
            subject.check()
        except Reject as error:
            return error
        return ScoreWork(record, request, subject)

    def _tombstones(self, record: Record, request: RequestHeaders) -> list[Outgoing]:
        if record.key is None:
            raise InvalidField("key: expected a key on a record without a value (a deletion)")
        headers, keys = carried(request), [score_key(record.key, name) for name in self._scorers]
        return [Outgoing(topic, key, None, headers) for key in keys for topic in (self._topic, self._quarantine)]

    def run(self, batch: Sequence[ScoreWork]) -> list[list[Outgoing] | Reject]:
        """Scores a batch."""
        scores = scored([work.subject for work in batch], self._judge)
        return [
            [output for score in found for output in self._outputs(work, score)]
            for work, found in zip(batch, scores, strict=True)
        ]

    def _outputs(self, work: ScoreWork, score: Score) -> list[Outgoing]:
        key = score_key(score.sentence_id.encode() if work.record.key is None else work.record.key, score.scorer)
        held, headers = is_quarantined(score), result_headers(score, work.request)
        topic = self._quarantine if held else self._topic
        outputs = [Outgoing(topic, key, self._codec.encode(score, topic), headers)]
        if not held and self._settles(key):
            outputs.append(Outgoing(self._quarantine, key, None, headers))
        return outputs

    def failed(self, error: Exception) -> Reject:
        """Names an exception of a scorer on one embedding."""
        return failure(error)


def _for_all(scorers: Mapping[str, Scorer], embedding: Embedding) -> list[str]:
    """The scorers of an embedding that names none: those of pairs only where it has a query."""
    return [name for name, scorer in scorers.items() if scorer.needs != "pair" or embedding.query is not None]


def score_key(key: bytes, scorer: str) -> bytes:
    """Returns the key of a score: that of its embedding and the scorer's name."""
    return key + KEY_SEPARATOR + scorer.encode()
