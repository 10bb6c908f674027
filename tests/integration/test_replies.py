"""Requests that wait for a reply, on a real Kafka and at both delivery guarantees."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from schemas.records import Reply, Sentence
from streams.embedding.identity import identity_key
from streams.records import Headers
from streams.testing import DeterministicEmbedder, PublishedRecord
from tests.support.kafka import HasBrokers, create_topics, unique
from tests.support.stream import CODEC, Program, Stream, read, wait_until

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ONLY = ("results", b"reply-only")


@dataclass(frozen=True)
class Asking:
    """A stream whose worker is asked; every test has ids and correlation ids of its own."""

    stream: Stream
    worker: Program
    #: A topic that the settings allow beside our own, and one that they allow and nobody made.
    other: str
    missing: str

    def ask(self, *headers: tuple[str, bytes | None], **fields: Any) -> str:
        """Sends a sentence on the interactive lane; returns its id."""
        sentence = Sentence(**{"id": unique("s"), "text": "Hello, world.", **fields})
        self.put(CODEC.encode(sentence, "any"), *headers)
        return sentence.id

    def put(self, value: bytes | None, *headers: tuple[str, bytes | None]) -> None:
        """Sends bytes on the interactive lane."""
        record = {"value": value, "key": b"k", "headers": list(headers)}
        self.stream.send([record], self.stream.settings.topic_interactive)

    def address(self, correlation_id: bytes, partition: int, topic: str | None = None) -> Headers:
        """Headers that ask for a reply there."""
        place = (topic or self.stream.settings.topic_replies).encode()
        number = b"%d" % partition
        return [("reply-topic", place), ("reply-partition", number), ("correlation-id", correlation_id)]

    def replies(self, correlation_id: bytes, topic: str | None = None) -> list[tuple[PublishedRecord, Reply]]:
        """Every reply with a correlation id, once all that was asked is finished."""
        self.finish()
        records = read(self.stream.servers, topic or self.stream.settings.topic_replies)
        found = [(record, CODEC.decode(Reply, record.value)) for record in records]
        return [(record, reply) for record, reply in found if reply.correlation_id == correlation_id]

    def reply(self, correlation_id: bytes, topic: str | None = None) -> tuple[PublishedRecord, Reply]:
        """The one reply with a correlation id."""
        [found] = self.replies(correlation_id, topic)
        return found

    def finish(self) -> None:
        """Waits until worker and scorer have committed everything."""
        lane = self.stream.settings.topic_interactive
        wait_until(lambda: self.stream.lag(lane) == 0, "the worker has finished")
        self.stream.finish_scores()

    def published(self, sentence_id: str) -> tuple[int, int]:
        """How many embeddings and scores there are of a sentence."""
        embeddings = [each.sentence_id for _, each in self.stream.embeddings()]
        scores = [each.sentence_id for _, each in self.stream.scores()]
        return embeddings.count(sentence_id), scores.count(sentence_id)

    def reasons(self, value: bytes) -> list[bytes | None]:
        """Why each dead letter with this value is one."""
        return [dict(each.headers)["reason"] for each in self.stream.dead_letters() if each.value == value]


@pytest.fixture(scope="module", params=["at_least_once", "exactly_once"])
def asking(
    kafka: HasBrokers, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Asking]:
    """A worker and a scorer that are ready, at each delivery guarantee."""
    other, missing = unique("answers"), unique("missing")
    create_topics(kafka, {other: 1})
    settings: dict[str, Any] = {"delivery": request.param, "reply_topics": f"{other},{missing}"}
    with Stream(kafka.bootstrap_servers, tmp_path_factory.mktemp("replies"), **settings) as stream:
        worker, scorer = stream.start("worker"), stream.start("score")
        scorer.ready()
        yield Asking(stream, worker.ready(), other, missing)
        worker.stop()
        scorer.stop()


def test_a_caller_gets_one_reply_and_nobody_else_anything(asking: Asking) -> None:
    """On the partition that it reads, with vector, scores and what is served; no result topic has a trace of it."""
    asked = asking.ask(
        *asking.address(b"c-1", 3),
        ONLY,
        ("traceparent", TRACE),
        ("x", b"1"),
        scorers=("similarity",),
        metadata={"a": "b"},
    )
    record, reply = asking.reply(b"c-1")
    assert (record.partition, record.key) == (3, b"c-1")
    headers = dict(record.headers)
    assert headers["correlation-id"] == headers["kafka_correlationId"] == b"c-1"
    assert (headers["content-type"], headers["x"]) == (b"application/avro", b"1")
    assert (headers["traceparent"] or b"")[:35] == TRACE[:35]
    model = DeterministicEmbedder()
    assert reply.embedding is not None
    assert (reply.embedding.sentence_id, reply.embedding.metadata) == (asked, {"a": "b"})
    np.testing.assert_array_equal(reply.embedding.vector, model.embed(model.tokenise(["Hello, world."]))[0])
    [score] = reply.scores
    assert (score.scorer, score.sentence_id, score.label) == (
        "similarity",
        asked,
        max(score.labels, key=score.labels.get),
    )
    assert (reply.error, reply.served.scorers) == (None, ("similarity",))
    assert reply.served.identity == identity_key(model.identity)
    assert asking.published(asked) == (0, 0)


def test_springs_headers_are_understood(asking: Asking) -> None:
    """A Spring client's binary partition and correlation id are answered; what it asks is published as well."""
    identity = bytes(range(200, 216))
    topic = asking.stream.settings.topic_replies.encode()
    partition = ("kafka_replyPartition", b"\x00\x00\x00\x02")
    asked = asking.ask(("kafka_replyTopic", topic), partition, ("kafka_correlationId", identity))
    record, reply = asking.reply(identity)
    assert (record.partition, dict(record.headers)["kafka_correlationId"]) == (2, identity)
    assert reply.embedding is not None
    assert reply.embedding.sentence_id == asked
    assert asking.published(asked) == (1, 1)


def test_a_published_result_is_the_one_that_was_replied(asking: Asking) -> None:
    """Caller and subscribers see the same record, and the same score."""
    asked = asking.ask(*asking.address(b"c-2", 0), scorers=("similarity",))
    _, reply = asking.reply(b"c-2")
    [embedding] = [each for _, each in asking.stream.embeddings() if each.sentence_id == asked]
    [score] = [each for _, each in asking.stream.scores() if each.sentence_id == asked]
    assert reply.embedding == embedding
    assert (reply.scores[0].id, reply.scores[0].labels) == (score.id, score.labels)


@pytest.mark.parametrize(
    ("fields", "headers", "reason", "stage"),
    [
        ({"model": "other"}, [], "unknown-model", "validate"),
        ({"scorers": ("nobody",)}, [], "unknown-scorer", "score"),
        ({}, [("deadline", b"1")], "expired", "validate"),
    ],
    ids=["model", "scorer", "deadline"],
)
def test_a_refusal_is_told_to_its_caller(
    asking: Asking, fields: dict[str, Any], headers: Headers, reason: str, stage: str
) -> None:
    """One reply with the reason; a dead letter only where the result was meant for subscribers."""
    alone, also = unique("alone").encode(), unique("also").encode()
    values = [CODEC.encode(Sentence(**{"id": unique("s"), "text": "Hello.", **fields}), "any") for _ in range(2)]
    asking.put(values[0], *asking.address(alone, 1), ONLY, *headers)
    asking.put(values[1], *asking.address(also, 1), *headers)
    for correlation_id in (alone, also):
        record, reply = asking.reply(correlation_id)
        assert record.partition == 1
        assert (reply.embedding, reply.scores) == (None, ())
        assert reply.error is not None
        assert (reply.error.reason, reply.error.stage) == (reason, stage)
    assert asking.reasons(values[0]) == []
    assert asking.reasons(values[1]) == [reason.encode()]


def test_bytes_that_are_no_sentence_are_refused_to_their_caller(asking: Asking) -> None:
    """Whatever the value is, the headers say whom to tell."""
    rubbish = unique("rubbish").encode()
    asking.put(rubbish, *asking.address(b"c-3", 0), ONLY)
    _, reply = asking.reply(b"c-3")
    assert reply.error is not None
    assert reply.error.reason == "bad-bytes"
    assert asking.reasons(rubbish) == []


def test_topics_that_nobody_allowed_are_not_answered_on(asking: Asking) -> None:
    """A request cannot have the worker write on any topic: it is a dead letter, also where it wanted a reply alone."""
    stream = asking.stream
    value = CODEC.encode(Sentence(id=unique("s"), text="Hello."), "any")
    asking.put(value, *asking.address(b"c-4", 0, stream.settings.topic_requests), ONLY)
    asking.put(value, ONLY)
    asking.finish()
    assert asking.reasons(value) == [b"invalid-field"] * 2
    assert stream.read(stream.settings.topic_requests) == []


def test_a_further_topic_may_be_allowed(asking: Asking) -> None:
    """A service that reads replies on a topic of its own is answered there."""
    asking.ask(*asking.address(b"c-5", 0, asking.other), ONLY)
    record, _ = asking.reply(b"c-5", asking.other)
    assert record.topic == asking.other


def test_an_address_that_does_not_exist_holds_nobody_up(asking: Asking) -> None:
    """Its reply is dropped and counted, its result published all the same, and whoever comes behind it is answered."""
    name = 'streams_replies_dropped_total{reason="no-reply-partition"}'
    before = asking.worker.metrics().get(name, 0)
    asking.ask(*asking.address(b"gone-1", 99), ONLY)
    asked = asking.ask(*asking.address(b"gone-2", 0, asking.missing))
    asking.ask(("reply-topic", asking.missing.encode()), ONLY)
    asking.ask(*asking.address(b"c-6", 0), ONLY)
    assert asking.reply(b"c-6")[0].partition == 0
    assert asking.published(asked)[0] == 1
    assert asking.worker.metrics()[name] - before == 3


def test_a_deletion_is_confirmed(asking: Asking) -> None:
    """Whoever waits for a deletion hears that it is out: neither a vector nor an error."""
    asking.put(None, *asking.address(b"c-7", 0))
    _, reply = asking.reply(b"c-7")
    assert (reply.embedding, reply.error) == (None, None)


def test_a_text_that_is_known_is_answered_from_the_cache(asking: Asking) -> None:
    """The second reply says that no model ran, and has the same id and vector."""
    text = unique("Once said")
    identity = asking.ask(*asking.address(b"c-8", 0), ONLY, text=text)
    asking.finish()
    asking.ask(*asking.address(b"c-9", 0), ONLY, text=text, id=identity)
    first, second = (asking.reply(each)[1] for each in (b"c-8", b"c-9"))
    assert first.embedding is not None
    assert second.embedding is not None
    assert (first.embedding.cached, second.embedding.cached) == (False, True)
    assert first.embedding.id == second.embedding.id
    np.testing.assert_array_equal(first.embedding.vector, second.embedding.vector)
    assert (second.timings.queue, second.timings.embed) == (0, 0)


def test_many_callers_are_answered_once_each(asking: Asking) -> None:
    """2,048 requests in one go: as many replies on their partitions, and refusals among them harm nobody."""
    group, deadline = unique("many"), b"%d" % (int(time.time() + 300) * 1000)
    records = [
        {
            "value": CODEC.encode(
                Sentence(id=f"{group}-{n}", text=f"Text {n}.", model="other" if n % 100 == 7 else None), "any"
            ),
            "headers": [*asking.address(f"{group}-{n}".encode(), n % 4), ONLY, ("deadline", deadline)],
        }
        for n in range(2048)
    ]
    asking.stream.send(records, asking.stream.settings.topic_interactive)
    asking.finish()
    found: dict[bytes, tuple[int, Reply]] = {}
    for record in read(asking.stream.servers, asking.stream.settings.topic_replies):
        reply = CODEC.decode(Reply, record.value)
        if reply.correlation_id.startswith(group.encode()):
            assert reply.correlation_id not in found
            found[reply.correlation_id] = record.partition, reply
    assert len(found) == 2048
    for n in range(2048):
        partition, reply = found[f"{group}-{n}".encode()]
        assert partition == n % 4
        assert (reply.error is not None) == (n % 100 == 7)
    assert not any(each.sentence_id.startswith(group) for _, each in asking.stream.embeddings())
