"""Records: frozen, comparable, in the order of their contracts."""

from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from schemas.contracts import MAKERS, current
from schemas.records import Embedding, Sentence
from tests.unit.schemas.examples import EMBEDDING, RECORDS, SENTENCE


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_fields_are_those_of_the_contract(record):
    """A record has exactly the contract's fields, in its order."""
    assert [field.name for field in fields(record)] == [field.name for field in current(type(record)).type.fields]


def test_the_defaults_of_records_are_those_of_the_contracts():
    """What a record takes for a field that is not given is what an older writer's record is read with."""
    for record in RECORDS:
        given = {field.name: field.default for field in current(type(record)).type.fields}
        for field in fields(record):
            default = field.default_factory() if callable(field.default_factory) else field.default
            if isinstance(default, tuple | dict | str | int | None):
                assert given[field.name] == (list(default) if isinstance(default, tuple) else default), field.name


def test_records_are_frozen_and_slotted():
    """A record cannot be changed or grow attributes."""
    with pytest.raises(FrozenInstanceError):
        SENTENCE.text = "other"
    assert not hasattr(SENTENCE, "__dict__")


def test_a_sentence_needs_only_id_and_text():
    """Everything else of a sentence has a default."""
    assert Sentence("a", "b").overflow == "truncate"


def test_sentences_can_be_hashed():
    """Metadata, a mapping, does not keep a record out of a set."""
    assert len({SENTENCE, replace(SENTENCE)}) == 1


def test_embeddings_are_equal_value_by_value():
    """Two embeddings are equal when all fields and the whole vector are."""
    copy = replace(EMBEDDING, vector=EMBEDDING.vector.copy())
    assert copy == EMBEDDING
    assert hash(copy) == hash(EMBEDDING)
    assert replace(EMBEDDING, vector=np.zeros(3, np.float32)) != EMBEDDING
    assert replace(EMBEDDING, token_count=6) != EMBEDDING
    assert EMBEDDING != "e-1"


def test_a_vector_with_nan_equals_itself():
    """NaN in a vector does not make an embedding differ from its copy."""
    vector = np.array([np.nan, 1, 2], np.float32)
    assert replace(EMBEDDING, vector=vector) == replace(EMBEDDING, vector=vector.copy())


def test_every_named_type_has_a_maker():
    """Each named type of the contracts is made by the class of the same name."""
    assert MAKERS["Embedding"] is Embedding
    names = {"Sentence", "Embedding", "Score", "Source", "Overflow", "ScoreStatus", "Alert", "Severity"}
    names |= {"Reply", "ReplyError", "Served", "Timings", "ModelCommand", "ModelKind", "Target"}
    assert set(MAKERS) == names | {"TrainingRequest", "HeadKind", "Encoding"}
