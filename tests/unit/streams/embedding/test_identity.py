"""Names that follow from the content."""

import uuid
from dataclasses import replace
from typing import Any

import pytest

from schemas.records import Encoding
from streams.embedding.embedder import Identity
from streams.embedding.identity import content_key, embedding_id, identity_key, manner

IDENTITY = Identity("model", "abc", "d1", "float32", "", "mean", 384, 256)
KEY = identity_key(IDENTITY)


def test_the_same_content_has_the_same_id() -> None:
    """A repeat of a sentence gets the same version 5 UUID, in this release and in every later one."""
    first = embedding_id("s-1", "A text.", manner(IDENTITY, 384))

    assert first == embedding_id("s-1", "A text.", manner(IDENTITY, 384))
    assert uuid.UUID(first).version == 5
    assert first == "e294c6ba-2972-5dcb-a435-7d69c08d3c76"


def test_an_id_is_spelt_as_a_uuid() -> None:
    """Every variant's two bits come out as the standard library spells them."""
    for number in range(64):
        name = embedding_id(str(number), "A text.", manner(IDENTITY, 384))
        assert str(uuid.UUID(name)) == name
        assert uuid.UUID(name).variant == uuid.RFC_4122


#: Whatever of a model decides its vectors.
CHANGES: list[dict[str, Any]] = [
    {"name": "other"},
    {"revision": "abd"},
    {"precision": "int8"},
    {"prompt": "query: "},
    {"pooling": "cls"},
]


@pytest.mark.parametrize("changed", CHANGES, ids=lambda changed: next(iter(changed)))
def test_what_changes_the_vector_changes_the_id(changed: dict[str, Any]) -> None:
    """Every part of the model's identity that a subscriber tells models apart by is in the id."""
    assert embedding_id("s-1", "A text.", manner(replace(IDENTITY, **changed), 384)) != embedding_id(
        "s-1", "A text.", manner(IDENTITY, 384)
    )


def test_text_dimensions_and_sentence_tell_embeddings_apart() -> None:
    """Another text, another size or another sentence is another embedding."""
    wanted = [("s-1", "a", 384), ("s-1", "b", 384), ("s-1", "a", 64), ("s-2", "a", 384)]
    assert len({embedding_id(sentence, text, manner(IDENTITY, size)) for sentence, text, size in wanted}) == 4


def test_another_encoding_is_another_embedding() -> None:
    """A subscriber who has both keeps both; float32 has the id that it had before there were others."""
    names = [embedding_id("s-1", "A text.", manner(IDENTITY, 384, encoding)) for encoding in Encoding]
    assert len(set(names)) == 3
    assert names[0] == embedding_id("s-1", "A text.", manner(IDENTITY, 384))


@pytest.mark.parametrize(
    "changed", [*CHANGES, {"digest": "d2"}, {"dimensions": 768}, {"max_tokens": 128}], ids=lambda each: next(iter(each))
)
def test_no_other_model_finds_a_cached_vector(changed: dict[str, Any]) -> None:
    """Whatever differs in a model, the weights of a folder that was overwritten too, its cache keys are others."""
    other = identity_key(replace(IDENTITY, **changed))
    assert other != KEY
    assert content_key("A text.", other, 384) != content_key("A text.", KEY, 384)


def test_text_and_dimensions_tell_cached_vectors_apart() -> None:
    """A key names one text at one size, and is the same for whoever knows both and the model's identity."""
    keys = {content_key("a", KEY, 384), content_key("b", KEY, 384), content_key("a", KEY, 64)}
    assert len(keys) == 3
    assert content_key("a", KEY, 384) in keys
    assert all(len(key) == 64 for key in keys)


def test_parts_of_a_name_do_not_run_together() -> None:
    """Where one part ends and the next begins makes a difference."""
    one, other = replace(IDENTITY, name="ab", revision="c"), replace(IDENTITY, name="a", revision="bc")
    assert identity_key(one) != identity_key(other)
