"""Keys and vectors for the tests of what keeps them."""

import hashlib

import numpy as np

from streams.embedding.embedder import Vectors


def content(number: int) -> str:
    """Returns a key as `content_key` makes them: 64 characters, none like another."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def vector(size: int, seed: int = 0) -> Vectors:
    """Returns a float32 vector, the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(size, np.float32)


KEY = content(0)
