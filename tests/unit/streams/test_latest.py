"""What supersedes a record, and what its headers still mean when it is sent again."""

from hypothesis import given
from hypothesis import strategies as st

from streams.latest import Latest, is_reply_only, original_source, without_caller
from streams.testing import PublishedRecord


def record(offset: int, key: bytes | None) -> PublishedRecord:
    """A record of the topic."""
    return PublishedRecord("in", 0, offset, 1_000 + offset, key, b"v", ())


@given(st.lists(st.tuples(st.sampled_from([None, b"a", b"b", b"c"]), st.booleans()), max_size=30), st.randoms())
def test_only_the_last_record_of_a_key_is_not_superseded(given: list[tuple[bytes | None, bool]], dice: object) -> None:
    """In whatever order records are noted, all but the last of a key are superseded, and the chosen ones counted."""
    records = [record(n, key=key) for n, (key, _) in enumerate(given)]
    last = {each.key: each.offset for each in records if each.key is not None}
    latest, losers = Latest(), 0
    order = list(zip(records, (chosen for _, chosen in given), strict=True))
    dice.shuffle(order)  # type: ignore[attr-defined]
    for each, chosen in order:
        losers += latest.note(each, chosen=chosen) is not None
    superseded = [each.key is not None and each.offset < last[each.key] for each in records]
    assert [latest.superseded(each.key, 0, each.offset, each.timestamp) for each in records] == superseded
    assert losers == sum(old and chosen for old, (_, chosen) in zip(superseded, given, strict=True))


def test_a_key_that_moved_to_another_partition_goes_by_time() -> None:
    """After partitions were added, offsets say nothing; a later timestamp does. Reply-only records replace nothing."""
    latest = Latest()
    latest.note(PublishedRecord("in", 1, 3, 5_000, b"k", b"v", ()))
    assert latest.superseded(b"k", 0, 900, 4_000)
    assert not latest.superseded(b"k", 0, 900, 6_000)
    assert not latest.superseded(None, 0, 0, 0)
    latest.note(PublishedRecord("in", 0, 999, 9_000, b"k", b"v", (("results", b"reply-only"),)))
    assert not latest.superseded(b"k", 0, 998, 6_000)


def test_headers_of_a_caller_who_has_gone_are_dropped() -> None:
    """Deadline and reply address in both families go; all others stay, in order and with repeats."""
    headers = [
        ("tag", b"a"),
        ("deadline", b"1"),
        ("reply-topic", b"r"),
        ("reply-partition", b"0"),
        ("correlation-id", b"c"),
        ("kafka_replyTopic", b"r"),
        ("kafka_replyPartition", b"\0\0\0\0"),
        ("kafka_correlationId", b"c"),
        ("traceparent", b"t"),
        ("tag", None),
    ]
    assert without_caller(headers) == [("tag", b"a"), ("traceparent", b"t"), ("tag", None)]


def test_an_original_source_is_only_what_a_replay_wrote() -> None:
    """All four headers with valid values are a source; some of them, or nonsense in one, are not."""
    headers: list[tuple[str, bytes | None]] = [
        ("source-topic", b"t"),
        ("source-partition", b"1"),
        ("source-offset", b"2"),
        ("source-timestamp", b"3"),
    ]
    source = original_source(headers)
    assert source is not None
    assert (source.topic, source.partition, source.offset, source.timestamp) == ("t", 1, 2, 3)
    assert original_source(headers[:3]) is None
    assert original_source([*headers[:3], ("source-timestamp", b"soon")]) is None
    assert is_reply_only([("results", b"reply-only")])
    assert not is_reply_only([("results", b"publish")])
