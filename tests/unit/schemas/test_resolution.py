"""Schema resolution: what one schema wrote, read as another, by Avro's rules."""

import io
import json

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro import parse
from schemas.errors import UnsafeSchema
from schemas.reading import Broken
from schemas.resolution import reader, skipper
from tests.unit.schemas.examples import bare


def read(written, ours, datum, makers=None):
    """A datum written by one schema and read as another; all bytes must be used."""
    data = bare(written, datum)
    value, end = reader(parse(json.dumps(written)), parse(json.dumps(ours)), makers or {})(data, 0)
    assert end == len(data)
    return value


def record(*fields, name="R", **more):
    """A record's schema of whole field definitions."""
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name, type_, **more):
    """A field's definition."""
    return {"name": name, "type": type_, **more}


ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}


@pytest.mark.parametrize(
    ("written", "ours", "datum", "value"),
    [
        ("int", "long", -7, -7),
        ("int", "float", 7, 7.0),
        ("int", "double", 7, 7.0),
        ("long", "float", 1 << 40, float(1 << 40)),
        ("long", "double", 7, 7.0),
        ("float", "double", 0.5, 0.5),
        ("string", "bytes", "é", "é".encode()),
        ("bytes", "string", "é".encode(), "é"),
        ("null", ["null", "string"], None, None),
        ("string", ["null", "string"], "x", "x"),
        ("int", ["null", "long"], 3, 3),
        (["null", "string"], "string", "x", "x"),
        (["int", "string"], ["null", "string", "double"], 3, 3.0),
        ({"type": "array", "items": "int"}, {"type": "array", "items": "long"}, [1, 2], (1, 2)),
        ({"type": "map", "values": "int"}, {"type": "map", "values": "double"}, {"a": 1}, {"a": 1.0}),
        (ENUM, ENUM, "B", "B"),
        (ENUM, {**ENUM, "symbols": ["B", "C", "A"]}, "B", "B"),
        (ENUM, {**ENUM, "symbols": ["C", "A"], "default": "C"}, "B", "C"),
        (ENUM, {**ENUM, "name": "New", "aliases": ["E"]}, "B", "B"),
        (
            {"type": "fixed", "name": "F", "size": 2},
            {"type": "fixed", "name": "x.F", "size": 2},
            b"ab",
            b"ab",
        ),
        (record(field("a", "int")), record(field("a", "int"), name="ns.R"), {"a": 1}, {"a": 1}),
        (record(field("a", "int")), record(field("a", "int"), name="S", aliases=["R"]), {"a": 1}, {"a": 1}),
        (record(field("a", "int")), record(field("b", "int", aliases=["z", "a"])), {"a": 1}, {"b": 1}),
        (record(field("a", "int"), field("b", "int")), record(field("b", "int")), {"a": 1, "b": 2}, {"b": 2}),
        (
            record(field("a", "int"), field("b", "int")),
            record(field("b", "int"), field("a", "int")),
            {"a": 1, "b": 2},
            {"a": 1, "b": 2},
        ),
        (record(), record(field("a", ["null", "int"], default=None)), {}, {"a": None}),
    ],
)
def test_rules_of_resolution(written, ours, datum, value):
    """Promotions, unions, renamed, reordered, added and removed fields and symbols resolve as Avro says."""
    result = read(written, ours, datum)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("type_", "default", "value"),
    [
        ("string", "x", "x"),
        ("long", 7, 7),
        ("double", 7, 7.0),
        ("boolean", True, True),
        ("bytes", "\u00ff", b"\xff"),
        (["null", "int"], None, None),
        ({"type": "array", "items": "int"}, [1, 2], (1, 2)),
        ({"type": "map", "values": "double"}, {"a": 1}, {"a": 1.0}),
        ({"type": "fixed", "name": "F", "size": 1}, "\u00fe", b"\xfe"),
        (ENUM, "A", "A"),
        (record(field("x", "int"), field("y", "int", default=5), name="I"), {"x": 1}, {"x": 1, "y": 5}),
    ],
)
def test_a_missing_field_takes_our_default(type_, default, value):
    """A field that the writer lacks is read as the default of our schema, of every type."""
    assert read(record(), record(field("a", type_, default=default)), {}) == {"a": value}


def test_defaults_are_not_shared():
    """Two records read with a default map have a map each."""
    ours = record(field("a", {"type": "map", "values": "int"}, default={}))
    step = reader(parse(json.dumps(record())), parse(json.dumps(ours)), {})
    first, second = step(b"", 0)[0], step(b"", 0)[0]
    first["a"]["x"] = 1
    assert second == {"a": {}}


@pytest.mark.parametrize("items", ["float", "int", "long"])
def test_vectors_become_float32_arrays(items):
    """An array of float is one float32 array of its own, whatever numbers the writer wrote."""
    value = read({"type": "array", "items": items}, {"type": "array", "items": "float"}, [1, 2, 3])
    assert isinstance(value, np.ndarray)
    assert value.dtype == np.float32
    assert value.flags.owndata
    assert value.flags.writeable
    assert value.tolist() == [1.0, 2.0, 3.0]


def test_a_default_vector_is_an_array():
    """A missing vector is read as a float32 array too."""
    ours = record(field("v", {"type": "array", "items": "float"}, default=[1, 2]))
    assert read(record(), ours, {})["v"].dtype == np.float32


@pytest.mark.parametrize(
    ("written", "ours", "reason"),
    [
        ("long", "int", "expected int, it writes long"),
        ("double", "float", "expected float, it writes double"),
        ("string", "long", "expected long, it writes string"),
        (ENUM, "string", "expected string, it writes E"),
        (["null", "long"], "string", "expected string, it writes null or long"),
        ("long", ["null", "string"], "expected null or string, it writes long"),
        (record(), record(field("a", "int")), "a: expected a field, it writes none and there is no default"),
        (record(field("a", "string")), record(field("a", "int")), "a: expected int, it writes string"),
        (
            record(field("a", record(field("b", "string"), name="I"))),
            record(field("a", record(field("b", "int"), name="I"))),
            "a: b: expected int, it writes string",
        ),
        (record(name="Other"), record(), "expected R, it writes Other"),
        (ENUM, {**ENUM, "name": "Other"}, "expected Other, it writes E"),
        ({"type": "fixed", "name": "F", "size": 2}, {"type": "fixed", "name": "F", "size": 3}, "expected F"),
        ({"type": "array", "items": "string"}, {"type": "map", "values": "string"}, "expected map of string"),
    ],
)
def test_what_does_not_resolve_names_the_field(written, ours, reason):
    """Two schemas that do not fit are refused with the field, what was expected and what is written."""
    with pytest.raises(UnsafeSchema, match=reason):
        reader(parse(json.dumps(written)), parse(json.dumps(ours)), {})


def test_a_branch_that_does_not_fit_is_an_error_only_where_it_is_used():
    """A nullable writer's field is read as a plain one until a null comes."""
    written, ours = record(field("a", ["null", "string"])), record(field("a", "string"))
    assert read(written, ours, {"a": "x"}) == {"a": "x"}
    with pytest.raises(Broken, match="a: expected string"):
        read(written, ours, {"a": None})


def test_an_unknown_symbol_without_a_default_is_an_error_only_where_it_is_used():
    """A writer may have more symbols than we do as long as it does not use them."""
    ours = {**ENUM, "symbols": ["A"]}
    assert read(ENUM, ours, "A") == "A"
    with pytest.raises(Broken, match="expected one of A"):
        read(ENUM, ours, "B")


EVERYTHING = record(
    field("s", "string"),
    field("b", "bytes"),
    field("i", "int"),
    field("d", "double"),
    field("f", "float"),
    field("t", "boolean"),
    field("n", "null"),
    field("e", ENUM),
    field("x", {"type": "fixed", "name": "F", "size": 3}),
    field("u", ["null", "string", {"type": "array", "items": "int"}]),
    field("m", {"type": "map", "values": {"type": "array", "items": ["null", "E"]}}),
    field("r", {"type": "array", "items": record(field("y", "float"), field("z", "string"), name="I")}),
)
_text = st.text(st.characters(codec="utf-8"), max_size=9)
_i32 = st.integers(-(2**31), 2**31 - 1)
everything = st.fixed_dictionaries(
    {
        "s": _text,
        "b": st.binary(max_size=300),
        "i": _i32,
        "d": st.floats(allow_nan=False),
        "f": st.floats(allow_nan=False, width=32),
        "t": st.booleans(),
        "n": st.none(),
        "e": st.sampled_from("AB"),
        "x": st.binary(min_size=3, max_size=3),
        "u": st.none() | _text | st.lists(_i32, max_size=70),
        "m": st.dictionaries(_text, st.lists(st.none() | st.sampled_from("AB"), max_size=3), max_size=3),
        "r": st.lists(st.fixed_dictionaries({"y": st.floats(allow_nan=False, width=32), "z": _text}), max_size=70),
    }
)


@given(everything)
def test_everything_fastavro_writes_is_read_and_skipped(datum):
    """Any value of any type is read as fastavro reads it, and passed over to its very end."""
    data = bare(EVERYTHING, datum)
    type_ = parse(json.dumps(EVERYTHING))
    value, end = reader(type_, type_, {})(data, 0)
    theirs = fastavro.schemaless_reader(io.BytesIO(data), fastavro.parse_schema(EVERYTHING, named_schemas={}))
    assert end == len(data)
    assert as_lists(value) == theirs
    assert skipper(type_)(data, 0) == (None, len(data))


def as_lists(value):
    """The same with lists for tuples."""
    if isinstance(value, dict):
        return {key: as_lists(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [as_lists(inner) for inner in value]
    return value
