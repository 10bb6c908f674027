"""Deterministic ids of results: a repeat gives the same id, so for subscribers it is an upsert."""

import hashlib
import uuid

from streams.embedding.embedder import Identity

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "sentence-streams/embedding")


def content_key(text: str, identity: Identity, dimensions: int) -> str:
    """Names a vector by all that decides it: equal keys, equal vectors. The key of a cache, in hex."""
    parts = (
        hashlib.sha256(text.encode()).hexdigest(),
        identity.name,
        identity.revision,
        identity.precision,
        identity.prompt,
        identity.pooling,
        str(dimensions),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def embedding_id(sentence_id: str, key: str) -> str:
    """UUIDv5 of an embedding, from its sentence's id and its `content_key`."""
    return str(uuid.uuid5(_NAMESPACE, f"{sentence_id}\0{key}"))
