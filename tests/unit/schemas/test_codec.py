"""The codec: records to bytes and back, in both framings and through other writers' schemas."""

import io
import json
import struct
from dataclasses import fields, replace
from uuid import UUID

import avro.io
import avro.schema
import numpy as np
import pytest
from confluent_kafka.schema_registry import (
    SchemaRegistryClient,
    header_schema_id_serializer,
    prefix_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import given

from schemas import codec as codec_module
from schemas.codec import MAX_ID, MAX_SCORERS, Codec, validate
from schemas.confluent import ConfluentRegistry
from schemas.contracts import SINGLE_OBJECT, current
from schemas.errors import BadBytes, InvalidField, RegistryUnavailable, UnknownSchema, UnsafeSchema
from schemas.headers import VALUE_SCHEMA
from schemas.records import Embedding, Overflow, Reply, Score, ScoreStatus, Sentence, Timings
from schemas.registry import WriterSchema
from schemas.testing import FakeRegistry
from tests.unit.schemas.examples import (
    EMBEDDING,
    RECORDS,
    REFUSED,
    REPLY,
    SCORE,
    SENTENCE,
    bare,
    codecs,
    datum_of,
    field_of,
    records,
    registered,
    schema_of,
    with_field,
    without_field,
)

SHORT = {"id": "s-1", "text": "Ein Satz."}


@given(records)
def test_what_is_written_is_read(record):
    """Any record comes back equal through both framings, NaN and infinity in vectors included."""
    for codec in codecs():
        again = codec.decode(type(record), codec.encode(record, "topic"))
        assert again == record
        assert type(again) is type(record)


@given(records)
def test_what_is_written_is_what_fastavro_writes(record):
    """Our bytes are those of another implementation, byte for byte."""
    value = Codec().encode(record, "topic")
    assert value[:10] == SINGLE_OBJECT + current(type(record)).fingerprint
    assert value[10:] == bare(schema_of(type(record)), datum_of(record))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_the_avro_package_reads_what_is_written(record):
    """A subscriber with Apache's own library gets the same fields."""
    schema = avro.schema.parse(current(type(record)).text)
    decoder = avro.io.BinaryDecoder(io.BytesIO(Codec().encode(record, "topic")[10:]))
    theirs = avro.io.DatumReader(schema).read(decoder)
    assert theirs.keys() == datum_of(record).keys()
    if isinstance(record, Reply):
        assert theirs["correlation_id"] == record.correlation_id
        assert theirs["embedding"]["vector"] == EMBEDDING.vector.tolist()
    else:
        assert theirs["id"] == record.id


def test_read_records_have_the_products_types():
    """Enums are enums, arrays tuples, timestamps whole numbers, and the vector a float32 array of its own."""
    codec = Codec()
    sentence = codec.decode(Sentence, codec.encode(SENTENCE, "t"))
    assert sentence.overflow is Overflow.REJECT
    assert isinstance(sentence.scorers, tuple)
    value = codec.encode(EMBEDDING, "t")
    embedding = codec.decode(Embedding, value)
    assert isinstance(embedding.embedded_at, int)
    assert embedding.source == EMBEDDING.source
    assert embedding.vector.dtype == np.float32
    assert embedding.vector.flags.owndata
    assert codec.decode(Score, codec.encode(SCORE, "t")).status is ScoreStatus.FALLBACK


def test_replies_have_the_products_types_inside():
    """The embedding and the scores of a reply are records, the vector an array, and the correlation id bytes."""
    codec = Codec()
    reply = codec.decode(Reply, codec.encode(REPLY, "t"))
    assert reply == REPLY
    assert isinstance(reply.embedding, Embedding)
    assert reply.embedding.vector.dtype == np.float32
    assert reply.embedding.vector.flags.owndata
    assert isinstance(reply.scores, tuple)
    assert [type(score) for score in reply.scores] == [Score, Score]
    assert reply.scores[0].status is ScoreStatus.FALLBACK
    assert codec.decode(Reply, codec.encode(REFUSED, "t")) == REFUSED


def test_an_older_reply_is_read_with_defaults():
    """A writer that knows nothing but what it serves is read as a reply without an answer."""
    schema = schema_of(Reply)
    schema["fields"] = [field_of(schema, "served")]
    codec, value = registered(schema, bare(schema, {"served": datum_of(REPLY.served)}))
    assert codec.decode(Reply, value) == Reply(served=REPLY.served, timings=Timings())


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_template_writes_the_same_bytes(record):
    """Whichever fields are fixed before, the bytes are those of the whole record."""
    names = [field.name for field in fields(record)]
    for fixed in (names, [], names[::2], names[1::2]):
        write = Codec().template(type(record), "topic", {name: getattr(record, name) for name in fixed})
        assert write([getattr(record, name) for name in names if name not in fixed]) == Codec().encode(record, "topic")


def test_a_template_names_the_field_that_does_not_fit():
    """As a record's does, with the path where it lies deeper."""
    write = Codec().template(Sentence, "topic", {"text": "x"})
    with pytest.raises(InvalidField, match="dimensions: expected"):
        write(["s-1", None, "many", (), Overflow.TRUNCATE, {}])


def test_a_schema_is_announced_once():
    """After a topic's schema was announced the registry is asked no more, so that writing goes on while it is away."""
    registry = FakeRegistry()
    codec = Codec(registry)
    codec.announce(Reply, "replies")
    codec.announce(Reply, "replies")
    assert (registry.asked, registry.subjects) == (1, {"replies-value": {1}})
    registry.away = True
    codec.announce(Reply, "replies")
    assert codec.encode(REPLY, "replies")[:5] == b"\x00\x00\x00\x00\x01"
    with pytest.raises(RegistryUnavailable):
        codec.announce(Reply, "others")


def test_a_vector_of_any_layout_is_written_as_its_values():
    """A strided or float64 vector is written as the float32 values it stands for."""
    strided = np.arange(6, dtype=np.float32)[::2]
    for vector in (strided, strided.astype(np.float64), strided.astype(">f4")):
        codec = Codec()
        again = codec.decode(Embedding, codec.encode(replace(EMBEDDING, vector=vector), "t"))
        assert again.vector.tolist() == [0.0, 2.0, 4.0]


def test_with_a_registry_values_name_their_id():
    """The schema is registered once under <topic>-value, and its id opens every value."""
    registry = FakeRegistry()
    codec = Codec(registry)
    values = {codec.encode(SENTENCE, "requests") for _ in range(3)}
    assert registry.asked == 1
    assert registry.subjects == {"requests-value": {1}}
    assert {value[:5] for value in values} == {b"\x00\x00\x00\x00\x01"}


def test_a_schema_is_looked_up_once():
    """Many records of one schema ask the registry once."""
    registry = FakeRegistry()
    value = Codec(registry).encode(SENTENCE, "t")
    reading, registry.asked = Codec(registry), 0
    for _ in range(5):
        reading.decode(Sentence, value)
    assert registry.asked == 1


def test_single_objects_are_read_with_a_registry_too():
    """A producer without the registry is understood by a worker that has one, even while it is away."""
    registry = FakeRegistry()
    registry.away = True
    assert Codec(registry).decode(Sentence, Codec().encode(SENTENCE, "t")) == SENTENCE


@pytest.mark.parametrize("in_header", [True, False])
def test_the_guid_form_is_read_from_header_or_value(in_header):
    """A GUID names the schema in the header, with bare Avro as the value, or in front of the value."""
    registry = FakeRegistry()
    schema_id = registry.add(WriterSchema(current(Sentence).text))
    frame, data = b"\x01" + registry.guid_of(schema_id).bytes, Codec().encode(SENTENCE, "t")[10:]
    codec = Codec(registry)
    value, headers = (data, [("x", None), (VALUE_SCHEMA, frame)]) if in_header else (frame + data, [])
    assert codec.decode(Sentence, value, headers) == SENTENCE


def test_the_header_may_hold_an_id():
    """The header form carries the id as well, and the last of two headers counts."""
    registry = FakeRegistry()
    registry.add(WriterSchema(current(Sentence).text))
    headers = [(VALUE_SCHEMA, b"garbage"), (VALUE_SCHEMA, b"\x00\x00\x00\x00\x01")]
    assert Codec(registry).decode(Sentence, Codec().encode(SENTENCE, "t")[10:], headers) == SENTENCE


@pytest.mark.parametrize("serializer", [prefix_schema_id_serializer, header_schema_id_serializer])
def test_confluents_own_serializer_is_understood(serializer):
    """What confluent-kafka's AvroSerializer writes, in both of its forms, is read."""
    client = SchemaRegistryClient.new_client({"url": f"mock://{serializer.__name__}"})
    conf = {"auto.register.schemas": True, "schema.id.serializer": serializer}
    write = AvroSerializer(client, json.dumps(schema_of(Sentence)), conf=conf)
    headers = []
    value = write(datum_of(SENTENCE), SerializationContext("requests", MessageField.VALUE, headers))
    assert Codec(ConfluentRegistry(client)).decode(Sentence, value, headers) == SENTENCE


def test_confluents_own_deserializer_understands():
    """What is written here, confluent-kafka's AvroDeserializer reads."""
    client = SchemaRegistryClient.new_client({"url": "mock://deserializer"})
    registry = FakeRegistry()
    registry.id_of = lambda subject, text: ConfluentRegistry(client).id_of(subject, text)
    value = Codec(registry).encode(SENTENCE, "requests")
    read = AvroDeserializer(client)(value, SerializationContext("requests", MessageField.VALUE))
    assert read["text"] == SENTENCE.text
    assert read["scorers"] == list(SENTENCE.scorers)


def with_changes(kind, **changes):
    """Our schema with changed field definitions."""
    schema = schema_of(kind)
    for name, change in changes.items():
        field_of(schema, name).update(change)
    return schema


ADDED = [
    {"name": "tags", "type": {"type": "array", "items": {"type": "map", "values": "bytes"}}},
    {"name": "rank", "type": ["null", "double"]},
]
ONLY = [field_of(schema_of(Sentence), "text"), field_of(schema_of(Sentence), "id")]
EVOLVED = {
    "only what has no default, in another order": ({**schema_of(Sentence), "fields": ONLY}, SHORT),
    "more fields": (
        {**schema_of(Sentence), "fields": [ADDED[0], *ONLY, ADDED[1]]},
        {**SHORT, "tags": [{"a": b"1"}, {}], "rank": 0.5},
    ),
    "text as bytes": (with_field(Sentence, "text", "bytes"), {**SHORT, "text": b"Ein Satz."}),
    "text as null or string": (with_field(Sentence, "text", ["null", "string"]), SHORT),
    "model as plain string": (with_field(Sentence, "model", "string"), {**SHORT, "model": "small"}),
    "no enum": (without_field(Sentence, "overflow"), SHORT),
    "another namespace": ({**schema_of(Sentence), "namespace": "com.example"}, SHORT),
    "Java's string": (
        with_field(Sentence, "text", {"type": "string", "avro.java.string": "String"}),
        SHORT,
    ),
    "logical types": (with_field(Sentence, "id", {"type": "string", "logicalType": "uuid"}), SHORT),
}


@pytest.mark.parametrize("case", EVOLVED)
def test_other_writers_are_understood(case):
    """Writers with fewer, more, other or renamed fields are read by Avro's rules, with our defaults."""
    schema, datum = EVOLVED[case]
    full = {"model": None, "dimensions": None, "scorers": [], "overflow": "truncate", "metadata": {}, **datum}
    data = bare(schema, full if "id" in datum else datum)
    codec, value = registered(schema, data)
    expected = Sentence("s-1", "Ein Satz.", model=datum.get("model"))
    assert codec.decode(Sentence, value) == expected


def test_a_newer_symbol_falls_back_to_the_enums_default():
    """A writer whose enum has a symbol that we do not know is read with our enum's default."""
    enum = {"type": "enum", "name": "Overflow", "symbols": ["summarise", "truncate", "reject"]}
    schema = with_field(Sentence, "overflow", enum)
    for symbol, read in (("summarise", "truncate"), ("reject", "reject")):
        codec, value = registered(schema, bare(schema, {**datum_of(SENTENCE), "overflow": symbol}))
        assert codec.decode(Sentence, value).overflow == read


@given(records)
def test_a_writer_with_fields_around_ours_is_understood(record):
    """Fields we do not know, before, between and after ours, do not shift what we read."""
    schema = schema_of(type(record))
    extra = [{"name": f"x{n}", "type": ["null", {"type": "array", "items": "string"}]} for n in range(40)]
    fields = [each for pair in zip(extra, schema["fields"], strict=False) for each in pair] + extra[-2:]
    schema["fields"] = fields
    datum = {f"x{n}": ["a", "b"] if n % 2 else None for n in range(40)} | datum_of(record)
    codec, value = registered(schema, bare(schema, datum))
    assert codec.decode(type(record), value) == record


def test_vectors_in_several_blocks_are_joined():
    """A writer may cut an array into blocks, with or without their size in bytes."""
    value = Codec().encode(EMBEDDING, "t")
    start = value.rindex(struct.pack("<3f", *EMBEDDING.vector)) - 1
    plain = b"\x02" + value[start + 1 : start + 5] + b"\x04" + value[start + 5 : start + 13] + b"\x00"
    sized = b"\x01\x08" + value[start + 1 : start + 5] + b"\x03\x10" + value[start + 5 : start + 13] + b"\x00"
    for blocks in (plain, sized):
        assert Codec().decode(Embedding, value[:start] + blocks) == EMBEDDING


INVALID = {
    "empty id": (Sentence("", "b"), "id: expected 1 to 512 characters, it has 0"),
    "long id": (Sentence("i" * (MAX_ID + 1), "b"), "id: expected 1 to 512 characters, it has 513"),
    "empty text": (Sentence("a", ""), "text: expected at least one character"),
    "blank text": (Sentence("a", " \n\u2003"), "text: expected at least one character"),
    "no dimensions": (Sentence("a", "b", dimensions=0), "dimensions: expected 1 or more, or null, it is 0"),
    "negative dimensions": (Sentence("a", "b", dimensions=-3), "dimensions: expected 1 or more"),
    "scorers": (Sentence("a", "b", scorers=("x",) * (MAX_SCORERS + 1)), "scorers: expected 64 names at most"),
    "short vector": (
        replace(EMBEDDING, dimensions=4),
        "vector: expected as many values as dimensions says, 4",
    ),
    "short vector in a reply": (
        replace(REPLY, embedding=replace(EMBEDDING, dimensions=4)),
        "vector: expected as many values as dimensions says, 4",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_records_that_make_no_sense_are_invalid(case):
    """A well-formed record with a value that nobody could work on is a reject that names the field."""
    record, reason = INVALID[case]
    with pytest.raises(InvalidField, match=reason):
        validate(record)
    codec = Codec()
    with pytest.raises(InvalidField, match=reason):
        codec.decode(type(record), codec.encode(record, "t"))


def test_the_limits_are_allowed():
    """A record right at its limits is valid."""
    validate(Sentence("i" * MAX_ID, "b", dimensions=1, scorers=("x",) * MAX_SCORERS))


UNWRITABLE = {
    "text is a number": (replace(SENTENCE, text=7), "text: expected string"),
    "text is bytes": (replace(SENTENCE, text=b"x"), "text: expected string"),
    "text is None": (replace(SENTENCE, text=None), "text: expected string"),
    "half a character": (replace(SENTENCE, text="\ud800"), "text: expected string"),
    "too many dimensions": (replace(SENTENCE, dimensions=1 << 31), "dimensions: expected null or int"),
    "not a symbol": (replace(SENTENCE, overflow="cut"), "overflow: expected sentence_streams.Overflow"),
    "metadata of numbers": (replace(SENTENCE, metadata={"a": 1}), "metadata: expected map of string"),
    "metadata is a list": (replace(SENTENCE, metadata=["a"]), "metadata: expected map of string"),
    "scorers is a number": (replace(SENTENCE, scorers=7), "scorers: expected array of string"),
    "scores of text": (replace(SCORE, score="high"), "score: expected double"),
    "time out of range": (replace(SCORE, scored_at=1 << 63), "scored_at: expected long"),
    "a time of day": (replace(SCORE, scored_at=0.5), "scored_at: expected long"),
    "a source field": (
        replace(SCORE, source=replace(SCORE.source, topic=None)),
        "source.topic: expected string",
    ),
    "correlation id of text": (replace(REPLY, correlation_id="c-1"), "correlation_id: expected bytes"),
    "correlation id of numbers": (replace(REPLY, correlation_id=[1, 2]), "correlation_id: expected bytes"),
    "a score inside": (
        replace(REPLY, scores=(replace(SCORE, label=None),)),
        "scores.label: expected string",
    ),
    "a vector inside": (
        replace(REPLY, embedding=replace(EMBEDDING, vector=["a"])),
        "embedding.vector: expected array of float",
    ),
    "no answerer": (replace(REPLY, served=None), "served: expected sentence_streams.Served"),
    "two vectors": (replace(EMBEDDING, vector=np.zeros((2, 2))), "vector: expected array of float"),
    "vector of text": (replace(EMBEDDING, vector=["a"]), "vector: expected array of float"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_a_schema_cannot_hold_is_not_written(case):
    """A value that does not fit its field is a reject that names the field, whatever Python raised."""
    record, reason = UNWRITABLE[case]
    with pytest.raises(InvalidField, match=reason):
        Codec().encode(record, "t")


def test_an_outage_is_a_retry_and_not_remembered():
    """While the registry is away reading and writing wait; once it is back they work."""
    registry = FakeRegistry()
    value = Codec(registry).encode(SENTENCE, "t")
    codec, registry.away = Codec(registry), True
    with pytest.raises(RegistryUnavailable):
        codec.decode(Sentence, value)
    with pytest.raises(RegistryUnavailable):
        codec.encode(SENTENCE, "t")
    registry.away = False
    assert codec.decode(Sentence, value) == SENTENCE
    assert codec.encode(SENTENCE, "t") == value


def test_an_unknown_schema_is_asked_for_again():
    """That an id is unknown is for the registry to remember: once it is registered it is read."""
    registry = FakeRegistry()
    codec = Codec(registry)
    value = Codec(FakeRegistry()).encode(SENTENCE, "t")
    with pytest.raises(UnknownSchema, match="schema id 1"):
        codec.decode(Sentence, value)
    codec.encode(SENTENCE, "t")
    assert codec.decode(Sentence, value) == SENTENCE


def test_an_unfit_schema_is_asked_for_once():
    """A schema that does not fit never will, so its records cost the registry one question."""
    registry = FakeRegistry()
    codec = Codec(registry)
    value = codec.encode(SCORE, "t")
    registry.asked = 0
    for _ in range(3):
        with pytest.raises(UnsafeSchema, match=r"schema id 1: .*expected sentence_streams.Sentence, it writes"):
            codec.decode(Sentence, value)
    assert registry.asked == 1


def test_many_schemas_do_not_pile_up(monkeypatch):
    """However many schemas writers use, a bounded number is kept ready, and all are read."""
    monkeypatch.setattr(codec_module, "_MAX_PLANS", 2)
    registry = FakeRegistry()
    codec = Codec(registry)
    data = Codec().encode(SENTENCE, "t")[10:]
    for n in range(5):
        schema = json.dumps({**schema_of(Sentence), "doc": f"version {n}"})
        frame = registry.add(WriterSchema(schema)).to_bytes(5, "big")
        assert codec.decode(Sentence, frame + data) == SENTENCE
    assert len(codec._plans) <= 2


def test_without_a_registry_its_ids_are_unknown():
    """A value that names a registry's schema is a reject where no registry is configured."""
    for frame in (b"\x00\x00\x00\x00\x07", b"\x01" + UUID(int=7).bytes):
        with pytest.raises(UnknownSchema, match="none is configured"):
            Codec().decode(Sentence, frame + b"x")


def test_a_rejected_record_can_be_rejected_again():
    """Each record gets an error of its own, so tracebacks do not grow from record to record."""
    codec, value = registered('"string"', b"\x02a")
    caught = []
    for _ in range(2):
        with pytest.raises(UnsafeSchema) as error:
            codec.decode(Sentence, value)
        caught.append(error.value)
    assert caught[0] is not caught[1]


def test_a_null_value_is_bad_bytes():
    """A tombstone is not a record: whoever gets here with one is told so."""
    with pytest.raises(BadBytes, match="expected bytes, it is NoneType"):
        Codec().decode(Sentence, None)
