"""Smaller vectors: a quarter of the bytes as int8, one in 32 as bits.

Both follow from the vector alone: nothing is calibrated, so the same vector is packed the same by every worker.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.errors import InvalidField
from schemas.records import Embedding, Encoding

_NONE: Final = np.empty(0, np.float32)
_NONE.flags.writeable = False
#: The largest int8 whose negative is one, too.
_MOST: Final = 127


class Packed(NamedTuple):
    """A vector as the record of an embedding holds it."""

    vector: NDArray[np.float32]
    packed: bytes = b""
    scale: float | None = None


def pack(vector: NDArray[np.float32], encoding: Encoding) -> Packed:
    """A vector, shape (dimensions,), in an encoding.

    int8: the largest magnitude becomes 127, the others are rounded to the nearest step of it. binary: the sign, 1
    where a value is over 0, eight to a byte, the first in the highest bit.
    """
    if encoding is Encoding.INT8:
        scale = float(np.abs(vector).max()) / _MOST
        return Packed(_NONE, np.rint(vector / (scale or 1.0)).astype(np.int8).tobytes(), scale)
    if encoding is Encoding.BINARY:
        return Packed(_NONE, np.packbits(vector > 0).tobytes())
    return Packed(vector)


def values(embedding: Embedding) -> NDArray[np.float32]:
    """The vector of an embedding in any encoding: float32, shape (dimensions,), unit length but for what was lost."""
    if embedding.encoding is Encoding.INT8:
        whole = np.frombuffer(embedding.packed, np.int8).astype(np.float32)
        return whole / np.float32(np.linalg.norm(whole) or 1.0)
    if embedding.encoding is Encoding.BINARY:
        bits = np.unpackbits(np.frombuffer(embedding.packed, np.uint8), count=embedding.dimensions)
        return np.where(bits, 1, -1).astype(np.float32) / np.float32(np.sqrt(embedding.dimensions))
    return embedding.vector


def check(embedding: Embedding) -> None:
    """Raises InvalidField where an embedding does not have as many values as it says."""
    size, encoding = embedding.dimensions, embedding.encoding
    expected = size if encoding is Encoding.FLOAT32 else 0
    if embedding.vector.shape != (expected,):
        raise InvalidField(f"vector: expected as many values as dimensions says, {expected}")
    bytes_of = {Encoding.INT8: size, Encoding.BINARY: -(-size // 8)}
    if len(embedding.packed) != bytes_of.get(encoding, 0):
        raise InvalidField(f"packed: expected {bytes_of.get(encoding, 0)} bytes of {size} dimensions in {encoding}")
