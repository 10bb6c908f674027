"""The scoring stage: embeddings in, scores out, so history can be scored again without embedding it again."""

import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.codec import Codec
from schemas.errors import InvalidField, Reject, ScoringFailed, UnknownScorer
from schemas.headers import RequestHeaders, carried, parse_request, result_headers
from schemas.records import Embedding, Score
from streams.records import Outgoing, Record
from streams.scoring.scorer import Scorer, Verdict, require_model

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "sentence-streams/score")
#: Separates the key of an embedding from the scorer's name in a score's key.
KEY_SEPARATOR = b":"


@dataclass(slots=True)
class ScoreWork:
    """An embedding and the scorers it is for."""

    record: Record
    request: RequestHeaders
    embedding: Embedding
    scorers: Sequence[Scorer]
    size: int = 1

    @property
    def deadline(self) -> int | None:
        return self.request.deadline


class ScoreStage:
    """Runs scorers over micro-batches of embeddings: one call of a scorer for all rows of a batch."""

    name = "score"
    concurrency = 1

    def __init__(self, scorers: Mapping[str, Scorer], codec: Codec, topic: str) -> None:
        """`topic` takes the scores; an embedding that names no scorer gets every one of `scorers`."""
        self._scorers = scorers
        self._codec = codec
        self._topic = topic

    def prepare(self, records: Sequence[Record]) -> list[ScoreWork | list[Outgoing] | Reject]:
        """Decodes each embedding and looks up its scorers; a tombstone deletes every score of its key."""
        return [self._prepared(record) for record in records]

    def _prepared(self, record: Record) -> ScoreWork | list[Outgoing] | Reject:
        try:
            request = parse_request(record.headers)
            if record.value is None:
                return self._tombstones(record, request)
            embedding = self._codec.decode(Embedding, record.value, record.headers)
            scorers = [self._scorer(name) for name in embedding.scorers or self._scorers]
            for scorer in scorers:
                require_model(scorer, embedding.weights_digest)
                if scorer.needs == "text" and embedding.text is None:
                    raise ScoringFailed(f"text: scorer {scorer.name} reads the text, and this embedding carries none")
        except Reject as error:
            return error
        return ScoreWork(record, request, embedding, scorers)

    def _scorer(self, name: str) -> Scorer:
        try:
            return self._scorers[name]
        except KeyError:
            raise UnknownScorer(f"scorers: expected some of {', '.join(self._scorers)}, got {name!r}") from None

    def _tombstones(self, record: Record, request: RequestHeaders) -> list[Outgoing]:
        if record.key is None:
            raise InvalidField("key: expected a key on a record without a value (a deletion)")
        headers = carried(request)
        return [Outgoing(self._topic, score_key(record.key, name), None, headers) for name in self._scorers]

    def run(self, batch: Sequence[ScoreWork]) -> list[list[Outgoing] | Reject]:
        """Scores a batch."""
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        for row, work in enumerate(batch):
            for scorer in work.scorers:
                groups[scorer.name, work.embedding.dimensions].append(row)
        outputs: list[list[Outgoing] | Reject] = [[] for _ in batch]
        for (name, _), rows in groups.items():
            scorer = self._scorers[name]
            for row, verdict in zip(rows, scorer.score(_inputs(scorer, [batch[row] for row in rows])), strict=True):
                output = outputs[row]
                if isinstance(output, list):
                    output.append(self._output(batch[row], scorer, verdict))
        return outputs

    def _output(self, work: ScoreWork, scorer: Scorer, verdict: Verdict) -> Outgoing:
        embedding = work.embedding
        score = Score(
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
        key = embedding.sentence_id.encode() if work.record.key is None else work.record.key
        return Outgoing(
            self._topic,
            score_key(key, scorer.name),
            self._codec.encode(score, self._topic),
            result_headers(score, work.request),
        )

    def failed(self, error: Exception) -> Reject:
        """Names an exception of a scorer on one embedding."""
        return ScoringFailed(f"the scorer raised {type(error).__name__}")


def score_key(key: bytes, scorer: str) -> bytes:
    """Returns the key of a score: that of its embedding and the scorer's name."""
    return key + KEY_SEPARATOR + scorer.encode()


def _inputs(scorer: Scorer, works: Sequence[ScoreWork]) -> Sequence[object]:
    if scorer.needs == "text":
        return [work.embedding.text for work in works]
    return np.stack([work.embedding.vector for work in works])  # type: ignore[return-value]
