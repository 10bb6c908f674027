"""Smaller vectors: what is lost, and what each byte means."""

from dataclasses import replace

import numpy as np
import pytest

from schemas.codec import Codec
from schemas.errors import InvalidField
from schemas.packing import pack, values
from schemas.records import Embedding, Encoding
from tests.unit.schemas.examples import EMBEDDING


def unit(size: int, seed: int = 7) -> np.ndarray:
    """A vector of unit length."""
    row = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    return row / np.linalg.norm(row)


def embedding(vector: np.ndarray, encoding: Encoding) -> Embedding:
    """The record of a vector."""
    whole, packed, scale = pack(vector, encoding)
    kept = replace(EMBEDDING, dimensions=len(vector), encoding=encoding, packed=packed, scale=scale, vector=whole)
    return Codec().decode(Embedding, Codec().encode(kept, "t"))


def test_int8_is_the_nearest_step_of_the_largest_magnitude() -> None:
    """The largest becomes 127 or -127, and the scale brings each back to within half a step."""
    made = embedding(np.array([0.5, -1.0, 0.25, 0.0], np.float32), Encoding.INT8)
    assert np.frombuffer(made.packed, np.int8).tolist() == [64, -127, 32, 0]
    assert made.scale == 1 / 127
    vector = unit(384)
    made = embedding(vector, Encoding.INT8)
    back = np.frombuffer(made.packed, np.int8) * (made.scale or 0)
    assert np.abs(back - vector).max() <= (made.scale or 0) / 2 * 1.001
    assert values(made) @ vector > 0.9999
    assert made.vector.shape == (0,)


def test_bits_are_signs_the_first_the_highest() -> None:
    """Zero counts as below zero; the last byte is filled with zeros; what is read is of unit length."""
    made = embedding(np.array([1, -1, 0, 1, -1, -1, 1, 1, 1, -1], np.float32), Encoding.BINARY)
    assert made.packed == bytes([0b10010011, 0b10000000])
    assert made.scale is None
    assert np.sign(values(made)).tolist() == [1, -1, -1, 1, -1, -1, 1, 1, 1, -1]
    assert np.linalg.norm(values(made)) == pytest.approx(1)


def test_float32_is_the_vector_itself() -> None:
    """Nothing is packed."""
    vector = unit(5)
    assert pack(vector, Encoding.FLOAT32) == (vector, b"", None)
    np.testing.assert_array_equal(values(embedding(vector, Encoding.FLOAT32)), vector)


@pytest.mark.parametrize("encoding", Encoding)
def test_a_vector_of_nothing_is_still_a_record(encoding: Encoding) -> None:
    """Zeros have no largest magnitude; no division fails, and no value is NaN."""
    assert np.isfinite(values(embedding(np.zeros(9, np.float32), encoding))).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"packed": b"\0" * 8}, "packed: expected 9 bytes of 9 dimensions in int8"),
        ({"encoding": Encoding.BINARY}, "packed: expected 2 bytes of 9 dimensions in binary"),
        ({"encoding": Encoding.FLOAT32}, "vector: expected as many values as dimensions says, 9"),
        ({"vector": unit(9)}, "vector: expected as many values as dimensions says, 0"),
    ],
)
def test_a_record_that_contradicts_itself_is_rejected(changed: dict[str, object], message: str) -> None:
    """Dimensions, encoding and bytes have to agree."""
    made = replace(embedding(unit(9), Encoding.INT8), **changed)
    with pytest.raises(InvalidField, match=message):
        Codec().decode(Embedding, Codec().encode(made, "t"))
