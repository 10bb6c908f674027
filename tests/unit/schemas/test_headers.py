"""Headers: what a request asks for, and what its results carry."""

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidField
from schemas.headers import (
    VALUE_SCHEMA,
    RequestHeaders,
    Results,
    carried,
    parse_request,
    reply_headers,
    result_headers,
    source_headers,
)
from schemas.records import Source
from tests.unit.schemas.examples import EMBEDDING, SCORE, SOURCE

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_no_headers_ask_for_nothing():
    """A request without headers gets the defaults: its results are published and nobody waits."""
    assert parse_request(()) == parse_request([]) == RequestHeaders()
    assert RequestHeaders().results is Results.PUBLISH


def test_everything_a_request_can_say():
    """Each of our headers is read into its field, and none is passed on."""
    headers = [
        ("traceparent", TRACE),
        ("deadline", b"1700000000000"),
        ("reply-topic", b"sentence.replies"),
        ("reply-partition", b"3"),
        ("correlation-id", b"c-1"),
        ("results", b"reply-only"),
    ]
    assert parse_request(headers) == RequestHeaders(
        traceparent=TRACE,
        deadline=1_700_000_000_000,
        reply_topic="sentence.replies",
        reply_partition=3,
        correlation_id=b"c-1",
        results=Results.REPLY_ONLY,
    )


@pytest.mark.parametrize("also", [[], [("reply-partition", b"3"), ("correlation-id", b"c-1")]])
def test_results_for_the_caller_alone_need_a_caller(also):
    """A request that asks for a reply and nothing else has to say where the reply goes."""
    with pytest.raises(InvalidField, match="header reply-topic: expected a topic, since results says reply-only"):
        parse_request([("results", b"reply-only"), *also])


def test_a_reply_says_whose_it_is():
    """Our name and Spring's carry the correlation id, the trace goes on, and unknown headers come back."""
    headers = [("kafka_correlationId", b"\x00\xff"), ("reply-topic", b"t"), ("traceparent", TRACE), ("x", b"1")]
    echoed, springs, content, trace, other = reply_headers(parse_request(headers))
    assert (echoed, springs) == (("correlation-id", b"\x00\xff"), ("kafka_correlationId", b"\x00\xff"))
    assert (content, other) == (("content-type", b"application/avro"), ("x", b"1"))
    assert trace[0] == "traceparent"
    assert trace[1][:36] == TRACE[:36]
    assert trace[1] != TRACE


def test_a_reply_without_a_correlation_id_has_none():
    """Nothing is made up: whoever gave no correlation id reads a partition of its own."""
    assert reply_headers(RequestHeaders(reply_topic="t")) == [("content-type", b"application/avro")]


def test_springs_names_mean_the_same():
    """Spring's reply headers are read too: its partition is binary, and its correlation id any bytes."""
    headers = [
        ("kafka_replyTopic", b"replies"),
        ("kafka_replyPartition", b"\x00\x00\x01\x00"),
        ("kafka_correlationId", bytes(range(16))),
    ]
    request = parse_request(headers)
    assert (request.reply_topic, request.reply_partition) == ("replies", 256)
    assert request.correlation_id == bytes(range(16))
    assert request.others == ()


def test_our_names_win_over_springs_and_the_last_of_a_name_counts():
    """Of two names for one thing ours counts, and of one name given twice the last."""
    headers = [
        ("reply-topic", b"first"),
        ("reply-topic", b"last"),
        ("kafka_replyTopic", b"spring"),
        ("reply-partition", b"1"),
        ("kafka_replyPartition", b"\x00\x00\x00\x02"),
        ("correlation-id", b"ours"),
        ("kafka_correlationId", b"theirs"),
    ]
    request = parse_request(headers)
    assert (request.reply_topic, request.reply_partition, request.correlation_id) == ("last", 1, b"ours")


@pytest.mark.parametrize("name", ["deadline", "reply-topic", "results", "traceparent", "kafka_replyPartition"])
def test_a_header_without_a_value_says_nothing(name):
    """A null header is as good as none, and is not passed on."""
    assert parse_request([(name, None)]) == RequestHeaders()


BAD = [
    ("deadline", b"soon", "expected a whole number from 0 to"),
    ("deadline", b"", "expected a whole number"),
    ("deadline", b"-1", "expected a whole number from 0"),
    ("deadline", b"1.5", "expected a whole number"),
    ("deadline", b" 1", "expected a whole number"),
    ("deadline", b"1_000", "expected a whole number"),
    ("deadline", "\u0661".encode(), "expected a whole number"),
    ("deadline", b"9" * 5_000, "expected a whole number"),
    ("deadline", b"9223372036854775808", "to 9223372036854775807"),
    ("reply-partition", b"2147483648", "from 0 to 2147483647"),
    ("reply-partition", b"\x00\x00\x00\x01", "expected a whole number"),
    ("kafka_replyPartition", b"1", "expected a partition as 4 bytes"),
    ("kafka_replyPartition", b"\xff\xff\xff\xff", "expected a partition as 4 bytes"),
    ("reply-topic", b"", "expected the name of a Kafka topic"),
    ("reply-topic", b"..", "expected the name of a Kafka topic"),
    ("reply-topic", b"a b", "expected the name of a Kafka topic"),
    ("reply-topic", b"replies\n", "expected the name of a Kafka topic"),
    ("reply-topic", b"t" * 250, "expected the name of a Kafka topic"),
    ("kafka_replyTopic", b"\xff", "expected the name of a Kafka topic"),
    ("results", b"maybe", "expected publish or reply-only"),
]


@pytest.mark.parametrize(("name", "value", "reason"), BAD)
def test_a_bad_value_is_a_reject_that_names_the_header(name, value, reason):
    """A header that cannot be read says which it is and what was expected."""
    with pytest.raises(InvalidField, match=f"header {name}: .*{reason}"):
        parse_request([("x", b"1"), (name, value)])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        TRACE[:-1],
        TRACE + b"0",
        TRACE + b"-more",
        TRACE.upper(),
        b"ff" + TRACE[2:],
        b"00-" + b"0" * 32 + TRACE[35:],
        TRACE[:36] + b"0" * 16 + b"-01",
        TRACE + b"\n",
    ],
)
def test_an_invalid_trace_is_dropped(value):
    """A trace context that breaks the W3C's rules is neither continued nor passed on."""
    request = parse_request([("traceparent", value), ("x", b"1")])
    assert request.traceparent is None
    assert carried(request) == [("x", b"1")]


@pytest.mark.parametrize("value", [TRACE, b"cc" + TRACE[2:] + b"-what-comes-later"])
def test_a_trace_is_continued(value):
    """A result has the request's trace id and flags, and a span id of its own."""
    request = parse_request([("traceparent", value)])
    (_, first), (_, second) = carried(request)[0], carried(request)[0]
    for continued in (first, second):
        assert parse_request([("traceparent", continued)]).traceparent == continued
        assert continued[:36] == TRACE[:36]
        assert continued[52:] == b"-01"
    assert len({TRACE, first, second}) == 3


def test_unknown_headers_are_passed_on_in_order_with_repeats():
    """Headers we do not know reach the results as they came: repeated, empty and null ones too."""
    headers = [("b", b"1"), ("a", None), ("deadline", b"1"), ("b", b"2"), ("b", b""), ("A", b"\xff")]
    others = (("b", b"1"), ("a", None), ("b", b"2"), ("b", b""), ("A", b"\xff"))
    assert parse_request(headers).others == others
    assert result_headers(EMBEDDING, parse_request(headers))[-5:] == list(others)


def test_headers_that_describe_the_requests_bytes_are_not_passed_on():
    """A request's own event id, content type and schema would be wrong on its results."""
    headers = [
        ("ce_id", b"theirs"),
        ("content-type", b"application/json"),
        (VALUE_SCHEMA, b"\x00"),
        ("k", b"v"),
    ]
    names = [name for name, _ in result_headers(EMBEDDING, parse_request(headers))]
    assert len(names) == len(set(names))
    assert VALUE_SCHEMA not in names
    assert names[-1] == "k"


@given(st.lists(st.tuples(st.text(max_size=9).map("x-{}".format), st.none() | st.binary(max_size=9)), max_size=9))
def test_any_unknown_headers_are_passed_on(headers):
    """Whatever other headers there are, all of them come through, and in order."""
    assert list(parse_request(headers).others) == headers


@pytest.mark.parametrize(
    ("record", "type_", "time"),
    [
        (EMBEDDING, b"sentence_streams.Embedding", "2023-11-14T22:13:20.123+00:00"),
        (SCORE, b"sentence_streams.Score", "2023-11-14T22:13:20.456+00:00"),
    ],
)
def test_results_are_cloud_events(record, type_, time):
    """A result's headers are CloudEvents in binary mode: whose, which, what, from where and when."""
    headers = dict(result_headers(record, RequestHeaders()))
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": record.id.encode(),
        "ce_type": type_,
        "ce_source": b"/sentence-streams/sentence.requests",
        "ce_time": time.encode(),
        "content-type": b"application/avro",
    }
    assert datetime.fromisoformat(time).timestamp() * 1000 == getattr(record, "embedded_at", SCORE.scored_at)


def test_a_replay_says_where_its_record_was_first_read():
    """The four source headers are read back as they were written, and are not passed on."""
    request = parse_request([*source_headers(SOURCE), ("x", b"1")])
    assert request.source == SOURCE
    assert request.others == (("x", b"1"),)
    no_time = replace(SOURCE, timestamp=-1)
    assert parse_request(source_headers(no_time)).source == no_time


def test_source_headers_are_text():
    """Anyone can read and write the source headers: names of topics and numbers in digits."""
    assert source_headers(Source("t", 1, 2, 3)) == [
        ("source-topic", b"t"),
        ("source-partition", b"1"),
        ("source-offset", b"2"),
        ("source-timestamp", b"3"),
    ]


def test_some_of_the_source_headers_are_someone_elses():
    """A producer's own source-topic is not a replay: it is passed on untouched."""
    headers = [("source-topic", b"not a topic!"), ("deadline", b"1"), ("source-offset", b"x")]
    request = parse_request(headers)
    assert request.source is None
    assert request.others == (headers[0], headers[2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source-topic", b"a b"),
        ("source-partition", b"-1"),
        ("source-offset", b"x"),
        ("source-timestamp", b"-2"),
    ],
)
def test_a_broken_source_is_a_reject_that_names_the_header(name, value):
    """All four source headers together are ours, so a bad one is an error."""
    headers = dict(source_headers(SOURCE)) | {name: value}
    with pytest.raises(InvalidField, match=f"header {name}: "):
        parse_request(list(headers.items()))
