"""The embedding stage: sentences in, embeddings out, and a reply to each that asks for one."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from schemas.codec import Codec
from schemas.errors import EmbeddingFailed, Expired, InvalidField, Reject, TextTooLong
from schemas.headers import RequestHeaders, Results, carried, parse_request
from schemas.records import Overflow, Sentence
from streams.cache import VectorCache
from streams.embedding.chunks import MAX_CHUNKS, chunk_key, embedded, pooled, windows
from streams.embedding.embedder import Vectors, shorten
from streams.embedding.identity import content_key
from streams.embedding.model import Model, Models
from streams.embedding.replies import Replies
from streams.embedding.results import EmbedResults, EmbedWork
from streams.embedding.shadow import Shadow
from streams.records import Outgoing, Record


class EmbedStage:
    """Embeds micro-batches of sentences; equal texts in a batch are embedded once, those in the cache not at all.

    Each sentence is tokenised and embedded, cached and published by the one model that it got when it was prepared,
    whatever is served by then.
    """

    name = "embed"

    def __init__(
        self,
        models: Models,
        codec: Codec,
        topic: str,
        *,
        publish_text: bool,
        replies: Replies | None = None,
        cache: VectorCache | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        """`topic` takes the embeddings; `publish_text` says whether they carry their text.

        Without `replies` no request may ask for one; without `shadow` nothing is embedded for nobody to see.
        """
        self._models = models
        self.concurrency = models.default.embedder.concurrency
        self._codec = codec
        self._topic = topic
        self._replies = replies or Replies(codec, (), models)
        self._results = EmbedResults(codec, topic, self._replies, publish_text=publish_text)
        self._cache = cache
        self._shadow = shadow

    # -- prepare ----------------------------------------------------------------------------------------------

    def prepare(self, records: Sequence[Record]) -> list[EmbedWork | list[Outgoing] | Reject]:
        """Decodes, validates and tokenises. What needs no model is finished here: deletions, and what the cache has."""
        prepared = [self._decoded(record) for record in records]
        works = [each for each in prepared if isinstance(each, EmbedWork)]
        for model, group in _by_model(works):
            _tokenise(model, group)
        done: dict[EmbedWork, list[Outgoing] | Reject] = {work: _too_long(work) for work in works if _refuses(work)}
        done |= {work: error for work in works if (error := _cut(work)) is not None}
        done |= self._remembered([work for work in works if work not in done and not work.windows])
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
        model = self._models.find(sentence.model, sentence.id)
        most = model.identity.dimensions
        dimensions = sentence.dimensions or most
        if dimensions > most:
            raise InvalidField(f"dimensions: expected null or 1 to {most}, got {dimensions}")
        scorers = self._replies.scorers(model, sentence) if request.reply_topic else ()
        return EmbedWork(record, request, sentence, model, dimensions, scorers)

    def _deletion(self, record: Record, request: RequestHeaders) -> list[Outgoing]:
        """Tombstones for the embedding of the record's key, and for those of all windows that its text may have had."""
        if record.key is None:
            raise InvalidField("key: expected a key on a record without a value (a deletion)")
        if request.results is Results.REPLY_ONLY:
            raise InvalidField(f"header results: expected {Results.PUBLISH} on a record without a value (a deletion)")
        keys, headers = [record.key, *(chunk_key(record.key, n) for n in range(MAX_CHUNKS))], carried(request)
        tombstones = [Outgoing(self._topic, key, None, headers) for key in keys]
        return [*tombstones, self._replies.answer(request, None)] if request.reply_topic else tombstones

    def _remembered(self, works: Sequence[EmbedWork]) -> dict[EmbedWork, list[Outgoing] | Reject]:
        """Results of those whose vector is in the cache."""
        if self._cache is None:
            return {}
        for work in works:
            work.key = content_key(work.sentence.text, work.model.key, work.dimensions)
        vectors = self._cache.get_many([work.key for work in works])
        found = {
            work: vector
            for work, vector in zip(works, vectors, strict=True)
            if vector is not None and vector.shape == (work.dimensions,)
        }
        return dict(zip(found, self._results.make(list(found), list(found.values())), strict=True))

    # -- run --------------------------------------------------------------------------------------------------

    def run(self, batch: Sequence[EmbedWork]) -> list[list[Outgoing] | Reject]:
        """Embeds a batch, what each model got of it by itself, and encodes its results."""
        found: dict[EmbedWork, Vectors | Reject] = {}
        for model, group in _by_model(batch):
            found |= self._embedded(model, group)
        if self._cache is not None:
            self._cache.put_many(
                {work.key: each for work, each in found.items() if not isinstance(each, Reject) and not work.windows}
            )
        if self._shadow is not None:
            self._watch(self._shadow, batch)
        return self._results.make(batch, [found[work] for work in batch])

    def _embedded(self, model: Model, group: Sequence[EmbedWork]) -> dict[EmbedWork, Vectors | Reject]:
        started = time.monotonic()
        short = [work for work in group if not work.windows]
        found = dict(zip(short, _embed(model, short), strict=True)) if short else {}
        found |= {work: _embed_windows(model, work) for work in group if work.windows}
        took = time.monotonic() - started
        for work in group:
            work.started, work.embedding = started, took
        return found

    def _watch(self, shadow: Shadow, batch: Sequence[EmbedWork]) -> None:
        """Gives to each shadow model what it is to embed as well."""
        texts: dict[Model, list[str]] = defaultdict(list)
        for work in batch:
            model = self._models.shadow(work.sentence.model, work.sentence.id)
            if model is not None:
                texts[model].append(work.sentence.text)
        for model, some in texts.items():
            shadow.give(model, some)

    def failed(self, error: Exception) -> Reject:
        """Names an exception of the model on one sentence."""
        return EmbeddingFailed(f"the model raised {type(error).__name__} on this text alone")


def _by_model(works: Sequence[EmbedWork]) -> Iterable[tuple[Model, Sequence[EmbedWork]]]:
    """The works of each model; nearly always there is one."""
    if not works:
        return ()
    first = works[0].model
    if all(work.model is first for work in works):
        return ((first, works),)
    groups: dict[Model, list[EmbedWork]] = defaultdict(list)
    for work in works:
        groups[work.model].append(work)
    return groups.items()


def _tokenise(model: Model, works: Sequence[EmbedWork]) -> None:
    started = time.monotonic()
    tokens = model.embedder.tokenise([work.sentence.text for work in works])
    ready = time.monotonic()
    for work, found in zip(works, tokens, strict=True):
        work.tokens, work.tokenising, work.ready = found, ready - started, ready


def _embed(model: Model, batch: Sequence[EmbedWork]) -> list[Vectors | Reject]:
    """The vector of each sentence as it wants it, or why it has none; one row for all equal texts."""
    unique = {work.tokens.ids: work.tokens for work in batch}
    vectors = model.embedder.embed(list(unique.values()))
    broken = set(np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist())
    row_of = {ids: row for row, ids in enumerate(unique)}
    rows, full = [row_of[work.tokens.ids] for work in batch], vectors.shape[1]
    return [
        EmbeddingFailed("the model's vector holds values that are not finite numbers")
        if row in broken
        else (vectors[row] if work.dimensions == full else _shortened(vectors[row], work.dimensions))
        for row, work in zip(rows, batch, strict=True)
    ]


def _embed_windows(model: Model, work: EmbedWork) -> Vectors | Reject:
    """The mean of the vectors of a long text's windows, which the work keeps."""
    try:
        rows = embedded(work.windows, model.embedder)
        work.rows = shorten(rows, work.dimensions)
        return shorten(pooled(rows, work.windows), work.dimensions)
    except Reject as error:
        return error


def _cut(work: EmbedWork) -> Reject | None:
    """Cuts a text that is too long into windows where it wants that; returns why it cannot be."""
    if not work.tokens.truncated or work.sentence.overflow is not Overflow.CHUNK:
        return None
    try:
        found = windows(work.sentence.text, work.model.embedder)
    except Reject as error:
        return error
    work.windows = found if len(found) > 1 else ()
    return None


def _too_long(work: EmbedWork) -> Reject:
    most = work.model.identity.max_tokens
    return TextTooLong(f"text: expected {most} tokens at most, and overflow says reject")


def _refuses(work: EmbedWork) -> bool:
    return work.tokens.truncated and work.sentence.overflow is Overflow.REJECT


def _shortened(row: Vectors, dimensions: int) -> Vectors | Reject:
    try:
        return shorten(row, dimensions)
    except Reject as error:
        return error
