"""One suite for every registry: the one in memory and a real one behind HTTP."""

import json
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from schemas.codec import Codec
from schemas.confluent import ConfluentRegistry, RegistryAccess
from schemas.contracts import FILES, current
from schemas.errors import RegistryUnavailable, UnknownSchema, UnsafeSchema
from schemas.records import Sentence
from schemas.registry import Registry
from schemas.testing import FakeRegistry

SENTENCE = Sentence("s-1", "Ein Satz.", metadata={"lang": "de"})


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.registry)])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    """A registry of each kind."""
    if request.param == "fake":
        yield FakeRegistry()
        return
    with RegistryAccess(url=request.getfixturevalue("registry_url")).connect() as client:
        yield ConfluentRegistry(client)


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"contract-{uuid4()}"


@pytest.mark.parametrize("kind", FILES)
def test_a_registered_schema_is_found_by_its_id(registry, topic, kind):
    """What is registered comes back under its id as the same schema."""
    text = current(kind).text
    found = registry.by_id(registry.id_of(f"{topic}-value", text))
    assert json.loads(found.text) == json.loads(text)
    assert (found.language, found.references) == ("AVRO", False)


def test_registering_again_gives_the_same_id(registry, topic):
    """The same schema under the same subject has one id, however often it is registered."""
    text = current(Sentence).text
    assert registry.id_of(f"{topic}-value", text) == registry.id_of(f"{topic}-value", text)


def test_different_schemas_have_different_ids(registry, topic):
    """No two schemas share an id."""
    ids = {registry.id_of(f"{topic}-{kind.__name__}-value", current(kind).text) for kind in FILES}
    assert len(ids) == len(FILES)


@pytest.mark.parametrize("schema_id", [0, 2_000_000_000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_an_id_nobody_registered_is_unknown(registry, schema_id):
    """Whatever id a hostile record names, an unknown one is a reject and not an outage."""
    with pytest.raises(UnknownSchema):
        registry.by_id(schema_id)


def test_a_guid_nobody_registered_is_unknown(registry):
    """The same for GUIDs, also where the registry has never heard of them."""
    with pytest.raises(UnknownSchema):
        registry.by_guid(UUID(int=7))


def test_records_travel_by_id(registry, topic):
    """A codec on the registry writes what another codec on it reads."""
    value = Codec(registry).encode(SENTENCE, topic)
    assert value[0] == 0
    assert Codec(registry).decode(Sentence, value) == SENTENCE


def test_another_writers_schema_is_resolved(registry, topic):
    """A producer with a schema of its own, in the registry, is understood."""
    fields = [{"name": "text", "type": "string"}, {"name": "id", "type": "string"}]
    own = json.dumps({"type": "record", "name": "Sentence", "namespace": "com.example", "fields": fields})
    frame = registry.id_of(f"{topic}-value", own).to_bytes(5, "big")
    assert Codec(registry).decode(Sentence, frame + b"\x02b\x02a") == Sentence("a", "b")


def test_another_record_is_refused(registry, topic):
    """An id that the registry answers with some other record is a reject that says what it is."""
    own = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}]})
    frame = registry.id_of(f"{topic}-value", own).to_bytes(5, "big")
    with pytest.raises(UnsafeSchema, match="it writes Order"):
        Codec(registry).decode(Sentence, frame + b"\x02a")


@pytest.mark.registry
def test_a_subject_that_refuses_our_schema_is_a_retry(registry_url, topic):
    """Where the registry forbids the change, results wait for an operator instead of being rejected."""
    with RegistryAccess(url=registry_url).connect() as client:
        registry = ConfluentRegistry(client)
        registry.id_of(f"{topic}-value", json.dumps({"type": "record", "name": "Order", "fields": []}))
        client.set_compatibility(f"{topic}-value", "FULL_TRANSITIVE")
        with pytest.raises(RegistryUnavailable, match=f"{topic}-value: the registry answered 409: "):
            registry.id_of(f"{topic}-value", current(Sentence).text)
