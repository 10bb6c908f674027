"""The embedding stage: sentences in, embeddings out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.codec import Codec
from schemas.errors import EmbeddingFailed, Expired, InvalidField, Reject, TextTooLong, UnknownModel
from schemas.headers import RequestHeaders, carried, parse_request, result_headers
from schemas.records import Embedding, Overflow, Sentence, Source
from streams.embedding.embedder import Embedder, Tokens, Vectors, shorten
from streams.embedding.identity import content_key, embedding_id
from streams.records import Outgoing, Record


@dataclass(slots=True)
class EmbedWork:
    """A sentence that is ready for the model."""

    record: Record
    request: RequestHeaders
    sentence: Sentence
    tokens: Tokens

    @property
    def size(self) -> int:
        return len(self.tokens)

    @property
    def deadline(self) -> int | None:
        return self.request.deadline


class EmbedStage:
    """Embeds micro-batches of sentences; equal texts in a batch are embedded once."""

    name = "embed"

    def __init__(self, embedder: Embedder, codec: Codec, topic: str, *, publish_text: bool) -> None:
        """`topic` takes the embeddings; `publish_text` says whether they carry their text."""
        self._embedder = embedder
        self._identity = embedder.identity
        self.concurrency = embedder.concurrency
        self._codec = codec
        self._topic = topic
        self._publish_text = publish_text

    # -- prepare ----------------------------------------------------------------------------------------------

    def prepare(self, records: Sequence[Record]) -> list[EmbedWork | list[Outgoing] | Reject]:
        """Decodes, validates and tokenises; a tombstone deletes the embedding of its key."""
        decoded = [self._decoded(record) for record in records]
        texts = [found[1].text for found in decoded if isinstance(found, tuple)]
        tokens = iter(self._embedder.tokenise(texts))
        return [
            self._admitted(record, *found, next(tokens)) if isinstance(found, tuple) else found
            for record, found in zip(records, decoded, strict=True)
        ]

    def _decoded(self, record: Record) -> tuple[RequestHeaders, Sentence] | list[Outgoing] | Reject:
        try:
            request = parse_request(record.headers)
            if record.value is None:
                return [self._tombstone(record, request)]
            if request.deadline is not None and request.deadline < time.time() * 1000:
                raise Expired("deadline: expected one that has not passed when the record is read")
            sentence = self._codec.decode(Sentence, record.value, record.headers)
            if sentence.model not in {None, self._identity.name}:
                raise UnknownModel(f"model: expected null or {self._identity.name}, got {sentence.model!r}")
            if sentence.dimensions is not None and sentence.dimensions > self._identity.dimensions:
                raise InvalidField(
                    f"dimensions: expected null or 1 to {self._identity.dimensions}, got {sentence.dimensions}"
                )
        except Reject as error:
            return error
        return request, sentence

    def _tombstone(self, record: Record, request: RequestHeaders) -> Outgoing:
        if record.key is None:
            raise InvalidField("key: expected a key on a record without a value (a deletion)")
        return Outgoing(self._topic, record.key, None, carried(request))

    def _admitted(
        self, record: Record, request: RequestHeaders, sentence: Sentence, tokens: Tokens
    ) -> EmbedWork | Reject:
        if tokens.truncated and sentence.overflow is Overflow.REJECT:
            return TextTooLong(f"text: expected {self._identity.max_tokens} tokens at most, and overflow says reject")
        return EmbedWork(record, request, sentence, tokens)

    # -- run --------------------------------------------------------------------------------------------------

    def run(self, batch: Sequence[EmbedWork]) -> list[list[Outgoing] | Reject]:
        """Embeds a batch and encodes its results."""
        rows = {ids: row for row, ids in enumerate(dict.fromkeys(work.tokens.ids for work in batch))}
        unique = {work.tokens.ids: work.tokens for work in batch}
        vectors = self._embedder.embed([unique[ids] for ids in rows])
        broken = set(np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist())
        now = int(time.time() * 1000)
        results: list[list[Outgoing] | Reject] = []
        for work in batch:
            row = rows[work.tokens.ids]
            if row in broken:
                results.append(EmbeddingFailed("the model's vector holds values that are not finite numbers"))
                continue
            try:
                results.append([self._output(work, vectors[row], now)])
            except Reject as error:
                results.append(error)
        return results

    def _output(self, work: EmbedWork, vector: Vectors, now: int) -> Outgoing:
        identity, sentence, record = self._identity, work.sentence, work.record
        dimensions = sentence.dimensions or identity.dimensions
        embedding = Embedding(
            id=embedding_id(sentence.id, content_key(sentence.text, identity, dimensions)),
            sentence_id=sentence.id,
            scorers=sentence.scorers,
            metadata=sentence.metadata,
            text=sentence.text if self._publish_text else None,
            model=identity.name,
            revision=identity.revision,
            weights_digest=identity.digest,
            dimensions=dimensions,
            token_count=len(work.tokens),
            truncated=work.tokens.truncated,
            precision=identity.precision,
            source=work.request.source or Source(record.topic, record.partition, record.offset, record.timestamp),
            embedded_at=now,
            vector=shorten(vector, dimensions),
        )
        key = sentence.id.encode() if record.key is None else record.key
        value = self._codec.encode(embedding, self._topic)
        return Outgoing(self._topic, key, value, result_headers(embedding, work.request))

    def failed(self, error: Exception) -> Reject:
        """Names an exception of the model on one sentence."""
        return EmbeddingFailed(f"the model raised {type(error).__name__} on this text alone")
