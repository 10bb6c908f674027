"""Which dead letters are redriven, and as what."""

from collections.abc import AsyncIterator, Sequence

import pytest

from schemas.codec import Codec
from schemas.dead_letters import dead_letter_headers
from schemas.errors import BadBytes, Expired, InvalidField, Reject
from schemas.headers import parse_request
from schemas.records import Sentence, Source
from schemas.testing import FakeRegistry
from streams.dead_letters import DeadLetters, opened
from streams.latest import Latest
from streams.ranges import Batch, Bound, Range
from streams.records import Headers, TopicPartition
from streams.redrive import (
    Candidate,
    Left,
    Place,
    Selection,
    converter,
    decide,
    redriven,
    redrives,
    source_of,
    survey,
    unchecked,
)
from streams.testing import PublishedRecord

CODEC = Codec()
TP = TopicPartition("dead", 0)


def letter(
    offset: int = 0,
    *,
    reason: Reject | None = None,
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    headers: Headers = (),
    topic: str = "requests",
) -> PublishedRecord:
    """A dead letter, made as the worker makes it, of the record at 2@17."""
    record = PublishedRecord(topic, 2, 17, 1_700_000_000_000, key, value, headers)
    made = DeadLetters("dead", "group").make(record, reason or BadBytes("no"), 1)
    return PublishedRecord("dead", 0, offset, 1_800_000_000_000 + offset, made.key, made.value, tuple(made.headers))


async def batch(records: Sequence[PublishedRecord]) -> AsyncIterator[Batch]:
    """All records at once."""
    yield Batch(TP, records, 1_000, True)  # type: ignore[arg-type]


def test_a_dead_letter_is_opened_again() -> None:
    """What `DeadLetters` writes comes apart as it was put together, also around somebody else's dead letter."""
    own = [
        *dead_letter_headers(Expired("then"), read_at=Source("x", 9, 9, 9), timestamp_type=0, group="g", attempts=1),
        ("tag", b"\xff"),
        ("tag", None),
    ]
    found = opened(letter(headers=own, reason=InvalidField("text: no")).headers)
    assert found is not None
    assert (found.reason, found.stage, found.message) == ("invalid-field", "validate", "text: no")
    assert found.read_at == Source("requests", 2, 17, 1_700_000_000_000)
    assert found.headers == tuple(own)


@pytest.mark.parametrize(
    "headers", [(), [("reason", b"x")], [("__connect.errors.topic", b"t"), ("__connect.errors.partition", b"one")]]
)
def test_other_peoples_records_are_not_opened(headers: Headers) -> None:
    """A record without our whole family of headers is no dead letter of ours."""
    assert opened(headers) is None


def test_a_redriven_record_is_the_original_with_its_coordinates() -> None:
    """Key, value and own headers stay, the caller's go, and the worker reads the first coordinates from it."""
    own: Headers = [("tag", b"a"), ("deadline", b"1"), ("tag", b"b"), ("correlation-id", b"c")]
    out = redriven(letter(headers=own), "replay")
    assert (out.topic, out.key, out.value) == ("replay", b"k", b"v")
    assert [each for each in out.headers if each[0] in {"tag", "deadline", "correlation-id"}] == [
        ("tag", b"a"),
        ("tag", b"b"),
    ]
    assert parse_request(out.headers).source == Source("requests", 2, 17, 1_700_000_000_000)
    assert not any(name.startswith(("__connect", "kafka_dlt", "reason", "attempts")) for name, _ in out.headers)


def test_a_record_that_fails_again_keeps_its_coordinates_and_counts() -> None:
    """However often it goes round, it tells where it was first read and how often it was redriven."""
    record = letter()
    for times in (1, 2, 3):
        out = redriven(record, "replay")
        assert redrives(out.headers) == times
        assert [name for name, _ in out.headers].count("redrive-attempts") == 1
        assert [name for name, _ in out.headers].count("source-offset") == 1
        record = letter(headers=out.headers, topic="replay")
        found = opened(record.headers)
        assert found is not None
        assert source_of(found) == Source("requests", 2, 17, 1_700_000_000_000)


@pytest.mark.parametrize("value", [b"", b"many", b"-1", b"9" * 30])
def test_a_strange_count_is_none(value: bytes) -> None:
    """A header of that name which we did not write counts as never redriven."""
    assert redrives([("redrive-attempts", value)]) == 0


def test_set_text_mends_what_could_not_be_embedded() -> None:
    """The text changes, the id and all else stay, the schema header of the old bytes goes."""
    value = CODEC.encode(Sentence(id="s", text=" ", metadata={"a": "b"}), "any")
    assert unchecked(CODEC, Sentence, value, ()).text == " "
    ((out,),) = converter("replay", "A text.", CODEC)([letter(value=value)])  # type: ignore[misc]
    assert CODEC.decode(Sentence, out.value, out.headers) == Sentence(id="s", text="A text.", metadata={"a": "b"})


def test_set_text_names_the_schema_of_its_own_bytes() -> None:
    """A record whose schema was named in a header is framed anew, and that header is gone."""
    codec = Codec(FakeRegistry())
    value = codec.encode(Sentence(id="s", text="Old."), "any")
    old = letter(value=value[5:], headers=[("__value_schema_id", value[:5])])
    ((out,),) = converter("replay", "A text.", codec)([old])  # type: ignore[misc]
    assert codec.decode(Sentence, out.value, out.headers).text == "A text."
    assert out.value[:5] == value[:5]


@pytest.mark.parametrize(("value", "text"), [(b"\x02", "A text."), (None, "A text."), (b"good", " ")])
def test_set_text_refuses_what_stays_useless(value: bytes | None, text: str) -> None:
    """A value that is no sentence, and a text that nobody could embed, are refused before anything is sent."""
    value = CODEC.encode(Sentence(id="s", text="x"), "any") if value == b"good" else value
    (refused,) = converter("replay", text, CODEC)([letter(value=value)])
    assert isinstance(refused, Reject)


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), {0, 1, 2, 3}),
        (Selection(reason="expired"), {1}),
        (Selection(stage="decode"), {0, 2}),
        (Selection(topic="requests"), {0, 1, 2}),
        (Selection(topic="replay"), {2}),
        (Selection(key="a"), {1, 3}),
        (Selection(places=(Place(0, 2), Place(1, 0))), {2}),
        (Selection(reason="expired", key="b"), set()),
    ],
)
async def test_filters(selection: Selection, chosen: set[int]) -> None:
    """Every filter must hold; the topic is where it was read or first read; a stranger's record has no reason."""
    again = redriven(letter(), "replay").headers
    records = [
        letter(0, key=None),
        letter(1, reason=Expired("late"), key=b"a"),
        letter(2, headers=again, topic="replay"),
        PublishedRecord("dead", 0, 3, 0, b"a", b"v", ()),
    ]
    found = await survey(batch(records), selection, 3, "embeddings")
    assert {each.place.offset for each in found} == chosen


async def test_what_is_left_and_why() -> None:
    """Parked, reply-only, results and strangers' records are left, each with its reason."""
    records = [
        letter(0, headers=[("redrive-attempts", b"3")]),
        letter(1, headers=[("results", b"reply-only")]),
        letter(2, topic="embeddings"),
        PublishedRecord("dead", 0, 3, 0, b"a", b"v", ()),
        letter(4, headers=[("redrive-attempts", b"2")]),
    ]
    plan = decide(await survey(batch(records), Selection(), 3, "embeddings"), {}, {TP: Range(0, 5)}, None)
    assert plan.selected == {Place(0, 4)}
    assert plan.left == {
        Left.PARKED: [Place(0, 0)],
        Left.REPLY_ONLY: [Place(0, 1)],
        Left.NO_REQUEST: [Place(0, 2)],
        Left.FOREIGN: [Place(0, 3)],
    }


async def test_a_key_with_a_newer_record_is_left() -> None:
    """A dead letter whose key was sent again, or deleted, since would bring back what is gone."""
    records = [letter(0, key=b"old"), letter(1, key=b"new"), letter(2, key=None)]
    latest = Latest()
    latest.note(PublishedRecord("requests", 2, 18, 0, b"old", None, ()))
    latest.note(PublishedRecord("requests", 2, 17, 0, b"new", b"v", ()))
    found = await survey(batch(records), Selection(), 3, "embeddings")
    plan = decide(found, {"requests": latest}, {TP: Range(0, 3)}, None)
    assert plan.left == {Left.SUPERSEDED: [Place(0, 0)]}
    assert plan.selected == {Place(0, 1), Place(0, 2)}


def test_a_limit_takes_the_oldest_and_leaves_the_rest_for_the_next_run() -> None:
    """The plan's ranges end before the first that has to wait, whatever the timestamps say within a partition."""

    def candidate(partition: int, offset: int, timestamp: int) -> Candidate:
        return Candidate(Place(partition, offset), timestamp, "bad-bytes", None, None, None)

    candidates = [
        candidate(0, 1, 10),
        candidate(0, 2, 1),
        candidate(0, 3, 40),
        candidate(1, 7, 20),
        candidate(1, 8, 30),
    ]
    other = TopicPartition("dead", 1)
    plan = decide(candidates, {}, {TP: Range(0, 9), other: Range(5, 9)}, 3)
    assert plan.selected == {Place(0, 1), Place(0, 2), Place(1, 7)}
    assert plan.ranges == {TP: Range(0, 3), other: Range(5, 8)}


def test_places_narrow_the_ranges() -> None:
    """Only what lies around the places is read; the order they are named in does not make another selection."""
    one = Selection(places=(Place(0, 3), Place(0, 7), Place(2, 1)))
    ranges = {TP: Range(0, 5), TopicPartition("dead", 1): Range(0, 9), TopicPartition("dead", 2): Range(2, 9)}
    assert one.within(ranges) == {TP: Range(3, 5)}
    assert one.checkpoint(None) == Selection(places=one.places[::-1]).checkpoint(None)
    marks = [one.checkpoint("a"), one.checkpoint(None), Selection(start=Bound(offset=1)).checkpoint(None)]
    assert len(set(marks)) == 3


@pytest.mark.parametrize("text", ["", "3", "3@", "@3", "a@b", "-1@3", "3@17@1"])
def test_nonsense_is_no_place(text: str) -> None:
    """A place is PARTITION@OFFSET."""
    with pytest.raises(ValueError, match=r".*"):
        Place.parse(text)
    assert str(Place.parse("3@17")) == "3@17"
