"""Avro's binary encoding, read: each primitive at its edges, and blocks in all their forms."""

import struct

import pytest

from schemas import reading
from schemas.reading import Broken


def zigzag(number):
    """A long as Avro writes it."""
    rest, data = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        data.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((*data, rest))


@pytest.mark.parametrize("number", [0, -1, 1, 63, 64, -64, -65, 1 << 31, (1 << 63) - 1, -(1 << 63)])
def test_longs_of_every_size(number):
    """A number of up to 64 bits is read from one to ten bytes, and reading goes on after it."""
    data = zigzag(number)
    assert reading.long(b"x" + data + b"y", 1) == (number, 1 + len(data))


@pytest.mark.parametrize("number", [1 << 31, -(1 << 31) - 1])
def test_an_int_has_32_bits(number):
    """A number that fits a long but not an int is broken where an int is due."""
    with pytest.raises(Broken, match="at most 32 bits"):
        reading.integer(zigzag(number), 0)
    within = number + (1 if number < 0 else -1)
    assert reading.integer(zigzag(within), 0)[0] == within


@pytest.mark.parametrize(
    ("read", "form", "expected"), [(reading.single, "<f", "4 bytes"), (reading.double, "<d", "8 bytes")]
)
def test_floats_need_all_their_bytes(read, form, expected):
    """A float is little-endian, and one byte short it is broken."""
    data = struct.pack(form, 0.5)
    assert read(b"x" + data, 1) == (0.5, 1 + len(data))
    with pytest.raises(Broken, match=expected):
        read(b"x" + data[:-1], 1)


def test_text_longer_than_63_bytes():
    """A length of more than one byte is read as well."""
    text = "é" * 5_000
    data = zigzag(10_000) + text.encode()
    assert reading.string(data, 0) == (text, len(data))


def test_fixed_needs_all_its_bytes():
    """A fixed value has no length of its own, only its schema's."""
    assert reading.octets_of(3)(b"abcd", 1) == (b"bcd", 4)
    with pytest.raises(Broken, match="3 bytes"):
        reading.octets_of(3)(b"abcd", 2)


@pytest.mark.parametrize(
    "data",
    [
        b"\x06\x02a\x02b\x02c\x00",
        b"\x02\x02a\x04\x02b\x02c\x00",
        b"\x05\x0c\x02a\x02b\x02c\x00",
        b"\x01\x04\x02a\x04\x02b\x02c\x00",
        b"\x86\x00\x02a\x02b\x02c\x00",
    ],
    ids=["one block", "two blocks", "one sized block", "sized and plain", "a padded count"],
)
def test_blocks_in_every_form(data):
    """Items may come in any number of blocks, with or without their size; skipping ends at the same place."""
    assert reading.array(reading.string, 1, tuple)(data, 0) == (("a", "b", "c"), len(data))
    assert reading.passed_over(reading.string, 1)(data, 0) == (None, len(data))


def test_a_count_is_held_against_the_least_its_items_take():
    """A block of doubles needs eight bytes for each before one is read."""
    with pytest.raises(Broken, match="no more items than the bytes that follow"):
        reading.array(reading.double, 8, tuple)(b"\x04" + bytes(15), 0)
    assert reading.array(reading.double, 8, tuple)(b"\x04" + bytes(17), 0) == ((0.0, 0.0), 18)


def test_many_branches():
    """A union may have more branches than fit an index of one byte."""
    read = reading.union([reading.null] * 100 + [reading.string])
    assert read(zigzag(100) + b"\x02a", 0) == ("a", 4)
    with pytest.raises(Broken, match="a branch from 0 to 100"):
        read(zigzag(101), 0)


def test_errors_name_the_path_to_the_field():
    """A fault deep inside records is told with the whole path, and an end of the bytes as well."""
    inner = reading.record([("b", reading.boolean)], (), dict)
    outer = reading.record([("a", inner)], (), dict)
    with pytest.raises(Broken) as caught:
        outer(b"\x07", 0)
    assert str(caught.value) == "a.b: expected a boolean, 0 or 1"
    with pytest.raises(Broken) as caught:
        outer(b"", 0)
    assert str(caught.value) == "a.b: expected more bytes, the value ends early"
