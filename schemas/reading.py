"""Avro's binary encoding, read with every length, index and number checked.

A `Read` takes the whole value and a position, and returns what it read and the position after it. It
raises `Broken`, or IndexError where the bytes end inside a number; `record` turns both into a `Broken` that
names the field. Messages say what was expected and never quote what was there.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Read = Callable[[bytes, int], tuple[Any, int]]

_FLOAT = struct.Struct("<f")
_DOUBLE = struct.Struct("<d")


class Broken(Exception):
    """The bytes are not what the schema says; `path` names the field and `expected` what should be there."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected
        self.path = ""

    def inside(self, name: str) -> "Broken":
        """The same, one field further out."""
        self.path = f"{name}.{self.path}" if self.path else name
        return self

    def __str__(self) -> str:
        return f"{self.path or 'value'}: expected {self.expected}"


def long(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number of up to 64 bits."""
    byte = data[at]
    at += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at
    number, shift = byte & 0x7F, 7
    while byte & 0x80:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > 70 or number >> 64:
            raise Broken("a number of at most 64 bits")
    return (number >> 1) ^ -(number & 1), at


def integer(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number of up to 32 bits."""
    number, at = long(data, at)
    if not -0x8000_0000 <= number <= 0x7FFF_FFFF:
        raise Broken("a number of at most 32 bits")
    return number, at


def null(_data: bytes, at: int) -> tuple[None, int]:
    """Nothing, in no bytes."""
    return None, at


def boolean(data: bytes, at: int) -> tuple[bool, int]:
    """One byte, 0 or 1."""
    byte = data[at]
    if byte > 1:
        raise Broken("a boolean, 0 or 1")
    return byte == 1, at + 1


def single(data: bytes, at: int) -> tuple[float, int]:
    """A float of four bytes."""
    if at + 4 > len(data):
        raise Broken("a float of 4 bytes")
    return _FLOAT.unpack_from(data, at)[0], at + 4


def double(data: bytes, at: int) -> tuple[float, int]:
    """A float of eight bytes."""
    if at + 8 > len(data):
        raise Broken("a double of 8 bytes")
    return _DOUBLE.unpack_from(data, at)[0], at + 8


def octets(data: bytes, at: int) -> tuple[bytes, int]:
    """A length and that many bytes."""
    size, at = long(data, at)
    end = at + size
    if not at <= end <= len(data):
        raise Broken("a length of no more than the bytes that follow it")
    return data[at:end], end


def string(data: bytes, at: int) -> tuple[str, int]:
    """A length and that many bytes of UTF-8."""
    size = data[at]
    if size < 0x80 and not size & 1:
        at += 1
        end = at + (size >> 1)
    else:
        size, at = long(data, at)
        end = at + size
    if not at <= end <= len(data):
        raise Broken("text whose length is no more than the bytes that follow it")
    try:
        return data[at:end].decode(), end
    except UnicodeDecodeError:
        raise Broken("text in UTF-8") from None


def octets_of(size: int) -> Read:
    """Always that many bytes."""

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        end = at + size
        if end > len(data):
            raise Broken(f"{size} bytes")
        return data[at:end], end

    return read


def converted(step: Read, convert: Callable[[Any], Any]) -> Read:
    """What `step` reads, as another type."""

    def read(data: bytes, at: int) -> tuple[Any, int]:
        value, at = step(data, at)
        return convert(value), at

    return read


def one_of(symbols: Sequence[Any], names: Sequence[str]) -> Read:
    """An index into `symbols`; a Broken there stands for a writer's symbol that the reader does not have."""

    def read(data: bytes, at: int) -> tuple[Any, int]:
        index, at = long(data, at)
        if not 0 <= index < len(symbols):
            raise Broken(f"an index from 0 to {len(symbols) - 1}")
        if (symbol := symbols[index]) is None:
            raise Broken(f"one of {', '.join(names)}")
        return symbol, at

    return read


def union(branches: Sequence[Read]) -> Read:
    """The index of a branch and its value."""

    table = {2 * index: branch for index, branch in enumerate(branches[:64])}

    def read(data: bytes, at: int) -> tuple[Any, int]:
        branch = table.get(data[at])
        if branch is not None:
            return branch(data, at + 1)
        index, at = long(data, at)
        if not 0 <= index < len(branches):
            raise Broken(f"a branch from 0 to {len(branches) - 1}")
        return branches[index](data, at)

    return read


def block(data: bytes, at: int, width: int) -> tuple[int, int, int]:
    """The head of a run of items of `width` bytes or more: their count, their start, and their end or -1."""
    head = data[at]
    if head < 0x80 and not head & 1:
        count, at, end = head >> 1, at + 1, -1
    else:
        count, at, end = _sized_block(data, at)
    if count * width > len(data) - at:
        raise Broken("no more items than the bytes that follow can hold")
    return count, at, end


def _sized_block(data: bytes, at: int) -> tuple[int, int, int]:
    """The head in full: a negative count is followed by the block's size in bytes."""
    count, at = long(data, at)
    if count > 0:
        return count, at, -1
    size, at = long(data, at)
    if count == 0 or not 0 < size <= len(data) - at:
        raise Broken("a block that ends inside the value")
    return -count, at, at + size


def array(item: Read, width: int, collect: Callable[[list[Any]], Any]) -> Read:
    """Blocks of items, each of at least `width` bytes, given to `collect` as one list."""

    def read(data: bytes, at: int) -> tuple[Any, int]:
        items: list[Any] = []
        while data[at]:
            count, at, end = block(data, at, width)
            for _ in range(count):
                value, at = item(data, at)
                items.append(value)
            if at != end >= 0:
                raise Broken("a block as long as it says")
        return collect(items), at + 1

    return read


def floats(data: bytes, at: int) -> tuple[NDArray[np.float32], int]:
    """Blocks of four-byte floats as one array of our own, without a Python object for each."""
    parts: list[NDArray[np.float32]] = []
    while data[at]:
        count, at, end = block(data, at, 4)
        parts.append(np.frombuffer(data, "<f4", count, at))
        at += count * 4
        if at != end >= 0:
            raise Broken("a block as long as it says")
    joined = np.concatenate(parts) if parts else np.empty(0)
    return joined.astype(np.float32, copy=False), at + 1


def mapping(value: Read, width: int) -> Read:
    """Blocks of pairs of a string and a value of at least `width` bytes, as a dict."""

    def read(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        pairs: dict[str, Any] = {}
        while data[at]:
            count, at, end = block(data, at, 1 + width)
            for _ in range(count):
                key, at = string(data, at)
                pairs[key], at = value(data, at)
            if at != end >= 0:
                raise Broken("a block as long as it says")
        return pairs, at + 1

    return read


def passed_over(item: Read, width: int) -> Read:
    """Blocks of items, each of at least `width` bytes, checked and not kept."""

    def read(data: bytes, at: int) -> tuple[None, int]:
        while data[at]:
            count, at, end = block(data, at, width)
            for _ in range(count):
                _, at = item(data, at)
            if at != end >= 0:
                raise Broken("a block as long as it says")
        return None, at + 1

    return read


def record(steps: Sequence[tuple[str, Read]], dropped: Sequence[str], make: Callable[..., Any]) -> Read:
    """One named value after another; all but the dropped ones are given to `make` by name."""

    def read(data: bytes, at: int) -> tuple[Any, int]:
        values: dict[str, Any] = {}
        name = ""
        try:
            for name, step in steps:
                values[name], at = step(data, at)
        except Broken as error:
            raise error.inside(name) from None
        except IndexError:
            raise Broken("more bytes, the value ends early").inside(name) from None
        for name in dropped:
            del values[name]
        return make(**values), at

    return read
