"""Avro's binary encoding, written: how to put a record of ours into bytes.

A `Write` appends one value to a bytearray. Vectors are copied whole, never one Python object for each value.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any

import numpy as np

from schemas.avro import Array, Enumeration, Field, Map, Primitive, Record, Type, Union, label
from schemas.errors import InvalidField

Write = Callable[[Any, bytearray], None]

_DOUBLE = struct.Struct("<d")
_FLOATS = np.dtype("<f4")
#: What steps raise for a value that is not of their type.
_MISFITS = (TypeError, ValueError, AttributeError, KeyError, OverflowError, struct.error)


def writer(of: Type) -> Write:
    """How to write a value of this type; what does not fit raises InvalidField, which names the field."""
    match of:
        case Primitive(name) if name in _PRIMITIVES:
            return _PRIMITIVES[name]
        case Enumeration(_, symbols):
            return _one_of(symbols)
        case Union((Primitive("null"), inner)):
            return _optional(writer(inner))
        case Array(Primitive("float")):
            return _floats
        case Array(items):
            return _array(writer(items))
        case Map(values):
            return _mapping(writer(values))
        case Record():
            return _record(of)
    raise TypeError(f"no record of ours has a field of type {label(of)}")


def _record(of: Record) -> Write:
    write_values = template(of, {})
    names = [field.name for field in of.fields]
    values_of = attrgetter(*names) if len(names) > 1 else lambda record: (getattr(record, names[0]),)

    def write(record: Any, out: bytearray) -> None:
        write_values(values_of(record), out)

    return write


def template(of: Record, fixed: Mapping[str, Any]) -> Callable[[Iterable[Any], bytearray], None]:
    """How to write records that share the values of `fixed`, which are put into bytes only once.

    What it returns takes the other values, in the schema's order; errors are as `writer`'s.
    """
    steps: list[tuple[bytes, Field, Write]] = []
    constant = bytearray()
    for field in of.fields:
        if field.name in fixed:
            writer(field.type)(fixed[field.name], constant)
        else:
            steps.append((bytes(constant), field, writer(field.type)))
            constant = bytearray()
    tail = bytes(constant)

    def write(values: Iterable[Any], out: bytearray) -> None:
        for value, (before, field, step) in zip(values, steps, strict=True):
            out += before
            try:
                step(value, out)
            except _MISFITS:
                raise InvalidField(f"{field.name}: expected {label(field.type)}") from None
            except InvalidField as error:
                raise InvalidField(f"{field.name}.{error}") from None
        out += tail

    return write


def _long(number: int, out: bytearray) -> None:
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError
    _unsigned((number << 1) ^ (number >> 63), out)


def _integer(number: int, out: bytearray) -> None:
    if not -(1 << 31) <= number < 1 << 31:
        raise OverflowError
    _unsigned((number << 1) ^ (number >> 31), out)


def _unsigned(number: int, out: bytearray) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _boolean(value: bool, out: bytearray) -> None:
    out.append(1 if value else 0)


def _double(value: float, out: bytearray) -> None:
    out += _DOUBLE.pack(value)


def _octets(data: bytes, out: bytearray) -> None:
    if not isinstance(data, bytes):  # a list of numbers would do for a bytearray
        raise TypeError
    _unsigned(len(data) << 1, out)
    out += data


def _string(text: str, out: bytearray) -> None:
    data = text.encode()
    size = len(data) << 1
    if size < 0x80:
        out.append(size)
    else:
        _unsigned(size, out)
    out += data


_PRIMITIVES: dict[str, Write] = {
    "boolean": _boolean,
    "int": _integer,
    "long": _long,
    "double": _double,
    "bytes": _octets,
    "string": _string,
}


def _one_of(symbols: tuple[str, ...]) -> Write:
    indexes = {symbol: index for index, symbol in enumerate(symbols)}

    def write(symbol: str, out: bytearray) -> None:
        _unsigned(indexes[symbol] << 1, out)

    return write


def _optional(inner: Write) -> Write:
    def write(value: Any, out: bytearray) -> None:
        if value is None:
            out.append(0)
        else:
            out.append(2)
            inner(value, out)

    return write


def _array(item: Write) -> Write:
    def write(values: Any, out: bytearray) -> None:
        if values:
            _unsigned(len(values) << 1, out)
            for value in values:
                item(value, out)
        out.append(0)

    return write


def _floats(values: Any, out: bytearray) -> None:
    vector = np.asarray(values, _FLOATS)
    if vector.ndim != 1:
        raise ValueError
    if size := len(vector):
        _unsigned(size << 1, out)
        out += vector.tobytes()
    out.append(0)


def _mapping(inner: Write) -> Write:
    def write(pairs: Any, out: bytearray) -> None:
        if pairs:
            _unsigned(len(pairs) << 1, out)
            for key, value in pairs.items():
                _string(key, out)
                inner(value, out)
        out.append(0)

    return write
