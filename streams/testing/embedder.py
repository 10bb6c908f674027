"""An embedder without a model: the same text always gives the same vector, for microseconds."""

import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from streams.embedding.embedder import Identity, Tokens, Vectors

Poison = Callable[[Vectors], Vectors]

_DIMENSIONS = 384
_MAX_TOKENS = 256


class DeterministicEmbedder:
    """Embedder whose vectors come from a hash: bit for bit the same on every machine, and meaningless.

    A token is a word between spaces. `poison` maps a word to what happens when a batch holds a text with
    it: the function gets that text's row, shape (384,), and returns it, another one (of NaN, say), raises, or
    never returns. Each `variant` is another model: another name, other weights, other vectors.
    """

    concurrency = 1
    token_budget = 8192
    identity = Identity(
        name="deterministic",
        revision="1",
        digest=hashlib.sha256(b"deterministic 1").hexdigest(),
        precision="float32",
        prompt="",
        pooling="hash",
        dimensions=_DIMENSIONS,
        max_tokens=_MAX_TOKENS,
    )

    def __init__(self, poison: Mapping[str, Poison] | None = None, variant: str = "1") -> None:
        self._poison = {_token(word): act for word, act in (poison or {}).items()}
        self._salt = b"" if variant == "1" else variant.encode()
        if self._salt:
            digest = hashlib.sha256(f"deterministic {variant}".encode()).hexdigest()
            self.identity = replace(self.identity, name=f"deterministic:{variant}", digest=digest)

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """One token a word, 256 at most."""
        return [_tokens(text) for text in texts]

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        """Unit vectors, shape (len(batch), 384)."""
        hashed = b"".join(_hash(tokens.ids, self._salt) for tokens in batch)
        rows = np.frombuffer(hashed, np.int8).reshape(len(batch), _DIMENSIONS).astype(np.float32)
        # Whole numbers below 2^24: the sum is exact in any order, hence the same bits everywhere.
        vectors: Vectors = rows / np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
        for row, tokens in enumerate(batch):
            for token in self._poison.keys() & tokens.ids:
                vectors[row] = self._poison[token](vectors[row])
        return vectors


def _tokens(text: str) -> Tokens:
    words = text.split()
    return Tokens(tuple(map(_token, words[:_MAX_TOKENS])), truncated=len(words) > _MAX_TOKENS)


def _token(word: str) -> int:
    return zlib.crc32(word.encode())


def _hash(ids: Sequence[int], salt: bytes) -> bytes:
    return hashlib.shake_128(salt + struct.pack(f"<{len(ids)}I", *ids)).digest(_DIMENSIONS)
