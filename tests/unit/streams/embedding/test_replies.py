"""Replies: who is told of a refusal, where, and in what words."""

import pytest

from schemas.codec import Codec
from schemas.errors import BadBytes, Expired, InvalidField, RegistryUnavailable, Reject
from schemas.headers import parse_request
from schemas.records import ReplyError, Timings
from schemas.testing import FakeRegistry
from streams.dead_letters import DeadLetters
from streams.embedding.model import Model, OneModel
from streams.embedding.replies import Replies
from streams.records import Headers, Outgoing
from streams.refusals import Refusals
from streams.testing import DeterministicEmbedder
from tests.unit.streams.embedding.examples import ASKING, CODEC, Request, reply_in

MODELS = OneModel(Model(DeterministicEmbedder()))
REPLIES = Replies(CODEC, ["replies", "others"], MODELS)
REFUSALS = Refusals(DeadLetters("dead", "group"), REPLIES)
REASON = Expired("deadline: expected one that has not passed")


def told(headers: Headers, reason: Reject = REASON, refusals: Refusals = REFUSALS) -> list[Outgoing]:
    """What is published for a refused request with these headers."""
    return refusals.make(Request(b"!", headers), reason, 1)


def topics(outputs: list[Outgoing]) -> list[str]:
    return [out.topic for out in outputs]


def test_a_refusal_is_a_reply_with_the_reason() -> None:
    """On the partition the caller reads, with his correlation id, what is served, and no vector."""
    [out] = told(ASKING)
    assert (out.topic, out.partition, out.key, out.reply) == ("replies", 3, b"c-1", True)
    assert dict(out.headers)["correlation-id"] == b"c-1"
    reply = reply_in(out)
    assert reply.error == ReplyError(reason="expired", stage="validate", message=str(REASON))
    assert (reply.correlation_id, reply.embedding, reply.scores, reply.timings) == (b"c-1", None, (), Timings())
    assert reply.served.model == "deterministic"


def test_a_refusal_that_concerns_only_its_caller_is_no_dead_letter() -> None:
    """Whoever asked for a reply alone is told alone; of anything else there is a dead letter, too."""
    assert topics(told(ASKING)) == ["replies"]
    assert topics(told(ASKING[:3])) == ["replies", "dead"]
    assert topics(told([])) == ["dead"]


@pytest.mark.parametrize(
    "headers",
    [
        [("reply-topic", b"not a topic!"), *ASKING[1:]],
        [("reply-topic", b"requests"), *ASKING[1:]],
        [*ASKING, ("deadline", b"soon")],
        ASKING[1:],
    ],
    ids=["no topic's name", "a topic of the stream", "another header is broken", "no address"],
)
def test_without_an_address_that_is_allowed_there_is_a_dead_letter(headers: Headers) -> None:
    """Nobody can be told, also where nothing was to be published: the record must not be lost."""
    assert topics(told(headers)) == ["dead"]


def test_records_that_are_no_requests_have_dead_letters() -> None:
    """The scorer reads embeddings: their headers are nobody's address."""
    assert topics(told(ASKING, refusals=Refusals(DeadLetters("dead", "group")))) == ["dead"]


def test_a_caller_who_cannot_be_told_now_leaves_a_dead_letter() -> None:
    """While the registry is away a reply of a topic that was never answered on cannot be written."""
    registry = FakeRegistry()
    registry.away = True
    away = Refusals(DeadLetters("dead", "group"), Replies(Codec(registry), ["replies"], MODELS))
    assert topics(told(ASKING, refusals=away)) == ["dead"]


def test_a_message_is_kept_short() -> None:
    """However long a reason is, a refusal fits where an answer would."""
    error = reply_in(told(ASKING, BadBytes("é" * 5_000 + "\ud800"))[0]).error
    assert error is not None
    assert error.message == "é" * 512


def test_only_allowed_topics_are_answered_on() -> None:
    """Those of the settings are; a request that names another is refused with its name."""
    for name in (b"replies", b"others"):
        REPLIES.admit(parse_request([("reply-topic", name)]))
    REPLIES.admit(parse_request([("x", b"1")]))
    with pytest.raises(InvalidField, match=r"header reply-topic: sentence\.requests is not a topic that replies may"):
        REPLIES.admit(parse_request([("reply-topic", b"sentence.requests")]))


def test_once_admitted_a_refusal_can_be_written() -> None:
    """The registry is asked before anything can go wrong; later outages do not matter to the callers of that topic."""
    registry = FakeRegistry()
    replies = Replies(Codec(registry), ["replies", "others"], MODELS)
    replies.admit(parse_request(ASKING))
    registry.away = True
    replies.admit(parse_request(ASKING))
    assert topics(told(ASKING, refusals=Refusals(DeadLetters("dead", "group"), replies))) == ["replies"]
    with pytest.raises(RegistryUnavailable):
        replies.admit(parse_request([("reply-topic", b"others")]))
