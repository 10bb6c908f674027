"""Avro's binary encoding, written: the odd shapes that whole records do not show."""

import json

import pytest

from schemas.avro import parse
from schemas.writing import writer
from tests.unit.schemas.examples import bare


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("long", -(1 << 63)),
        ("long", (1 << 63) - 1),
        ("int", -(1 << 31)),
        ("boolean", False),
        ("string", "é" * 5_000),
        (["null", "string"], None),
        ("bytes", b""),
        ("bytes", bytes(range(256)) * 300),
        ({"type": "array", "items": "string"}, []),
        ({"type": "array", "items": "string"}, ["a"] * 200),
        ({"type": "map", "values": "double"}, {}),
    ],
)
def test_values_are_written_as_fastavro_does(schema, value):
    """Every shape of value, at its edges, becomes the same bytes as in another implementation."""
    out = bytearray()
    writer(parse(json.dumps(schema)))(value, out)
    assert bytes(out) == bare(schema, value)


@pytest.mark.parametrize("schema", ['"float"', '["string", "null"]', '{"type":"fixed","name":"F","size":1}'])
def test_types_that_our_records_lack_are_not_written(schema):
    """A contract with a type that nobody taught the writer fails when it is loaded, not at a record."""
    with pytest.raises(TypeError, match="no record of ours has a field of type"):
        writer(parse(schema))
