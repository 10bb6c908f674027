"""What comes of an embedded sentence: the embedding to publish, the reply to whoever waits for it, or both."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.codec import Codec
from schemas.errors import Reject
from schemas.headers import RequestHeaders, Results, event_headers
from schemas.packing import pack
from schemas.records import Embedding, Encoding, Score, Sentence, Source, Timings
from streams.embedding.chunks import Window, chunk_key
from streams.embedding.embedder import Identity, Tokens, Vectors
from streams.embedding.identity import embedding_id, manner
from streams.embedding.model import Model
from streams.embedding.replies import Replies
from streams.records import Outgoing, Record
from streams.scoring.scorer import Scorer
from streams.scoring.verdicts import Judge, Subject, scored_each

_NOT_YET = Tokens(())
#: The fields of an Embedding that differ between those of one worker, in their order.
_VARYING = (
    "id", "sentence_id", "scorers", "metadata", "text", "query", "dimensions", "token_count", "truncated", "cached",
    "source", "embedded_at", "encoding", "packed", "scale", "chunk", "chunks",
    "vector",
)  # fmt: skip
_SOURCE, _EMBEDDED_AT = _VARYING.index("source"), _VARYING.index("embedded_at")


@dataclass(slots=True, eq=False)
class EmbedWork:
    """A sentence on its way to the model, and where its time went: moments and durations in monotonic seconds."""

    record: Record
    request: RequestHeaders
    sentence: Sentence
    #: Who embeds it: what was served when it was prepared.
    model: Model
    #: Values of the vector it wants.
    dimensions: int
    #: What its reply is to have scores of; nothing where nobody waits for one.
    scorers: Sequence[Scorer] = ()
    tokens: Tokens = _NOT_YET
    #: Of a text that is too long and wants to be embedded in windows: these, and then their vectors, a row each.
    windows: Sequence[Window] = ()
    rows: Vectors | None = None
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
        return sum(len(window.tokens) for window in self.windows) or len(self.tokens)

    @property
    def read(self) -> Sequence[Tokens]:
        """What the model reads of it."""
        return [window.tokens for window in self.windows] or [self.tokens]

    @property
    def deadline(self) -> int | None:
        return self.request.deadline

    def timings(self) -> Timings:
        """The same as a reply tells it."""
        queue = 0.0 if self.started is None else self.started - self.ready
        return Timings(queue=_micros(queue), tokenise=_micros(self.tokenising), embed=_micros(self.embedding))


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


class _Shared:
    """What the embeddings of one model have in common."""

    __slots__ = ("_identity", "_manners", "encode", "fixed")

    def __init__(self, codec: Codec, topic: str, identity: Identity) -> None:
        self._identity = identity
        self._manners: dict[tuple[int, Encoding], str] = {}
        self.fixed: dict[str, Any] = {
            "model": identity.name,
            "revision": identity.revision,
            "weights_digest": identity.digest,
            "precision": identity.precision,
        }
        self.encode = codec.template(Embedding, topic, self.fixed)

    def manner(self, dimensions: int, encoding: Encoding) -> str:
        """How a text is embedded in so many dimensions."""
        how = self._manners.get((dimensions, encoding))
        if how is None:
            how = self._manners[dimensions, encoding] = manner(self._identity, dimensions, encoding)
        return how


class EmbedResults:
    """Makes results of vectors, for one topic."""

    def __init__(self, codec: Codec, topic: str, replies: Replies, *, publish_text: bool) -> None:
        self._codec = codec
        self._topic = topic
        self._replies = replies
        self._publish_text = publish_text
        self._by_model: dict[str, _Shared] = {}  # by the model's key

    def _shared(self, model: Model) -> _Shared:
        found = self._by_model.get(model.key)
        if found is None:
            found = self._by_model[model.key] = _Shared(self._codec, self._topic, model.identity)
        return found

    def make(self, works: Sequence[EmbedWork], vectors: Sequence[Vectors | Reject]) -> list[list[Outgoing] | Reject]:
        """What to publish for each sentence, given its vector (of the dimensions it wants) or why it has none."""
        now = int(time.time() * 1000)
        fields = [
            vector if isinstance(vector, Reject) else self._fields(work, vector, now)
            for work, vector in zip(works, vectors, strict=True)
        ]
        # Only a caller who waits needs the record itself; the topic is content with its bytes.
        embeddings = {
            work: Embedding(**self._shared(work.model).fixed, **dict(zip(_VARYING, values, strict=True)))
            for work, values in zip(works, fields, strict=True)
            if work.request.reply_topic is not None and not isinstance(values, Reject)
        }
        scores = _scores(embeddings, self._replies.judge)
        return [
            values if isinstance(values, Reject) else self._outputs(work, values, embeddings, scores)
            for work, values in zip(works, fields, strict=True)
        ]

    def _fields(self, work: EmbedWork, vector: Vectors, now: int, chunk: int | None = None) -> Sequence[Any]:
        """The values of an embedding's fields that are not the same for all, in their order."""
        sentence, record, dimensions = work.sentence, work.record, work.dimensions
        whole, packed, scale = pack(vector, sentence.encoding)
        text = sentence.text if chunk is None else work.windows[chunk].text
        read = work.read if chunk is None else [work.windows[chunk].tokens]
        how = self._shared(work.model).manner(dimensions, sentence.encoding)
        if work.windows:
            how = f"{how}\0chunk {'mean' if chunk is None else chunk}"
        return (
            embedding_id(sentence.id, text, how),
            sentence.id,
            sentence.scorers,
            sentence.metadata,
            text if self._publish_text else None,
            sentence.query if self._publish_text else None,
            dimensions,
            sum(map(len, read)),
            any(tokens.truncated for tokens in read),
            work.started is None,  # from the cache
            work.request.source or Source(record.topic, record.partition, record.offset, record.timestamp),
            now,
            sentence.encoding,
            packed,
            scale,
            chunk,
            len(work.windows) or 1,
            whole,
        )

    def _outputs(
        self,
        work: EmbedWork,
        values: Sequence[Any],
        embeddings: Mapping[EmbedWork, Embedding],
        scores: Mapping[EmbedWork, list[Score] | Reject],
    ) -> list[Outgoing] | Reject:
        found = scores.get(work, ())
        if isinstance(found, Reject):
            return found
        outputs = []
        try:
            if work.request.results is Results.PUBLISH:
                outputs.append(self._published(work, values))
                outputs += self._chunks(work, values[_EMBEDDED_AT])
            if work in embeddings:
                outputs.append(self._replies.answer(work.request, embeddings[work], found, work.timings(), work.model))
        except Reject as error:
            return error
        return outputs

    def _chunks(self, work: EmbedWork, now: int) -> Iterable[Outgoing]:
        """The embeddings of a long text's windows."""
        for chunk, row in enumerate(() if work.rows is None else work.rows):
            whole = self._published(work, self._fields(work, row, now, chunk))
            assert whole.key is not None
            yield whole._replace(key=chunk_key(whole.key, chunk))

    def _published(self, work: EmbedWork, values: Sequence[Any]) -> Outgoing:
        key, source = work.record.key, values[_SOURCE]
        headers = event_headers(Embedding.__name__, values[0], source.topic, values[_EMBEDDED_AT], work.request)
        value = self._shared(work.model).encode(values)
        return Outgoing(self._topic, work.sentence.id.encode() if key is None else key, value, headers)


def _scores(embeddings: Mapping[EmbedWork, Embedding], judge: Judge) -> Mapping[EmbedWork, list[Score] | Reject]:
    """Scores of those whose reply is to have some: one call of a scorer for all of them."""
    subjects = {
        work: Subject(embedding, work.sentence.text, work.scorers, work.sentence.query)
        for work, embedding in embeddings.items()
        if work.scorers
    }
    return dict(zip(subjects, scored_each(list(subjects.values()), judge), strict=True))
