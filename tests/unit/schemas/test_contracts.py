"""The .avsc files: documented, identified, and compatible with every release."""

import json
from importlib.resources import files

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from schemas.avro import parse
from schemas.contracts import FILES, MAKERS, by_fingerprint, current, fingerprint_of
from schemas.records import Embedding, Reply, Score, Sentence
from schemas.resolution import reader
from tests.unit.schemas.examples import schema_of

FOLDER = files("schemas")
#: By SchemaNormalization.parsingFingerprint("CRC-64-AVRO", schema) of Apache Avro 1.12.0.
JAVA_FINGERPRINTS = {
    "sentence.avsc": "66a1fb7587ff17c1",
    "embedding.avsc": "a0f9dffb09e51ca6",
    "score.avsc": "eaf628debd223249",
    "reply.avsc": "93211b5aa63a0597",
    "alert.avsc": "47a47c72db0eda12",
}
RELEASED = sorted((file for version in (FOLDER / "released").iterdir() for file in version.iterdir()), key=str)


def named_types(schema):
    """The records and enums of a schema, outermost first."""
    if isinstance(schema, dict):
        if "name" in schema and "type" in schema and schema["type"] in ("record", "enum"):
            yield schema
        for value in schema.values():
            yield from named_types(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from named_types(value)


def resolves(written: str, read: str) -> bool:
    """Whether the avro package thinks that what one schema writes can be read as the other."""
    checker = ReaderWriterCompatibilityChecker()
    result = checker.get_compatibility(avro.schema.parse(read), avro.schema.parse(written))
    return result.compatibility is SchemaCompatibilityType.compatible


@pytest.mark.parametrize("release", RELEASED, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_compatible_with_every_release(release):
    """What a release wrote is read today, and what is written today a release can read: FULL_TRANSITIVE."""
    now, then = (FOLDER / release.name).read_text(), release.read_text()
    assert resolves(written=then, read=now)
    assert resolves(written=now, read=then)
    reader(parse(then), parse(now), MAKERS)
    reader(parse(now), parse(then), MAKERS)


def test_the_check_sees_a_breaking_change():
    """A new field without a default is caught by the check above."""
    old = schema_of(Sentence)
    new = {**old, "fields": [*old["fields"], {"name": "added", "type": "string"}]}
    assert not resolves(written=json.dumps(old), read=json.dumps(new))


@pytest.mark.parametrize("kind", FILES)
def test_everything_is_documented(kind):
    """Every record, enum and field says what it means."""
    for named in named_types(schema_of(kind)):
        assert named["doc"], named["name"]
        for field in named.get("fields", []):
            assert field["doc"].endswith("."), field["name"]


@pytest.mark.parametrize("name", JAVA_FINGERPRINTS)
def test_fingerprints_are_those_of_avro_for_java(name):
    """A schema's fingerprint is what the reference implementation makes of it."""
    text = (FOLDER / "released" / "v1" / name).read_text()
    assert fingerprint_of(text).hex() == JAVA_FINGERPRINTS[name]


def test_every_release_is_known_by_its_fingerprint():
    """What any release wrote without a registry can be read."""
    texts = [release.read_text() for release in RELEASED]
    assert {fingerprint_of(text) for text in texts} <= set(by_fingerprint())
    assert {current(kind).fingerprint for kind in FILES} <= set(by_fingerprint())


def test_a_reply_holds_the_very_records_that_are_published():
    """The embedding and the scores inside a reply have every field that they have on their own topics."""
    fields = {field.name: field.type for field in current(Reply).type.fields}
    assert fields["embedding"].branches[1] == current(Embedding).type
    assert fields["scores"].items == current(Score).type


def test_the_vector_comes_last():
    """The embedding's vector is its last field, so that a reader in a hurry can stop before it."""
    assert current(Embedding).type.fields[-1].name == "vector"
