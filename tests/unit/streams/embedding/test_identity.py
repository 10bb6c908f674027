"""Ids that follow from the content."""

import uuid
from dataclasses import replace
from typing import Any

import pytest

from streams.embedding.embedder import Identity
from streams.embedding.identity import content_key, embedding_id

IDENTITY = Identity("model", "abc", "d1", "float32", "", "mean", 384, 256)


def test_the_same_content_has_the_same_id() -> None:
    """A repeat of a sentence gets the same version 5 UUID, in this release and in every later one."""
    first = embedding_id("s-1", content_key("A text.", IDENTITY, 384))

    assert first == embedding_id("s-1", content_key("A text.", IDENTITY, 384))
    assert uuid.UUID(first).version == 5
    assert first == "e294c6ba-2972-5dcb-a435-7d69c08d3c76"


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"revision": "abd"},
        {"precision": "int8"},
        {"prompt": "query: "},
        {"pooling": "cls"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_changes_the_vector_changes_the_key(changed: dict[str, Any]) -> None:
    """Every part of the model's identity that decides a vector is in the key."""
    assert content_key("A text.", replace(IDENTITY, **changed), 384) != content_key("A text.", IDENTITY, 384)


def test_text_dimensions_and_sentence_tell_embeddings_apart() -> None:
    """Another text, another size or another sentence is another embedding."""
    keys = {content_key("a", IDENTITY, 384), content_key("b", IDENTITY, 384), content_key("a", IDENTITY, 64)}
    key = content_key("a", IDENTITY, 384)

    assert len(keys) == 3
    assert embedding_id("s-1", key) != embedding_id("s-2", key)
