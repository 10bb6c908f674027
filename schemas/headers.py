"""The Kafka headers of requests and results. They are pairs in order and names may repeat: never a dict.

In: what a request asks for beside its record, in our names or Spring's. The last of a repeated name counts.
Out: CloudEvents in binary mode, the trace continued, and every header we do not know passed on.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from random import getrandbits
from typing import Final

from schemas.errors import InvalidField
from schemas.records import Embedding, Score, Source

#: One header, and all headers of a record.
Header = tuple[str, bytes | None]
Headers = Sequence[Header]

TRACEPARENT: Final = "traceparent"
DEADLINE: Final = "deadline"
REPLY_TOPIC: Final = "reply-topic"
REPLY_PARTITION: Final = "reply-partition"
CORRELATION_ID: Final = "correlation-id"
RESULTS: Final = "results"

SPRING_REPLY_TOPIC: Final = "kafka_replyTopic"
SPRING_REPLY_PARTITION: Final = "kafka_replyPartition"
SPRING_CORRELATION_ID: Final = "kafka_correlationId"

SOURCE_TOPIC: Final = "source-topic"
SOURCE_PARTITION: Final = "source-partition"
SOURCE_OFFSET: Final = "source-offset"
SOURCE_TIMESTAMP: Final = "source-timestamp"

#: The header in which newer Confluent producers name the value's schema.
VALUE_SCHEMA: Final = "__value_schema_id"

_REQUEST: Final = frozenset(
    {TRACEPARENT, DEADLINE, REPLY_TOPIC, REPLY_PARTITION, CORRELATION_ID, RESULTS}
    | {SPRING_REPLY_TOPIC, SPRING_REPLY_PARTITION, SPRING_CORRELATION_ID}
)
_SOURCE: Final = frozenset({SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET, SOURCE_TIMESTAMP})
#: These describe the request's own bytes; a result says the same of its own.
_REPLACED: Final = frozenset(
    {VALUE_SCHEMA, "content-type", "ce_dataschema"} | {"ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time"}
)
_READ: Final = _REQUEST | _SOURCE
_NOT_CARRIED: Final = _REQUEST | _REPLACED
_NOT_CARRIED_IN_A_REPLAY: Final = _NOT_CARRIED | _SOURCE

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_TOPIC: Final = re.compile(rb"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}")
_NUMBER: Final = re.compile(rb"-?[0-9]{1,19}")

_MOST_32: Final = (1 << 31) - 1
_MOST_64: Final = (1 << 63) - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Results(StrEnum):
    """Whether a result goes to the result topics, or only to whoever asked."""

    PUBLISH = "publish"
    REPLY_ONLY = "reply-only"


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """What a request's headers ask for; None where they do not say."""

    #: W3C trace context, kept only where it is valid.
    traceparent: bytes | None = None
    #: Milliseconds since 1970 UTC; after it nobody needs the answer.
    deadline: int | None = None
    reply_topic: str | None = None
    reply_partition: int | None = None
    #: Opaque: text from some callers, a binary UUID from Spring.
    correlation_id: bytes | None = None
    results: Results = Results.PUBLISH
    #: Where a replayed record was first read.
    source: Source | None = None
    #: Every header that is not ours, in order, with repeats: results carry them on.
    others: tuple[Header, ...] = ()


_EMPTY: Final = RequestHeaders()


def parse_request(headers: Headers) -> RequestHeaders:
    """What a request's headers ask for; raises InvalidField, which names the header."""
    if not headers:
        return _EMPTY
    found = {name: value for name, value in headers if name in _READ and value is not None}
    replayed = found.keys() >= _SOURCE
    # A lone source-topic is some producer's own header: only all four together are ours.
    ours = _NOT_CARRIED_IN_A_REPLAY if replayed else _NOT_CARRIED
    others = tuple(header for header in headers if header[0] not in ours)
    if not found:
        return RequestHeaders(others=others)
    reply_topic, results = _topic(found, REPLY_TOPIC) or _topic(found, SPRING_REPLY_TOPIC), _results(found)
    if results is Results.REPLY_ONLY and reply_topic is None:
        raise InvalidField(f"header {REPLY_TOPIC}: expected a topic, since {RESULTS} says {results}")
    return RequestHeaders(
        traceparent=_traceparent(found),
        deadline=_number(found, DEADLINE, 0, _MOST_64),
        reply_topic=reply_topic,
        reply_partition=_reply_partition(found),
        correlation_id=found.get(CORRELATION_ID, found.get(SPRING_CORRELATION_ID)),
        results=results,
        source=_source(found) if replayed else None,
        others=others,
    )


def traceparent(headers: Headers) -> bytes | None:
    """The W3C trace context of any record, where it is valid."""
    found = {name: value for name, value in headers if name == TRACEPARENT and value is not None}
    return _traceparent(found)


def carried(request: RequestHeaders) -> list[Header]:
    """What a request's results carry on: its trace with a new span, and the headers that are not ours."""
    if request.traceparent is None:
        return list(request.others)
    return [(TRACEPARENT, continued(request.traceparent)), *request.others]


def result_headers(record: Embedding | Score, request: RequestHeaders) -> list[Header]:
    """The headers of a result: CloudEvents in binary mode, then what the request's own headers carry on."""
    made_at = record.embedded_at if isinstance(record, Embedding) else record.scored_at
    return event_headers(type(record).__name__, record.id, record.source.topic, made_at, request)


def event_headers(kind: str, event: str, topic: str, made_at: int, request: RequestHeaders) -> list[Header]:
    """The same of a result that is only known by its parts: its record's name, its id, where its sentence was read."""
    first, what, whence, last = _constant(kind, topic)
    own: list[Header] = [first, ("ce_id", event.encode()), what, whence, ("ce_time", _iso(made_at)), last]
    return own + carried(request)


@lru_cache(maxsize=256)
def _constant(kind: str, topic: str) -> tuple[Header, Header, Header, Header]:
    """What all results of one kind and topic say alike."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", f"sentence_streams.{kind}".encode()),
        ("ce_source", f"/sentence-streams/{topic}".encode()),
        ("content-type", b"application/avro"),
    )


@lru_cache(maxsize=16)
def _iso(milliseconds: int) -> bytes:
    """The moment in ISO 8601; results of one batch share theirs."""
    return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds").encode()


def reply_headers(request: RequestHeaders) -> list[Header]:
    """The headers of a reply: whose it is, under our name and Spring's, and what the request's own carry on."""
    whose = request.correlation_id
    names = () if whose is None else (CORRELATION_ID, SPRING_CORRELATION_ID)
    return [*((name, whose) for name in names), ("content-type", b"application/avro"), *carried(request)]


def source_headers(source: Source) -> list[Header]:
    """The headers that tell a worker where a replayed record was first read."""
    return [
        (SOURCE_TOPIC, source.topic.encode()),
        (SOURCE_PARTITION, b"%d" % source.partition),
        (SOURCE_OFFSET, b"%d" % source.offset),
        (SOURCE_TIMESTAMP, b"%d" % source.timestamp),
    ]


def _traceparent(found: Mapping[str, bytes]) -> bytes | None:
    value = found.get(TRACEPARENT)
    if value is None:
        return None
    match = _TRACEPARENT.fullmatch(value)
    # Version 00 has exactly four parts; later ones may add more.
    return value if match and (match[3] is None or not value.startswith(b"00")) else None


def continued(traceparent: bytes) -> bytes:
    """The same trace with a new span."""
    span = getrandbits(64) or 1
    return b"00-%b-%016x-%b" % (traceparent[3:35], span, traceparent[53:55])


def _number(found: Mapping[str, bytes], name: str, least: int, most: int) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    if _NUMBER.fullmatch(value) and least <= (number := int(value)) <= most:
        return number
    raise InvalidField(f"header {name}: expected a whole number from {least} to {most}, in digits")


def _topic(found: Mapping[str, bytes], name: str) -> str | None:
    value = found.get(name)
    if value is None:
        return None
    if _TOPIC.fullmatch(value):
        return value.decode()
    raise InvalidField(f"header {name}: expected the name of a Kafka topic")


def _reply_partition(found: Mapping[str, bytes]) -> int | None:
    number = _number(found, REPLY_PARTITION, 0, _MOST_32)
    value = found.get(SPRING_REPLY_PARTITION)
    if number is not None or value is None:
        return number
    if len(value) == 4 and value[0] < 0x80:
        return int.from_bytes(value, "big")
    raise InvalidField(f"header {SPRING_REPLY_PARTITION}: expected a partition as 4 bytes, big-endian")


def _results(found: Mapping[str, bytes]) -> Results:
    value = found.get(RESULTS)
    if value is None:
        return Results.PUBLISH
    for choice in Results:
        if value == choice.encode():
            return choice
    raise InvalidField(f"header {RESULTS}: expected {' or '.join(Results)}")


def _source(found: Mapping[str, bytes]) -> Source:
    return Source(
        _topic(found, SOURCE_TOPIC) or "",
        _number(found, SOURCE_PARTITION, 0, _MOST_32) or 0,
        _number(found, SOURCE_OFFSET, 0, _MOST_64) or 0,
        _number(found, SOURCE_TIMESTAMP, -1, _MOST_64) or 0,
    )
