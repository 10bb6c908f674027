"""Hostile bytes and hostile writers' schemas: each ends as a reject, fast and in little memory."""

import json
import random
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.contracts import current
from schemas.errors import BadBytes, InvalidField, Reject, UnknownSchema, UnsafeSchema
from schemas.headers import VALUE_SCHEMA
from schemas.records import Embedding, Reply, Score, Sentence
from schemas.registry import WriterSchema
from schemas.testing import FakeRegistry
from tests.unit.schemas.examples import (
    EMBEDDING,
    RECORDS,
    REPLY,
    SCORE,
    SENTENCE,
    bare,
    datum_of,
    field_of,
    registered,
    schema_of,
    with_field,
)

FRAME = Codec().encode(SENTENCE, "t")[:10]
#: id "a", text "b", then model null, dimensions null.
HEAD = FRAME + b"\x02a\x02b\x00\x00"
#: ... and no scorers, truncate, no metadata, no query, float32.
WHOLE = HEAD + b"\x00\x00\x00\x00\x00"
HUGE = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # the largest positive long
LEAST = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # the largest negative long

BYTES = {
    "empty": (b"", "value: expected a record, it is empty"),
    "JSON": (b'{"id": "a"}', "value: expected to start with"),
    "another magic": (b"\x02abcdefgh", "value: expected to start with"),
    "another single object version": (b"\xc3\x02abcdefghi", "value: expected to start with"),
    "half a marker": (b"\xc3", "value: expected to start with"),
    "half a fingerprint": (b"\xc3\x01abc", "expected 10 bytes that name its schema, it has 5"),
    "half an id": (b"\x00\x00\x01", "expected 5 bytes that name its schema, it has 3"),
    "half a GUID": (b"\x01" + b"g" * 15, "expected 17 bytes that name its schema, it has 16"),
    "nothing after the frame": (FRAME, "id: expected more bytes, the value ends early"),
    "ends inside a length": (FRAME + b"\x80", "id: expected more bytes"),
    "ends inside text": (FRAME + b"\x08ab", "id: expected text whose length is no more than the bytes"),
    "ends between fields": (WHOLE[:-2], "query: expected more bytes"),
    "trailing bytes": (WHOLE + b"\x00\x00", "value: expected the record to fill it, 2 bytes follow"),
    "huge text": (FRAME + HUGE, "id: expected text whose length is no more than"),
    "negative text": (FRAME + b"\x01", "id: expected text whose length is no more than"),
    "most negative text": (FRAME + LEAST, "id: expected text whose length is no more than"),
    "a number too long": (FRAME + b"\x80" * 11 + b"\x00", "id: expected a number of at most 64 bits"),
    "a number without end": (FRAME + b"\x80" * 5_000_000, "id: expected a number of at most 64 bits"),
    "a number too large": (FRAME + b"\xff" * 9 + b"\x02", "id: expected a number of at most 64 bits"),
    "not UTF-8": (FRAME + b"\x02a\x02\xff\x00\x00\x00\x00\x00", "text: expected text in UTF-8"),
    "half a surrogate": (FRAME + b"\x02a\x06\xed\xa0\x80" + WHOLE[14:], "text: expected text in UTF-8"),
    "branch too high": (FRAME + b"\x02a\x02b\x04", "model: expected a branch from 0 to 1"),
    "negative branch": (FRAME + b"\x02a\x02b\x01", "model: expected a branch from 0 to 1"),
    "most negative branch": (FRAME + b"\x02a\x02b" + LEAST, "model: expected a branch from 0 to 1"),
    "dimensions too large": (
        FRAME + b"\x02a\x02b\x00\x02\x80\x80\x80\x80\x10\x00\x00\x00",
        "dimensions: expected a number of at most 32 bits",
    ),
    "many items": (HEAD + b"\x7e", "scorers: expected no more items than the bytes that follow"),
    "huge count": (HEAD + HUGE, "scorers: expected no more items than the bytes that follow"),
    "negative count, no size": (HEAD + b"\x01", "scorers: expected more bytes"),
    "most negative count": (HEAD + LEAST + b"\x02" + b"\x00" * 9, "scorers: expected no more items"),
    "block of negative size": (
        HEAD + b"\x01\x01\x00\x00\x00\x00",
        "scorers: expected a block that ends inside",
    ),
    "block of huge size": (HEAD + b"\x01" + HUGE + b"\x00" * 9, "scorers: expected a block that ends inside"),
    "block of wrong size": (
        HEAD + b"\x01\x04\x00\x00\x00\x00",
        "scorers: expected a block as long as it says",
    ),
    "a zero that is not one": (HEAD + b"\x80\x00\x00\x00\x00", "scorers: expected a block that ends inside"),
    "negative symbol": (HEAD + b"\x00\x01\x00", "overflow: expected an index from 0 to 2"),
    "symbol too high": (HEAD + b"\x00\x06\x00", "overflow: expected an index from 0 to 2"),
    "metadata count": (HEAD + b"\x00\x00\x7e\x00", "metadata: expected no more items than the bytes"),
    "metadata wrong size": (HEAD + b"\x00\x00\x01\x06\x00\x00\x00\x00", "metadata: expected a block as long"),
    "metadata not UTF-8": (HEAD + b"\x00\x00\x02\x02\xc3\x00\x00", "metadata: expected text in UTF-8"),
}


@pytest.mark.parametrize("case", BYTES)
def test_hostile_bytes_are_rejected(case):
    """Bytes that are not a record say which field, what was expected, and nothing of what was there."""
    value, reason = BYTES[case]
    with pytest.raises(BadBytes, match=reason):
        Codec().decode(Sentence, value)


def test_the_whole_of_the_table_differs_from_a_good_record_by_its_fault():
    """The record that the table breaks in many ways is a good one itself."""
    assert Codec().decode(Sentence, WHOLE) == Sentence("a", "b")


@pytest.mark.parametrize(
    ("field", "bytes_", "reason"),
    [
        ("truncated", b"\x02", "truncated: expected a boolean, 0 or 1"),
        ("vector", b"\x06\x00\x00\x00\x00", "vector: expected no more items than the bytes that follow"),
        ("vector", HUGE, "vector: expected no more items than the bytes that follow"),
        ("vector", b"\x01\x06\x00\x00\x00\x00\x00", "vector: expected a block as long as it says"),
        ("vector", b"", "vector: expected more bytes"),
        ("source", b"\x02t\x00\x00", "source.timestamp: expected more bytes"),
    ],
)
def test_hostile_embeddings_are_rejected(field, bytes_, reason):
    """The same for embeddings, whose vector is read in bulk, and for fields inside fields."""
    schema = schema_of(Embedding)
    at = schema["fields"].index(field_of(schema, field))
    schema["fields"] = schema["fields"][:at]
    good = Codec().encode(EMBEDDING, "t")[:10] + bare(schema, datum_of(EMBEDDING))
    with pytest.raises(BadBytes, match=reason):
        Codec().decode(Embedding, good + bytes_)


#: A whole embedding and a whole score as bare Avro.
EMBEDDED, SCORED = (Codec().encode(record, "t")[10:] for record in (EMBEDDING, SCORE))


@pytest.mark.parametrize(
    ("bytes_", "reason"),
    [
        (HUGE, "correlation_id: expected a length of no more than the bytes that follow it"),
        (b"\x01", "correlation_id: expected a length of no more than the bytes that follow it"),
        (b"\x00\x04", "embedding: expected a branch from 0 to 1"),
        (b"\x00\x02" + EMBEDDED[:-14], "embedding.vector: expected more bytes"),
        (b"\x00\x02" + EMBEDDED[:-14] + HUGE, "embedding.vector: expected no more items than the bytes that follow"),
        (b"\x00\x02" + EMBEDDED + HUGE, "scores: expected no more items than the bytes that follow"),
        (b"\x00\x00\x7e" + SCORED, "scores: expected no more items than the bytes that follow"),
        (b"\x00\x00\x01\x04" + SCORED, "scores: expected a block as long as it says"),
        (b"\x00\x00\x02" + SCORED + b"\x00\x02\x02\xff", "error.reason: expected text in UTF-8"),
        (b"\x00\x00\x02" + SCORED + b"\x00\x00", "served.model: expected more bytes"),
    ],
)
def test_hostile_replies_are_rejected(bytes_, reason):
    """The same for replies, whose fields are records themselves, however deep the fault is."""
    with pytest.raises(BadBytes, match=reason):
        Codec().decode(Reply, Codec().encode(REPLY, "t")[:10] + bytes_)


@pytest.mark.parametrize("kind", [Embedding, Score, Reply])
def test_a_value_of_another_kind_is_rejected(kind):
    """An embedding or score on the request topic is a reject that names both."""
    other = next(record for record in RECORDS if type(record) is kind)
    with pytest.raises(UnsafeSchema, match=rf"expected sentence_streams.Sentence, it writes .*{kind.__name__}"):
        Codec().decode(Sentence, Codec().encode(other, "t"))


def test_unknown_names_of_schemas_are_rejected():
    """An id, GUID or fingerprint that nobody knows is a reject that quotes it."""
    codec = Codec(FakeRegistry())
    for frame, name in (
        (b"\x00\xff\xff\xff\xff", "schema id 4294967295"),
        (b"\x01" + b"\x11" * 16, "schema GUID 11111111-1111-1111-1111-111111111111"),
        (b"\xc3\x01abcdefgh", "schema fingerprint 6162636465666768"),
    ):
        with pytest.raises(UnknownSchema, match=name):
            codec.decode(Sentence, frame + b"x")


@pytest.mark.parametrize("header", [b"", b"\x00", b"\x02" * 17, b"\x01" + b"g" * 15, b"\xc3\x01abcdefgh"])
def test_a_broken_schema_header_is_rejected(header):
    """A schema header that is neither an id nor a GUID is a reject that names the header."""
    with pytest.raises(BadBytes, match=f"header {VALUE_SCHEMA}: expected a byte 0 and an id"):
        Codec().decode(Sentence, WHOLE, [(VALUE_SCHEMA, header)])


RECURSIVE = {
    "type": "record",
    "name": "Sentence",
    "fields": [{"name": "id", "type": "string"}, {"name": "next", "type": ["null", "Sentence"]}],
}
SCHEMAS = {
    "JSON Schema": (
        '{"type": "object"}',
        "JSON",
        "expected an Avro schema, the registry has one of type JSON",
    ),
    "protobuf": ('syntax = "proto3";', "PROTOBUF", "expected an Avro schema, .* of type PROTOBUF"),
    "protobuf that says it is Avro": ('syntax = "proto3";', "AVRO", "the schema is not JSON"),
    "JSON Schema that says it is Avro": ('{"type": "object"}', "AVRO", "object, which it does not define"),
    "nothing": ("", "AVRO", "the schema is not JSON"),
    "garbage": ("\x00\xff", "AVRO", "the schema is not JSON"),
    "a string": ('"string"', "AVRO", "expected sentence_streams.Sentence, it writes string"),
    "another record": ({**schema_of(Sentence), "name": "Order"}, "AVRO", "it writes sentence_streams.Order"),
    "text is a number": (
        with_field(Sentence, "text", "long"),
        "AVRO",
        "text: expected string, it writes long",
    ),
    "no id": ({**schema_of(Sentence), "fields": []}, "AVRO", "id: expected a field, it writes none"),
    "recursive": (RECURSIVE, "AVRO", "recursive: Sentence contains itself"),
    "array of null": (
        with_field(Sentence, "scorers", {"type": "array", "items": "null"}),
        "AVRO",
        "an array whose items take no bytes: null",
    ),
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_hostile_schemas_are_rejected(case):
    """An id for which the registry has something else, or something unsafe, is a reject that says what."""
    schema, language, reason = SCHEMAS[case]
    codec, value = registered(schema, b"\x00" * 50, language)
    with pytest.raises(UnsafeSchema, match=f"schema id 1: .*{reason}"):
        codec.decode(Sentence, value)


def test_a_schema_in_parts_is_rejected():
    """A schema that refers to others in the registry is refused instead of being read without them."""
    registry = FakeRegistry()
    registry.add(WriterSchema(current(Sentence).text, references=True))
    with pytest.raises(UnsafeSchema, match="refers to other schemas"):
        Codec(registry).decode(Sentence, b"\x00\x00\x00\x00\x01" + WHOLE[10:])


def bombs():
    """Fields that no reader wants, and payloads that would make much of little."""
    tiny = {"type": "record", "name": "Tiny", "fields": [{"name": "a", "type": "int"}]}
    deep = "boolean"
    for _ in range(20):
        deep = {"type": "array", "items": deep}
    yield {"type": "array", "items": tiny}, HUGE + b"\x00" * 1_000
    yield {"type": "array", "items": tiny}, b"\x80\x89\x7a" + b"\x00" * 999_999
    yield {"type": "map", "values": "null"}, HUGE + b"\x00" * 1_000
    yield deep, b"\x02" * 1_000_000
    yield deep, HUGE * 100_000
    yield "bytes", HUGE + b"x" * 1_000
    yield {"type": "fixed", "name": "F", "size": 1 << 60}, b"x" * 1_000


@pytest.mark.parametrize(("type_", "data"), list(bombs()))
def test_bombs_in_unknown_fields_cost_little(type_, data):
    """Passing over a hostile field takes time and memory in proportion to its bytes, and ends in a reject."""
    schema = schema_of(Sentence)
    schema["fields"].append({"name": "bomb", "type": type_})
    codec, value = registered(schema, WHOLE[10:] + data)
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(BadBytes):
        codec.decode(Sentence, value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(value) + 5_000_000
    assert time.monotonic() - started < 20


def outcome(codec, kind, value, headers=()):
    """The record, or the reject; anything else is a failure of the test."""
    try:
        record = codec.decode(kind, value, headers)
    except Reject as error:
        return error
    assert type(record) is kind
    return record


def mutated(value, dice):
    """The value with a few bytes changed, taken out, put in or repeated."""
    data = bytearray(value)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(4):
            case 0 if at < len(data):
                data[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
            case 1:
                del data[at : at + dice.randint(1, 9)]
            case 2:
                data[at:at] = dice.choice((HUGE, LEAST, b"\x00", b"\x01", b"\xff\xff", dice.randbytes(3)))
            case _:
                data[at:at] = data[at : at + dice.randint(1, 40)]
    return bytes(data)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_mutations_end_as_a_record_or_a_reject(record):
    """Thousands of damaged values of every kind, framed both ways, never end in any other error."""
    dice = random.Random(20260101)
    codec = Codec(FakeRegistry())
    values = codec.encode(record, "t"), Codec().encode(record, "t")
    seen = {type(outcome(codec, type(record), mutated(dice.choice(values), dice))) for _ in range(3_000)}
    assert {type(record), BadBytes, UnknownSchema} <= seen


def test_mutations_through_another_schema_end_as_a_record_or_a_reject():
    """The same for a writer whose schema is resolved, with fields to pass over."""
    schema = schema_of(Sentence)
    items = {"type": "map", "values": ["null", "double", {"type": "fixed", "name": "F", "size": 3}]}
    schema["fields"].insert(1, {"name": "x", "type": {"type": "array", "items": items}})
    datum = {**datum_of(SENTENCE), "x": [{"a": None, "b": 0.5}, {"c": b"abc"}]}
    codec, value = registered(schema, bare(schema, datum))
    dice = random.Random(20260102)
    seen = {type(outcome(codec, Sentence, mutated(value, dice))) for _ in range(3_000)}
    assert {Sentence, BadBytes} <= seen


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(["bare", "framed", "header"]))
def test_noise_ends_as_a_record_or_a_reject(noise, form):
    """Any bytes at all, after a good frame or with a good header, end as a record or a reject."""
    registry = FakeRegistry()
    registry.add(WriterSchema(current(Sentence).text))
    value = FRAME + noise if form == "framed" else noise
    outcome(Codec(registry), Sentence, value, [(VALUE_SCHEMA, b"\x00\x00\x00\x00\x01")] * (form == "header"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["record", "array", "int"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "name", "fields", "items", "values", "symbols", "size", "default", "namespace"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=500)
@given(json_values, st.binary(max_size=30))
def test_any_schema_ends_as_a_record_or_a_reject(schema, data):
    """Whatever JSON the registry calls a schema, its records end as records or rejects."""
    codec, value = registered(json.dumps(schema), data)
    outcome(codec, Sentence, value)


def test_no_message_quotes_the_record():
    """What a record holds never gets into the message of its reject, so not into logs or headers."""
    secret = "geheim-4711"
    dice = random.Random(20260103)
    value = Codec().encode(Sentence(secret * 3, secret * 9, metadata={secret: secret}), "t")
    for _ in range(2_000):
        result = outcome(Codec(), Sentence, value[:10] + mutated(value[10:], dice))
        if isinstance(result, Reject):
            assert "geheim" not in str(result)
            assert "4711" not in str(result)
            assert isinstance(result, BadBytes | InvalidField)
