"""The embedding stage: sentences in, embeddings out, and a reply to each that asks for one."""

import time
from collections.abc import Sequence

import numpy as np

from schemas.codec import Codec
from schemas.errors import EmbeddingFailed, Expired, InvalidField, Reject, TextTooLong, UnknownModel
from schemas.headers import RequestHeaders, Results, carried, parse_request
from schemas.records import Overflow, Sentence
from streams.cache import VectorCache
from streams.embedding.embedder import Embedder, Vectors, shorten
from streams.embedding.identity import content_key, identity_key
from streams.embedding.replies import Replies
from streams.embedding.results import EmbedResults, EmbedWork
from streams.records import Outgoing, Record


class EmbedStage:
    """Embeds micro-batches of sentences; equal texts in a batch are embedded once, those in the cache not at all."""

    name = "embed"

    def __init__(
        self,
        embedder: Embedder,
        codec: Codec,
        topic: str,
        *,
        publish_text: bool,
        replies: Replies | None = None,
        cache: VectorCache | None = None,
    ) -> None:
        """`topic` takes the embeddings; `publish_text` says whether they carry their text.

        Without `replies` no request may ask for one.
        """
        self._embedder = embedder
        self._identity = embedder.identity
        self._identity_key = identity_key(embedder.identity)
        self.concurrency = embedder.concurrency
        self._codec = codec
        self._topic = topic
        self._replies = replies or Replies(codec, (), embedder.identity, {})
        self._results = EmbedResults(codec, topic, embedder.identity, self._replies, publish_text=publish_text)
        self._cache = cache

    # -- prepare ----------------------------------------------------------------------------------------------

    def prepare(self, records: Sequence[Record]) -> list[EmbedWork | list[Outgoing] | Reject]:
        """Decodes, validates and tokenises. What needs no model is finished here: deletions, and what the cache has."""
        prepared = [self._decoded(record) for record in records]
        works = [each for each in prepared if isinstance(each, EmbedWork)]
        self._tokenise(works)
        done: dict[EmbedWork, list[Outgoing] | Reject] = {work: self._too_long() for work in works if _refuses(work)}
        done |= self._remembered([work for work in works if work not in done])
        return [done.get(each, each) if isinstance(each, EmbedWork) else each for each in prepared]

    def _decoded(self, record: Record) -> EmbedWork | list[Outgoing] | Reject:
        try:
            request = parse_request(record.headers)
            self._replies.admit(request)
            if record.value is None:
                return self._deletion(record, request)
            if request.deadline is not None and request.deadline < time.time() * 1000:
                raise Expired("deadline: expected one that has not passed when the record is read")
            sentence = self._codec.decode(Sentence, record.value, record.headers)
            return self._work(record, request, sentence)
        except Reject as error:
            return error

    def _work(self, record: Record, request: RequestHeaders, sentence: Sentence) -> EmbedWork:
        identity = self._identity
        if sentence.model not in {None, identity.name}:
            raise UnknownModel(f"model: expected null or {identity.name}, got {sentence.model!r}")
        dimensions = sentence.dimensions or identity.dimensions
        if dimensions > identity.dimensions:
            raise InvalidField(f"dimensions: expected null or 1 to {identity.dimensions}, got {dimensions}")
        scorers = self._replies.scorers(sentence) if request.reply_topic else ()
        return EmbedWork(record, request, sentence, dimensions, scorers)

    def _deletion(self, record: Record, request: RequestHeaders) -> list[Outgoing]:
        """A tombstone for the embedding of the record's key."""
        if record.key is None:
            raise InvalidField("key: expected a key on a record without a value (a deletion)")
        if request.results is Results.REPLY_ONLY:
            raise InvalidField(f"header results: expected {Results.PUBLISH} on a record without a value (a deletion)")
        tombstone = Outgoing(self._topic, record.key, None, carried(request))
        return [tombstone, self._replies.answer(request, None)] if request.reply_topic else [tombstone]

    def _tokenise(self, works: Sequence[EmbedWork]) -> None:
        started = time.monotonic()
        tokens = self._embedder.tokenise([work.sentence.text for work in works])
        ready = time.monotonic()
        for work, found in zip(works, tokens, strict=True):
            work.tokens, work.tokenising, work.ready = found, ready - started, ready

    def _too_long(self) -> Reject:
        return TextTooLong(f"text: expected {self._identity.max_tokens} tokens at most, and overflow says reject")

    def _remembered(self, works: Sequence[EmbedWork]) -> dict[EmbedWork, list[Outgoing] | Reject]:
        """Results of those whose vector is in the cache."""
        if self._cache is None:
            return {}
        for work in works:
            work.key = content_key(work.sentence.text, self._identity_key, work.dimensions)
        vectors = self._cache.get_many([work.key for work in works])
        found = {
            work: vector
            for work, vector in zip(works, vectors, strict=True)
            if vector is not None and vector.shape == (work.dimensions,)
        }
        return dict(zip(found, self._results.make(list(found), list(found.values())), strict=True))

    # -- run --------------------------------------------------------------------------------------------------

    def run(self, batch: Sequence[EmbedWork]) -> list[list[Outgoing] | Reject]:
        """Embeds a batch and encodes its results."""
        started = time.monotonic()
        vectors = self._embed(batch)
        took = time.monotonic() - started
        for work in batch:
            work.started, work.embedding = started, took
        if self._cache is not None:
            good = zip(batch, vectors, strict=True)
            self._cache.put_many({work.key: vector for work, vector in good if not isinstance(vector, Reject)})
        return self._results.make(batch, vectors)

    def _embed(self, batch: Sequence[EmbedWork]) -> list[Vectors | Reject]:
        """The vector of each sentence as it wants it, or why it has none; one row for all equal texts."""
        unique = {work.tokens.ids: work.tokens for work in batch}
        vectors = self._embedder.embed(list(unique.values()))
        broken = set(np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist())
        row_of = {ids: row for row, ids in enumerate(unique)}
        rows, full = [row_of[work.tokens.ids] for work in batch], vectors.shape[1]
        return [
            EmbeddingFailed("the model's vector holds values that are not finite numbers")
            if row in broken
            else (vectors[row] if work.dimensions == full else _shortened(vectors[row], work.dimensions))
            for row, work in zip(rows, batch, strict=True)
        ]

    def failed(self, error: Exception) -> Reject:
        """Names an exception of the model on one sentence."""
        return EmbeddingFailed(f"the model raised {type(error).__name__} on this text alone")


def _refuses(work: EmbedWork) -> bool:
    return work.tokens.truncated and work.sentence.overflow is Overflow.REJECT


def _shortened(row: Vectors, dimensions: int) -> Vectors | Reject:
    try:
        return shorten(row, dimensions)
    except Reject as error:
        return error
