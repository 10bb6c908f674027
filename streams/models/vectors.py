"""Vectors of a data set, embedded chunk by chunk; what was embedded before is not embedded again.

A chunk is looked for where earlier runs on the same sentences left it, then its texts in the cache that workers fill,
and what is still missing is embedded here, by an embedder of the trainer's own. So a run that is stopped or killed goes
on where it was, and live traffic shares no lane with it.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from schemas.errors import EmbeddingFailed, StreamsError
from streams.cache import VectorCache
from streams.embedding.embedder import Embedder, Tokens, Vectors
from streams.embedding.identity import content_key, identity_key
from streams.models.training import Embedded

#: Sentences of a chunk: what a run that is killed embeds again at most.
CHUNK = 512


class Stopped(StreamsError):
    """The run was told to stop; begun again, it goes on where it was."""


class Notes(Protocol):
    """Keeps a run's chunks by name."""

    def load(self, name: str) -> bytes | None:
        """Returns what was saved under a name, None where there is nothing."""

    def save(self, name: str, content: bytes) -> None:
        """Keeps it."""


class NoNotes:
    """Keeps nothing."""

    def load(self, name: str) -> bytes | None:
        return None

    def save(self, name: str, content: bytes) -> None:
        """Forgets it."""


class Vectoriser:
    """Embeds data sets with one embedder."""

    def __init__(self, embedder: Embedder, cache: VectorCache | None, notes: Notes) -> None:
        self.identity = embedder.identity
        self._key = identity_key(embedder.identity)
        self._embedder = embedder
        self._cache = cache
        self._notes = notes

    def __call__(
        self,
        texts: Sequence[str],
        advance: Callable[[int], None] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Embedded:
        """Embeds texts in their order; `advance` is told how many are done.

        Raises Stopped between two chunks once `stopped` says so, EmbeddingFailed for a vector that is not finite.
        """
        vectors, tokens = [], []
        for start in range(0, len(texts), CHUNK):
            if stopped():
                raise Stopped("told to stop")
            chunk = texts[start : start + CHUNK]
            read = self._embedder.tokenise(chunk)
            vectors.append(self._chunk(chunk, read))
            tokens += read
            advance(len(tokens))
        return Embedded(
            np.concatenate(vectors),
            np.array([len(one) for one in tokens], dtype=np.int64),
            sum(one.truncated for one in tokens) / len(tokens),
        )

    def _chunk(self, texts: Sequence[str], tokens: Sequence[Tokens]) -> Vectors:
        name = f"{self._key}-{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()}.safetensors"
        vectors = _unpacked(self._notes.load(name), (len(texts), self.identity.dimensions))
        if vectors is None:
            vectors = self._found(texts, tokens)
            if not np.isfinite(vectors).all():
                raise EmbeddingFailed("the model's vector of a sentence holds values that are not finite numbers")
            self._notes.save(name, save({"vectors": np.ascontiguousarray(vectors)}))
        return vectors

    def _found(self, texts: Sequence[str], tokens: Sequence[Tokens]) -> Vectors:
        if self._cache is None:
            return self._embed(tokens)
        keys = [content_key(text, self._key, self.identity.dimensions) for text in texts]
        known = self._cache.get_many(keys)
        missing = [row for row, vector in enumerate(known) if vector is None]
        vectors = np.empty((len(texts), self.identity.dimensions), dtype=np.float32)
        if missing:
            vectors[missing] = self._embed([tokens[row] for row in missing])
            self._cache.put_many({keys[row]: vectors[row] for row in missing})
        for row, vector in enumerate(known):
            if vector is not None:
                vectors[row] = vector
        return vectors

    def _embed(self, tokens: Sequence[Tokens]) -> Vectors:
        """Shortest first, in batches of the embedder's budget, so that little of a batch is padding."""
        vectors = np.empty((len(tokens), self.identity.dimensions), dtype=np.float32)
        batch: list[int] = []
        for row in sorted(range(len(tokens)), key=lambda row: len(tokens[row])):
            if batch and len(tokens[row]) * (len(batch) + 1) > self._embedder.token_budget:
                vectors[batch] = self._embedder.embed([tokens[each] for each in batch])
                batch = []
            batch.append(row)
        vectors[batch] = self._embedder.embed([tokens[each] for each in batch])
        return vectors


def _unpacked(content: bytes | None, shape: tuple[int, int]) -> Vectors | None:
    """The vectors of a kept chunk; None where nothing was kept, or something else."""
    if content is None:
        return None
    try:
        vectors: Vectors = load(content)["vectors"]
    except (SafetensorError, KeyError):
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float32 and np.isfinite(vectors).all() else None
