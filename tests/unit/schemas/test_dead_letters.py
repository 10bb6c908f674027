"""Dead letters: both header families, readable by the tools that know them, and no word of the record."""

import struct

import pytest

from schemas.dead_letters import MAX_MESSAGE, MAX_STACKTRACE, dead_letter_headers
from schemas.errors import BadBytes, EmbeddingFailed, InvalidField, Reject
from schemas.records import Source

READ_AT = Source("sentence.requests", 3, 1 << 40, 1_700_000_000_000)


def headers_of(error, **more):
    """The headers for an error, as a dict: none of them repeats."""
    given = {"read_at": READ_AT, "timestamp_type": 0, "group": "workers", "attempts": 2, **more}
    headers = dead_letter_headers(error, **given)
    assert len(dict(headers)) == len(headers)
    return dict(headers)


def caught(raise_):
    """What a function raises, with its traceback."""
    with pytest.raises(Reject) as error:
        raise_()
    return error.value


def fail(secret="a secret text"):
    """Fails as a model might: with the text in the message of the error underneath."""
    try:
        int(secret)
    except ValueError as error:
        raise EmbeddingFailed("the model failed on this text") from error


def test_connects_family():
    """Kafka Connect's headers are all there, its numbers as text."""
    headers = headers_of(caught(fail))
    assert {name: value for name, value in headers.items() if name.startswith("__connect") and "trace" not in name} == {
        "__connect.errors.topic": b"sentence.requests",
        "__connect.errors.partition": b"3",
        "__connect.errors.offset": b"1099511627776",
        "__connect.errors.stage": b"embed",
        "__connect.errors.class.name": __name__.encode(),
        "__connect.errors.exception.class.name": b"schemas.errors.EmbeddingFailed",
        "__connect.errors.exception.message": b"the model failed on this text",
    }


def test_springs_family():
    """Spring's headers are all there: partition as int32, offset and timestamp as int64, big-endian."""
    headers = headers_of(caught(fail), timestamp_type=1)
    assert struct.unpack(">i", headers["kafka_dlt-original-partition"]) == (3,)
    assert struct.unpack(">q", headers["kafka_dlt-original-offset"]) == (1 << 40,)
    assert struct.unpack(">q", headers["kafka_dlt-original-timestamp"]) == (1_700_000_000_000,)
    assert headers["kafka_dlt-original-topic"] == b"sentence.requests"
    assert headers["kafka_dlt-original-timestamp-type"] == b"LogAppendTime"
    assert headers["kafka_dlt-original-consumer-group"] == b"workers"
    assert headers["kafka_dlt-exception-fqcn"] == b"schemas.errors.EmbeddingFailed"
    assert headers["kafka_dlt-exception-cause-fqcn"] == b"builtins.ValueError"
    assert headers["kafka_dlt-exception-message"] == b"the model failed on this text"
    assert headers["kafka_dlt-exception-stacktrace"] == headers["__connect.errors.exception.stacktrace"]


def test_reason_and_attempts():
    """What the commands filter by: a short reason, and how often the record was tried."""
    headers = headers_of(BadBytes("x"))
    assert (headers["reason"], headers["attempts"]) == (b"bad-bytes", b"2")


def test_an_error_without_a_cause_names_none():
    """A cause that was never there, or was suppressed, is not in the headers."""

    def suppressed():
        try:
            int("secret")
        except ValueError:
            raise BadBytes("id: expected text") from None

    for error in (BadBytes("x"), caught(suppressed)):
        assert "kafka_dlt-exception-cause-fqcn" not in headers_of(error)


def test_a_stack_trace_has_types_and_positions_only():
    """The trace names exceptions and code, innermost first, and never a value: no text, no message."""
    trace = headers_of(caught(fail))["__connect.errors.exception.stacktrace"].decode()
    lines = trace.splitlines()
    assert lines[0] == "schemas.errors.EmbeddingFailed"
    assert lines[1].startswith(f"  at {__name__}:")
    assert lines[1].endswith(" in fail")
    assert "caused by builtins.ValueError" in lines
    assert "secret" not in trace
    assert "the model failed" not in trace


def test_messages_and_traces_are_capped_between_characters():
    """A long message or a deep trace is cut to its limit, and never inside a character."""

    def deep(levels):
        if levels:
            deep(levels - 1)
        else:
            raise InvalidField("x" + "é" * 5_000)

    error = cause = caught(lambda: deep(100))
    for _ in range(20):
        error = caught(lambda: deep(100))
        error.__cause__, cause = cause, error
    headers = headers_of(error)
    assert MAX_MESSAGE - 1 <= len(headers["kafka_dlt-exception-message"]) <= MAX_MESSAGE
    assert MAX_STACKTRACE - 3 <= len(headers["kafka_dlt-exception-stacktrace"]) <= MAX_STACKTRACE
    headers["kafka_dlt-exception-message"].decode()
    assert len(headers_of(InvalidField("x" + "é" * 5_000))["kafka_dlt-exception-message"]) == MAX_MESSAGE - 1


def test_nothing_keeps_a_dead_letter_from_being_written():
    """Odd inputs, such as half a character or no timestamp, still make headers."""
    odd = Source("t", 0, 0, -1)
    headers = headers_of(BadBytes("\ud800"), read_at=odd, timestamp_type=-1)
    assert headers["kafka_dlt-exception-message"] == b"?"
    assert headers["kafka_dlt-original-timestamp"] == b"\xff" * 8
    assert headers["kafka_dlt-original-timestamp-type"] == b"NoTimestampType"


def test_an_error_that_causes_itself_ends():
    """A chain of causes that turns in a circle is cut short."""
    first, second = BadBytes("a"), BadBytes("b")
    first.__cause__, second.__cause__ = second, first
    assert headers_of(first)["kafka_dlt-exception-stacktrace"].count(b"caused by") == 7
