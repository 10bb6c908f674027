"""What comes of an embedded sentence: the embedding to publish, the reply to whoever waits for it, or both."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.codec import Codec
from schemas.errors import Reject
from schemas.headers import RequestHeaders, Results, result_headers
from schemas.records import Embedding, Score, Sentence, Source, Timings
from streams.embedding.embedder import Identity, Tokens, Vectors
from streams.embedding.identity import embedding_id
from streams.embedding.replies import Replies
from streams.records import Outgoing, Record
from streams.scoring.scorer import Scorer
from streams.scoring.verdicts import Judge, Subject, scored_each

_NOT_YET = Tokens(())


@dataclass(slots=True, eq=False)
class EmbedWork:
    """A sentence on its way to the model, and where its time went: moments and durations in monotonic seconds."""

    record: Record
    request: RequestHeaders
    sentence: Sentence
    #: Values of the vector it wants.
    dimensions: int
    #: What its reply is to have scores of; nothing where nobody waits for one.
    scorers: Sequence[Scorer] = ()
    tokens: Tokens = _NOT_YET
    #: What the cache calls its vector; empty without a cache.
    key: str = ""
    #: Seconds for the tokens, and the moment they were there.
    tokenising: float = 0.0
    ready: float = 0.0
    #: The moment the model took it, None where the cache had the vector, and the seconds it ran.
    started: float | None = None
    embedding: float = 0.0

    @property
    def size(self) -> int:
        return len(self.tokens)

    @property
    def deadline(self) -> int | None:
        return self.request.deadline

    def timings(self) -> Timings:
        """The same as a reply tells it."""
        queue = 0.0 if self.started is None else self.started - self.ready
        return Timings(queue=_micros(queue), tokenise=_micros(self.tokenising), embed=_micros(self.embedding))


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


class EmbedResults:
    """Makes results of vectors, for one model and one topic."""

    def __init__(self, codec: Codec, topic: str, identity: Identity, replies: Replies, *, publish_text: bool) -> None:
        self._codec = codec
        self._topic = topic
        self._identity = identity
        self._replies = replies
        self._publish_text = publish_text

    def make(self, works: Sequence[EmbedWork], vectors: Sequence[Vectors | Reject]) -> list[list[Outgoing] | Reject]:
        """What to publish for each sentence, given its vector (of the dimensions it wants) or why it has none."""
        now = int(time.time() * 1000)
        embeddings = [
            vector if isinstance(vector, Reject) else self._embedding(work, vector, now)
            for work, vector in zip(works, vectors, strict=True)
        ]
        scores = _scores(works, embeddings, self._replies.judge)
        return [
            self._outputs(work, embedding, scores.get(work, ()))
            for work, embedding in zip(works, embeddings, strict=True)
        ]

    def _embedding(self, work: EmbedWork, vector: Vectors, now: int) -> Embedding:
        identity, sentence, record = self._identity, work.sentence, work.record
        return Embedding(
            id=embedding_id(sentence.id, sentence.text, identity, work.dimensions),
            sentence_id=sentence.id,
            scorers=sentence.scorers,
            metadata=sentence.metadata,
            text=sentence.text if self._publish_text else None,
            query=sentence.query if self._publish_text else None,
            model=identity.name,
            revision=identity.revision,
            weights_digest=identity.digest,
            dimensions=work.dimensions,
            token_count=len(work.tokens),
            truncated=work.tokens.truncated,
            precision=identity.precision,
            cached=work.started is None,
            source=work.request.source or Source(record.topic, record.partition, record.offset, record.timestamp),
            embedded_at=now,
            vector=vector,
        )

    def _outputs(
        self, work: EmbedWork, embedding: Embedding | Reject, scores: Sequence[Score] | Reject
    ) -> list[Outgoing] | Reject:
        if isinstance(embedding, Reject):
            return embedding
        if isinstance(scores, Reject):
            return scores
        outputs = []
        try:
            if work.request.results is Results.PUBLISH:
                outputs.append(self._published(work, embedding))
            if work.request.reply_topic is not None:
                outputs.append(self._replies.answer(work.request, embedding, scores, work.timings()))
        except Reject as error:
            return error
        return outputs

    def _published(self, work: EmbedWork, embedding: Embedding) -> Outgoing:
        key = work.sentence.id.encode() if work.record.key is None else work.record.key
        value = self._codec.encode(embedding, self._topic)
        return Outgoing(self._topic, key, value, result_headers(embedding, work.request))


def _scores(
    works: Sequence[EmbedWork], embeddings: Sequence[Embedding | Reject], judge: Judge
) -> Mapping[EmbedWork, list[Score] | Reject]:
    """Scores of those whose reply is to have some: one call of a scorer for all of them."""
    subjects = {
        work: Subject(embedding, work.sentence.text, work.scorers, work.sentence.query)
        for work, embedding in zip(works, embeddings, strict=True)
        if work.scorers and isinstance(embedding, Embedding)
    }
    return dict(zip(subjects, scored_each(list(subjects.values()), judge), strict=True))
