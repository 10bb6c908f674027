"""Schemas as types: Avro's rules for names, and the limits for what comes from outside."""

import json
import time

import pytest

from schemas import avro
from schemas.avro import Array, Enumeration, Fixed, Map, Primitive, Record, Union, parse, width
from schemas.errors import UnsafeSchema

LONG = Primitive("long")


def record(*fields, name="R", **more):
    """A record's schema; fields are (name, type) pairs."""
    return {"type": "record", "name": name, "fields": [{"name": n, "type": t} for n, t in fields], **more}


def parsed(schema):
    """The type of a schema given as JSON's values."""
    return parse(json.dumps(schema))


@pytest.mark.parametrize(
    ("schema", "type_"),
    [
        ("long", LONG),
        ({"type": "long", "logicalType": "timestamp-millis"}, LONG),
        ({"type": {"type": "long"}}, LONG),
        (["null", "string"], Union((Primitive("null"), Primitive("string")))),
        ({"type": "array", "items": "long"}, Array(LONG)),
        ({"type": "map", "values": "long"}, Map(LONG)),
        ({"type": "fixed", "name": "F", "size": 4, "aliases": ["a.Old"]}, Fixed("F", 4, ("Old",))),
        ({"type": "enum", "name": "E", "symbols": ["A"], "default": "A"}, Enumeration("E", ("A",), "A")),
    ],
)
def test_every_kind_of_type(schema, type_):
    """Each kind of schema becomes its type; logical types are their base type."""
    assert parsed(schema) == type_


def test_names_follow_namespaces():
    """A name without a dot belongs to the namespace around it; one with a dot is whole."""
    inner = record(("x", "long"), name="Inner")
    outer = parsed(record(("a", inner), ("b", "Inner"), ("c", "n.Inner"), name="Outer", namespace="n"))
    assert [field.type.name for field in outer.fields] == ["n.Inner"] * 3
    elsewhere = parsed(record(("a", record(("x", "long"), name="m.Inner")), ("b", "m.Inner"), name="n.Outer"))
    assert elsewhere.fields[1].type.name == "m.Inner"


def test_fields_keep_aliases_and_defaults():
    """A field's aliases and default are kept, and no default is not the default null."""
    fields = [{"name": "a", "type": "null", "default": None, "aliases": ["b"]}, {"name": "c", "type": "long"}]
    made = parsed({"type": "record", "name": "R", "fields": fields, "aliases": ["x.Old"]})
    assert made.aliases == ("Old",)
    assert (made.fields[0].aliases, made.fields[0].default) == (("b",), None)
    assert made.fields[1].default is avro.NO_DEFAULT


@pytest.mark.parametrize(
    ("schema", "bytes_"),
    [
        ("null", 0),
        ("boolean", 1),
        ("double", 8),
        (["null", "double"], 1),
        (["double", "float"], 5),
        ({"type": "array", "items": "double"}, 1),
        (record(("a", "float"), ("b", "null"), ("c", "string")), 5),
        ({"type": "fixed", "name": "F", "size": 9}, 9),
    ],
)
def test_the_fewest_bytes_of_a_value(schema, bytes_):
    """The least that a value takes decides how many items a block can hold."""
    assert width(parsed(schema)) == bytes_


def nested(levels):
    """Arrays in arrays."""
    schema = "long"
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def tower(levels, base="long"):
    """Records that each use the one before, so that names make a small text deep."""
    fields = [("f0", record(("x", base), name="T0"))]
    fields += [(f"f{n}", record(("x", f"T{n - 1}"), name=f"T{n}")) for n in range(1, levels)]
    return record(*fields, name="Tower")


def doubling(levels):
    """Records that each use the one before twice: 2 ** levels types in a small text."""
    fields = [("f0", record(("x", "long"), name="D0"))]
    fields += [(f"f{n}", record(("x", f"D{n - 1}"), ("y", f"D{n - 1}"), name=f"D{n}")) for n in range(1, levels)]
    return record(*fields, name="Doubling")


HOLLOW = record(("a", "long"), ("b", "null"), name="Hollow")
EMPTY = record(name="Empty")
REFUSED = {
    "not JSON": ("{", "not JSON"),
    "deep JSON": ("[" * 100_000, "not JSON"),
    "too long": (json.dumps("x" * 300_000), "longer than"),
    "huge number": ('{"type": "fixed", "name": "F", "size": ' + "9" * 5_000 + "}", "not JSON"),
    "a number": (7, "not an Avro type"),
    "null": (None, "not an Avro type"),
    "an empty object": ({}, "not an Avro type"),
    "JSON Schema": (
        {"type": "object", "properties": {"id": {"type": "string"}}},
        "object, which it does not",
    ),
    "unknown name": ("Sentence", "which it does not define"),
    "unnamed record": ({"type": "record", "fields": []}, "which it does not define"),
    "recursive": (record(("next", ["null", "R"])), "recursive: R contains itself"),
    "recursive by array": (record(("children", {"type": "array", "items": "R"})), "recursive"),
    "defined twice": (record(("a", EMPTY), ("b", EMPTY)), "defines Empty twice"),
    "nested deep": (nested(100), "nested more than 32"),
    "nested deep by names": (tower(60), "nested more than 32"),
    "many types by names": (doubling(20), "more than 1000 types"),
    "many types": (record(*((f"f{n}", "long") for n in range(2_000))), "more than 1000 types"),
    "array of null": ({"type": "array", "items": "null"}, "items take no bytes"),
    "array of empty records": ({"type": "array", "items": EMPTY}, "items take no bytes"),
    "array of empty fixed": (
        {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}},
        "no bytes",
    ),
    "array of half-empty records": ({"type": "array", "items": HOLLOW}, "items take no bytes"),
    "array of unions of such": ({"type": "array", "items": ["null", HOLLOW]}, "items take no bytes"),
    "map of half-empty records": ({"type": "map", "values": HOLLOW}, "whose fields take no bytes"),
    "union in union": (["null", ["long"]], "directly inside another"),
    "empty union": ([], "union that is empty"),
    "negative fixed": ({"type": "fixed", "name": "F", "size": -1}, "in a way that Avro does not know"),
    "enum without symbols": (
        {"type": "enum", "name": "E", "symbols": []},
        "in a way that Avro does not know",
    ),
    "enum of numbers": ({"type": "enum", "name": "E", "symbols": [1]}, "in a way that Avro does not know"),
    "enum with a wrong default": ({"type": "enum", "name": "E", "symbols": ["A"], "default": "B"}, "default"),
    "record without fields": ({"type": "record", "name": "R"}, "in a way that Avro does not know"),
    "field without type": ({"type": "record", "name": "R", "fields": [{"name": "a"}]}, "lacks name or type"),
    "field twice": (record(("a", "long"), ("a", "long")), "given twice"),
    "namespace that is no text": (record(("a", "long"), namespace=7), "namespace that is not text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsafe_and_broken_schemas_are_refused(case):
    """What is not Avro, or could make much of a few bytes, is refused with the reason, and fast."""
    schema, reason = REFUSED[case]
    started = time.monotonic()
    with pytest.raises(UnsafeSchema, match=reason):
        parse(schema) if isinstance(schema, str) and schema[:1] in "{[" else parsed(schema)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "schema",
    [
        nested(20),
        tower(20),
        record(("a", "null"), ("b", EMPTY)),
        {"type": "array", "items": ["null", EMPTY]},
        {"type": "map", "values": "null"},
    ],
)
def test_harmless_schemas_are_not_refused(schema):
    """Empty types outside arrays, or as a union's branch, are legal and cost nothing: they stay allowed."""
    assert parsed(schema)


def test_messages_about_schemas_are_short():
    """A hostile name a hundred thousand characters long does not end in a log line as long."""
    with pytest.raises(UnsafeSchema) as caught:
        parsed({"type": "array", "items": record(("a", "null"), name="N" * 100_000)})
    assert len(str(caught.value)) < 400


def test_a_record_is_recognised_by_its_type():
    """A parsed record is a Record with its full name."""
    assert isinstance(parsed(record(("a", "long"), namespace="n")), Record)
