"""The embedding stage without a broker: what becomes of each request, with and without a caller who waits."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schemas.codec import Codec
from schemas.errors import (
    EmbeddingFailed,
    Expired,
    InvalidField,
    RegistryUnavailable,
    Reject,
    ScoringFailed,
    TextTooLong,
    UnknownModel,
    UnknownScorer,
)
from schemas.headers import source_headers
from schemas.packing import pack
from schemas.records import Encoding, Overflow, Source, Timings
from schemas.testing import FakeRegistry
from streams.embedding.chunks import MAX_CHUNKS
from streams.embedding.embedder import Tokens, Vectors, shorten
from streams.embedding.identity import content_key, identity_key
from streams.embedding.model import Model, OneModel
from streams.embedding.replies import Replies
from streams.embedding.results import EmbedWork
from streams.embedding.stage import EmbedStage
from streams.records import Outgoing
from streams.scoring.scorer import Needs, Scorer, Verdict
from streams.scoring.similarity import SimilarityScorer
from streams.testing import DeterministicEmbedder
from tests.unit.streams.embedding.examples import ASKING, CODEC, TRACE, Request, asked, embedding_in, reply_in

IDENTITY = DeterministicEmbedder.identity
MODEL = DeterministicEmbedder()
LABELS = {"sea": ["The tide is out."], "land": ["The field is dry."]}


class Counting(DeterministicEmbedder):
    """Remembers the size of each batch it was given."""

    def __init__(self, **poison: Any) -> None:
        super().__init__(poison)
        self.batches: list[int] = []

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        self.batches.append(len(batch))
        return super().embed(batch)


class Cache(dict[str, Vectors]):
    """A cache that is a dict, and remembers how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Sequence[str]] = []
        self.given: list[Mapping[str, Vectors]] = []

    def get_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        self.asked.append(keys)
        return [self.get(key) for key in keys]

    def put_many(self, vectors: Mapping[str, Vectors]) -> None:
        self.given.append(vectors)
        self.update(vectors)

    async def find_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        raise AssertionError("that is for an event loop")

    def remember(self, vectors: Mapping[str, Vectors]) -> None:
        raise AssertionError("that is for an event loop")

    def close(self) -> None:
        """There is nothing to end."""


class Length:
    """Scores a text by its length; one with `bad` in it fails the batch."""

    name, version, model = "length", "1", None
    needs: Needs = "text"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def score(self, inputs: Sequence[Any]) -> list[Verdict]:
        self.calls.append(len(inputs))
        if any("bad" in text for text in inputs):
            raise ValueError("this one")
        return [Verdict("long", float(len(text)), {"long": float(len(text))}) for text in inputs]


def stage(
    model: DeterministicEmbedder = MODEL, *, codec: Codec = CODEC, publish_text: bool = True, **more: Any
) -> EmbedStage:
    """A stage that answers on the topic `replies`; `more` are its scorers and its cache."""
    models = OneModel(Model(model, more.get("scorers", {})))
    replies = Replies(codec, {"replies"}, models)
    return EmbedStage(models, codec, "embeddings", publish_text=publish_text, replies=replies, cache=more.get("cache"))


def results(on: EmbedStage, *requests: Request) -> list[list[Outgoing] | Reject]:
    """What the stage makes of these requests, taken as one batch."""
    prepared = on.prepare(requests)
    works = [each for each in prepared if isinstance(each, EmbedWork)]
    done = dict(zip(works, on.run(works), strict=True)) if works else {}
    return [done[each] if isinstance(each, EmbedWork) else each for each in prepared]


def outputs(on: EmbedStage, request: Request) -> list[Outgoing]:
    """What is published for a request that is not refused."""
    [result] = results(on, request)
    assert isinstance(result, list)
    return result


def refusal(on: EmbedStage, request: Request) -> Reject:
    """Why a request is refused."""
    [result] = results(on, request)
    assert isinstance(result, Reject)
    return result


def vector_of(text: str) -> Vectors:
    """What the model makes of a text."""
    row: Vectors = MODEL.embed(MODEL.tokenise([text]))[0]
    return row


# -- embeddings -----------------------------------------------------------------------------------------------


def test_an_embedding_says_what_of_and_how_it_was_made() -> None:
    """Its key is the request's, and it names sentence, model, tokens and where it was read."""
    [out] = outputs(stage(), asked(metadata={"a": "1"}, scorers=("topic",)))
    found = embedding_in(out)
    assert (out.topic, out.key, out.partition, out.reply) == ("embeddings", b"key", None, False)
    assert (found.sentence_id, found.text, found.metadata) == ("s-1", "Hello, world.", {"a": "1"})
    assert (found.scorers, found.token_count, found.truncated, found.cached) == (("topic",), 2, False, False)
    assert (found.model, found.weights_digest, found.dimensions) == ("deterministic", IDENTITY.digest, 384)
    assert found.source == Source("requests", 2, 17, 1_700_000_000_000)
    np.testing.assert_array_equal(found.vector, vector_of("Hello, world."))


def test_a_record_without_a_key_is_answered_under_its_id() -> None:
    """A compacted topic takes no record without a key."""
    [out] = outputs(stage(), asked(key=None))
    assert out.key == b"s-1"


def test_a_text_may_be_withheld() -> None:
    """A setting keeps texts out of what is published."""
    [out] = outputs(stage(publish_text=False), asked())
    assert embedding_in(out).text is None


def test_a_vector_is_as_long_as_it_is_wanted() -> None:
    """The first values, of unit length again."""
    [out] = outputs(stage(), asked(dimensions=50))
    np.testing.assert_array_equal(embedding_in(out).vector, shorten(vector_of("Hello, world."), 50))


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.BINARY])
def test_a_vector_is_written_as_it_is_wanted(encoding: Encoding) -> None:
    """In bytes, of the dimensions that are wanted, under an id of its own; the cache keeps the vector itself."""
    cache = Cache()
    on = stage(cache=cache)
    [out], [whole] = outputs(on, asked(dimensions=50, encoding=encoding)), outputs(on, asked(dimensions=50))
    found, wanted = embedding_in(out), shorten(vector_of("Hello, world."), 50)
    assert (found.encoding, found.vector.size, found.dimensions) == (encoding, 0, 50)
    assert (found.packed, found.scale) == pack(wanted, encoding)[1:]
    assert found.id != embedding_in(whole).id
    assert embedding_in(whole).cached
    np.testing.assert_array_equal(embedding_in(whole).vector, wanted)


def test_scorers_read_a_smaller_vector_as_subscribers_do() -> None:
    """The score of a reply is of the vector that it carries: that of int8 is all but the score of float32."""
    on = stage(scorers={"topic": SimilarityScorer("topic", LABELS, MODEL)})
    scores = []
    for encoding in Encoding:
        out = outputs(on, asked(*ASKING, scorers=("topic",), encoding=encoding))[-1]
        reply = reply_in(out)
        assert reply.embedding is not None
        assert reply.embedding.encoding is encoding
        scores.append(reply.scores[0].score)
    assert scores[1] == pytest.approx(scores[0], abs=1e-2)
    assert len(set(scores)) == 3


def test_equal_texts_of_a_batch_are_embedded_once() -> None:
    """Each gets its own result of the one row, also where the sizes they want differ."""
    model = Counting()
    found = results(stage(model), asked(id="a"), asked(id="b", dimensions=9), asked(id="c", text="Another."))
    assert model.batches == [2]
    assert [embedding_in(each[0]).dimensions for each in found if isinstance(each, list)] == [384, 9, 384]


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        (Request(b"!"), Reject, "value: expected to start with"),
        (asked(model="other"), UnknownModel, "model: expected null or deterministic, got 'other'"),
        (asked(dimensions=385), InvalidField, "dimensions: expected null or 1 to 384, got 385"),
        (asked(text="word " * 300, overflow=Overflow.REJECT), TextTooLong, "text: expected 256 tokens at most"),
        (asked(("deadline", b"1")), Expired, "deadline: expected one that has not passed"),
        (asked(("deadline", b"soon")), InvalidField, "header deadline"),
        (asked(("reply-topic", b"requests")), InvalidField, "requests is not a topic that replies may go to"),
        (asked(("kafka_replyTopic", b"elsewhere")), InvalidField, "elsewhere is not a topic that replies may go to"),
        (asked(*ASKING, scorers=("nobody",)), UnknownScorer, "scorers: expected some of length, got 'nobody'"),
        (Request(None, key=None), InvalidField, "key: expected a key on a record without a value"),
        (Request(None, ASKING), InvalidField, "results: expected publish on a record without a value"),
    ],
)
def test_what_cannot_be_embedded_is_refused_before_the_model_runs(
    request_: Request, kind: type[Reject], message: str
) -> None:
    """With the reason, and its neighbours are embedded."""
    model = Counting()
    refused, fine = results(stage(model, scorers={"length": Length()}), request_, asked())
    assert isinstance(refused, kind)
    assert message in str(refused)
    assert isinstance(fine, list)
    assert model.batches == [1]


def test_a_row_that_is_not_finite_is_refused_alone() -> None:
    """NaN from the model costs that text its answer and nobody else theirs."""
    model = Counting(spoilt=lambda row: np.full_like(row, np.nan))
    spoilt, fine = results(stage(model), asked(text="spoilt"), asked(text="fine"))
    assert isinstance(spoilt, EmbeddingFailed)
    assert isinstance(fine, list)


def test_a_vector_that_cannot_be_shortened_is_refused_alone() -> None:
    """Where the values that are wanted are all zero there is no direction left."""
    model = Counting(late=lambda row: np.eye(384, dtype=np.float32)[383])
    spoilt, fine = results(stage(model), asked(text="late", dimensions=3), asked(text="fine", dimensions=3))
    assert isinstance(spoilt, EmbeddingFailed)
    assert isinstance(fine, list)


def test_a_deletion_passes_through() -> None:
    """A record without a value is a tombstone for the embedding of its key, and carries headers on.

    So it is for the windows that its text may have had: nobody here knows how many there were.
    """
    out = outputs(stage(), Request(None, [("x", b"1")]))
    keys = [b"key", *(b"key#%d" % n for n in range(MAX_CHUNKS))]
    assert out == [Outgoing("embeddings", key, None, [("x", b"1")]) for key in keys]


# -- long texts -----------------------------------------------------------------------------------------------

#: 600 tokens, in sentences of six.
LONG = " ".join(f"The {n} waves broke over it." for n in range(100))


def test_a_long_text_is_embedded_in_windows_where_it_wants_that() -> None:
    """The mean under the request's key, each window under a key of its own, all with ids that a repeat has again."""
    on = stage(cache=Cache())
    first, again = (
        outputs(on, asked(text=LONG, overflow=Overflow.CHUNK)),
        outputs(on, asked(text=LONG, overflow=Overflow.CHUNK)),
    )
    whole, *parts = map(embedding_in, first)
    assert [out.key for out in first] == [b"key", *(b"key#%d" % n for n in range(len(parts)))]
    assert (whole.chunk, whole.text, whole.truncated) == (None, LONG, False)
    assert [part.chunk for part in parts] == list(range(len(parts)))
    assert {made.chunks for made in (whole, *parts)} == {len(parts)} == {3}
    assert {made.sentence_id for made in (whole, *parts)} == {"s-1"}
    assert whole.token_count == sum(part.token_count for part in parts) > 600
    for part in parts:
        assert part.text is not None
        np.testing.assert_array_equal(part.vector, vector_of(part.text))
    mean = sum(part.token_count * part.vector for part in parts)
    np.testing.assert_allclose(whole.vector, mean / np.linalg.norm(mean), atol=1e-6)
    ids = [embedding_in(out).id for out in first]
    assert len(set(ids)) == len(ids)
    assert [embedding_in(out).id for out in again] == ids


def test_windows_are_as_small_as_they_are_wanted() -> None:
    """Dimensions and encoding hold for the mean and for each window."""
    for out in outputs(stage(), asked(text=LONG, overflow=Overflow.CHUNK, dimensions=50, encoding=Encoding.INT8)):
        found = embedding_in(out)
        assert (found.dimensions, found.encoding, len(found.packed)) == (50, Encoding.INT8, 50)


def test_the_mean_of_windows_is_no_vector_of_the_text_cut_off() -> None:
    """Neither is found in the cache for the other, and they are two results."""
    on = stage(cache=Cache())
    [before] = outputs(on, asked(text=LONG))
    whole = embedding_in(outputs(on, asked(text=LONG, overflow=Overflow.CHUNK))[0])
    [after] = outputs(on, asked(text=LONG))
    assert not whole.cached
    assert embedding_in(before).truncated
    np.testing.assert_array_equal(embedding_in(after).vector, embedding_in(before).vector)
    assert abs(float(whole.vector @ embedding_in(after).vector)) < 0.9
    assert whole.id != embedding_in(after).id == embedding_in(before).id


def test_a_caller_gets_the_mean() -> None:
    """A reply has one embedding; windows are for the topic."""
    [out] = outputs(stage(), asked(*ASKING, text=LONG, overflow=Overflow.CHUNK))
    found = reply_in(out).embedding
    assert found is not None
    assert (found.chunk, found.chunks) == (None, 3)


def test_a_text_that_fits_is_not_cut_into_windows() -> None:
    """`chunk` is for texts that are too long: any other is embedded, and cached, as ever."""
    on = stage(cache=Cache())
    [plain], [chunked] = outputs(on, asked()), outputs(on, asked(overflow=Overflow.CHUNK))
    assert chunked.key == b"key"
    assert embedding_in(chunked).cached
    assert embedding_in(chunked).id == embedding_in(plain).id


def test_a_text_of_too_many_windows_is_refused() -> None:
    """A deletion could not name them all."""
    text = "Nine words that are a sentence, over and over. " * 1000
    assert isinstance(refusal(stage(), asked(text=text, overflow=Overflow.CHUNK)), TextTooLong)


def test_a_window_that_the_model_fails_on_fails_the_text() -> None:
    """Half a text's vectors would be a wrong mean."""
    broken = stage(DeterministicEmbedder({"poison": lambda row: row * np.float32("nan")}))
    why = refusal(broken, asked(text=f"{LONG} One poison more.", overflow=Overflow.CHUNK))
    assert isinstance(why, EmbeddingFailed)


def test_an_error_of_the_model_is_named_without_its_words() -> None:
    """The message may hold the text, so it stays out."""
    assert str(stage().failed(ValueError("Hello, world."))) == "the model raised ValueError on this text alone"


# -- replies --------------------------------------------------------------------------------------------------


def test_a_caller_gets_one_reply_and_nobody_else_anything() -> None:
    """A reply-only request is answered on the very partition it names, with its correlation id in three places."""
    [out] = outputs(stage(), asked(*ASKING, ("traceparent", TRACE), ("x", b"1")))
    assert (out.topic, out.partition, out.key, out.reply) == ("replies", 3, b"c-1", True)
    headers = dict(out.headers)
    assert headers["correlation-id"] == headers["kafka_correlationId"] == b"c-1"
    assert (headers["content-type"], headers["x"]) == (b"application/avro", b"1")
    assert (headers["traceparent"] or b"")[:36] == TRACE[:36]
    reply = reply_in(out)
    assert reply.correlation_id == b"c-1"
    assert (reply.scores, reply.error) == ((), None)
    assert reply.embedding is not None
    np.testing.assert_array_equal(reply.embedding.vector, vector_of("Hello, world."))


def test_a_reply_names_what_is_served() -> None:
    """The model in full, the scorers that can be asked for, and the identity that names cached vectors."""
    served = reply_in(outputs(stage(scorers={"length": Length()}), asked(*ASKING))[0]).served
    assert (served.model, served.revision, served.weights_digest) == ("deterministic", "1", IDENTITY.digest)
    assert (served.precision, served.dimensions, served.max_tokens) == ("float32", 384, 256)
    assert (served.identity, served.scorers) == (identity_key(IDENTITY), ("length",))


def test_a_caller_of_a_published_request_is_told_as_well() -> None:
    """Without `results: reply-only` subscribers get the embedding, and the caller the same one in a reply."""
    published, reply = outputs(stage(), asked(*ASKING[:3]))
    assert (published.topic, reply.topic) == ("embeddings", "replies")
    assert embedding_in(published) == reply_in(reply).embedding


def test_springs_headers_are_answered_too() -> None:
    """Spring's names mean the same as ours, binary correlation id included."""
    identity = bytes(range(16))
    headers = [("kafka_replyTopic", b"replies"), ("kafka_replyPartition", b"\0\0\0\x02")]
    _, out = outputs(stage(), asked(*headers, ("kafka_correlationId", identity)))
    assert (out.topic, out.partition, dict(out.headers)["kafka_correlationId"]) == ("replies", 2, identity)
    assert reply_in(out).correlation_id == identity


def test_without_a_partition_the_correlation_id_decides() -> None:
    """It is the reply's key; a caller who has neither reads all partitions."""
    _, out = outputs(stage(), asked(("reply-topic", b"replies"), ("correlation-id", b"c-9")))
    assert (out.partition, out.key) == (None, b"c-9")
    _, out = outputs(stage(), asked(("reply-topic", b"replies")))
    assert (out.partition, out.key, reply_in(out).correlation_id) == (None, None, b"")


def test_a_deletion_is_confirmed_to_whoever_waits() -> None:
    """The reply has neither an embedding nor an error."""
    *tombstones, out = outputs(stage(), Request(None, ASKING[:3]))
    assert ({each.value for each in tombstones}, out.partition) == ({None}, 3)
    reply = reply_in(out)
    assert (reply.embedding, reply.error, reply.timings) == (None, None, Timings())


def test_timings_tell_steps_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Microseconds of tokenising, of waiting for the model, and of the model's run."""
    clock = iter([10.0, 10.25, 11.0, 13.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    reply = reply_in(outputs(stage(), asked(*ASKING))[0])
    assert reply.timings == Timings(queue=750_000, tokenise=250_000, embed=2_000_000)


def test_a_replayed_request_is_answered_with_its_first_source() -> None:
    """A reply names the same source as what is published."""
    source = Source("first", 1, 2, 3)
    embedding = reply_in(outputs(stage(), asked(*ASKING, *source_headers(source)))[0]).embedding
    assert embedding is not None
    assert embedding.source == source


def test_without_replies_no_request_may_ask_for_one() -> None:
    """A stage outside a worker has nowhere to answer."""
    silent = EmbedStage(OneModel(Model(MODEL)), CODEC, "embeddings", publish_text=True)
    assert isinstance(refusal(silent, asked(*ASKING)), InvalidField)


def test_a_request_waits_for_the_registry_before_anything_is_made_of_it() -> None:
    """A worker that could not write a reply's schema takes no request for one, so a refusal can always be told."""
    registry = FakeRegistry()
    registry.away = True
    broken = Request(b"!", ASKING)
    with pytest.raises(RegistryUnavailable):
        stage(codec=Codec(registry)).prepare([broken])
    registry.away = False
    assert isinstance(refusal(stage(codec=Codec(registry)), broken), Reject)
    assert registry.subjects.keys() == {"replies-value"}


# -- scores ---------------------------------------------------------------------------------------------------


def scorers() -> dict[str, Scorer]:
    """One that reads vectors and one that reads texts."""
    return {"topic": SimilarityScorer("topic", LABELS, MODEL), "length": Length()}


def test_a_reply_has_the_scores_that_were_asked_for_in_their_order() -> None:
    """Each as the scorer says it of this very vector or text; nobody else gets them."""
    available = scorers()
    [out] = outputs(stage(scorers=available), asked(*ASKING, scorers=("length", "topic")))
    reply = reply_in(out)
    length, topic = reply.scores
    [verdict] = available["topic"].score(vector_of("Hello, world.")[None])
    assert (length.scorer, length.label, length.score) == ("length", "long", 13.0)
    assert (topic.scorer, topic.label, topic.score) == ("topic", verdict.label, verdict.score)
    assert reply.embedding is not None
    assert (topic.sentence_id, topic.source) == ("s-1", reply.embedding.source)


def test_a_text_is_scored_also_where_it_is_withheld() -> None:
    """The worker has the text, whatever is published."""
    on = stage(scorers=scorers(), publish_text=False)
    assert reply_in(outputs(on, asked(*ASKING, scorers=("length",)))[0]).scores[0].score == 13.0


def test_only_requests_that_wait_are_scored_here() -> None:
    """What is published is scored by the scorer's own workers; an unknown scorer is theirs to refuse."""
    length = Length()
    on = stage(scorers={"length": length})
    [[embedding], [_, reply]] = results(on, asked(scorers=("length", "other")), asked(*ASKING[:3]))
    assert length.calls == []
    assert embedding_in(embedding).scorers == ("length", "other")
    assert reply_in(reply).scores == ()


def test_a_scorer_is_called_once_for_all_of_a_batch() -> None:
    """One matrix product for all rows of a size, however they are mixed with others."""
    length = Length()
    wanted = [asked(*ASKING, id=f"s-{n}", text="x" * (n + 1), scorers=("length",)) for n in range(5)]
    found = results(stage(scorers={"length": length}), *wanted, asked())
    assert length.calls == [5]
    assert [reply_in(each[0]).scores[0].score for each in found[:5] if isinstance(each, list)] == [1, 2, 3, 4, 5]


def test_a_text_that_a_scorer_fails_on_is_refused_alone() -> None:
    """The model runs once; the others have their scores, and those who asked for none are not touched."""
    model = Counting()
    wanted = [asked(*ASKING, text=text, scorers=("length",)) for text in ("one", "bad", "three")]
    one, bad, three, plain = results(stage(model, scorers={"length": Length()}), *wanted, asked(text="bad"))
    assert isinstance(bad, ScoringFailed)
    assert str(bad) == "the scorer raised ValueError"
    assert all(isinstance(each, list) for each in (one, three, plain))
    assert model.batches == [3]


def test_a_scorer_of_another_model_is_a_refusal() -> None:
    """Vectors of this model mean nothing to it."""
    foreign = SimilarityScorer("topic", LABELS, MODEL)
    foreign.model = "0" * 64
    reason = refusal(stage(scorers={"topic": foreign}), asked(*ASKING, scorers=("topic",)))
    assert "understands vectors of the model with weights 000000000000" in str(reason)


# -- the cache ------------------------------------------------------------------------------------------------


def test_a_known_text_needs_no_model() -> None:
    """The second time it is finished before the model is asked: the same id and vector, and `cached` says so."""
    model, cache = Counting(), Cache()
    on = stage(model, cache=cache)
    [first] = outputs(on, asked())
    [again] = outputs(on, asked())
    assert model.batches == [1]
    one, other = embedding_in(first), embedding_in(again)
    assert (one.cached, other.cached) == (False, True)
    assert replace(other, cached=False, embedded_at=one.embedded_at) == one


def test_a_batch_asks_the_cache_once_and_tells_it_once() -> None:
    """One question for a chunk and one notice for a batch; only what was missing is told."""
    cache = Cache()
    on = stage(cache=cache)
    results(on, asked(text="a"), asked(text="b", dimensions=7))
    results(on, asked(text="a"), asked(text="b", dimensions=7), asked(text="b"), Request(b"!"))
    key = identity_key(IDENTITY)
    keys = [content_key("a", key, 384), content_key("b", key, 7), content_key("b", key, 384)]
    assert cache.asked == [keys[:2], keys]
    assert [list(each) for each in cache.given] == [keys[:2], keys[2:]]
    assert cache[keys[1]].shape == (7,)


def test_a_cached_answer_is_scored_and_replied_as_any_other() -> None:
    """Whoever waits gets scores too; neither queue nor model took any time."""
    cache = Cache()
    on = stage(cache=cache, scorers=scorers())
    [made] = outputs(on, asked(*ASKING, scorers=("topic",)))
    [prepared] = on.prepare([asked(*ASKING, scorers=("topic",))])
    assert isinstance(prepared, list)
    first, second = reply_in(made), reply_in(prepared[0])
    assert second.embedding is not None
    assert second.embedding.cached
    assert [replace(score, scored_at=0) for score in second.scores] == [
        replace(score, scored_at=0) for score in first.scores
    ]
    assert (second.timings.queue, second.timings.embed) == (0, 0)


def test_a_vector_of_the_wrong_size_is_not_believed() -> None:
    """Whatever lies under a key: a result has as many values as it says."""
    cache = Cache()
    cache[content_key("Hello, world.", identity_key(IDENTITY), 384)] = vector_of("x")[:5]
    [out] = outputs(stage(cache=cache), asked())
    np.testing.assert_array_equal(embedding_in(out).vector, vector_of("Hello, world."))


def test_what_is_refused_is_not_cached() -> None:
    """A vector that is none never gets into the cache, and an over-long text is refused though it is known."""
    cache, long = Cache(), "word " * 300
    on = stage(Counting(spoilt=lambda row: np.full_like(row, np.nan)), cache=cache)
    results(on, asked(text="spoilt"), asked(text=long))
    assert len(cache) == 1
    assert isinstance(refusal(on, asked(text=long, overflow=Overflow.REJECT)), TextTooLong)


def test_commands_decide_which_scorers_answer_a_request() -> None:
    """By model and sentence; the reply says which there are, and a scorer that is none any more is refused."""
    models, out = OneModel(Model(MODEL, scorers())), {"b"}

    def scorers_of(model: str, sentence_id: str, own: Mapping[str, Scorer]) -> Mapping[str, Scorer]:
        assert model == IDENTITY.digest
        return {"length": own["length"]} if sentence_id in out else own

    replies = Replies(CODEC, {"replies"}, models, scorers_of=scorers_of)
    on = EmbedStage(models, CODEC, "embeddings", publish_text=True, replies=replies)
    assert reply_in(outputs(on, asked(*ASKING, id="a", scorers=("topic",)))[0]).scores[0].scorer == "topic"
    assert isinstance(refusal(on, asked(*ASKING, id="b", scorers=("topic",))), UnknownScorer)
    out.add("")
    assert reply_in(outputs(on, asked(*ASKING, id="b", scorers=("length",)))[0]).served.scorers == ("length",)
