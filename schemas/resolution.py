"""Avro's schema resolution: how to read what one schema wrote as what another describes.

`reader` works it all out once for a pair of schemas; what it returns only reads bytes. Arrays become
tuples, but an array of float becomes one numpy float32 array. Records and enum symbols are made by the
callables in `makers`, found by short name.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from schemas import reading
from schemas.avro import (
    NO_DEFAULT,
    Array,
    Enumeration,
    Field,
    Fixed,
    Map,
    Primitive,
    Record,
    Type,
    Union,
    label,
    short_name,
    width,
)
from schemas.errors import UnsafeSchema
from schemas.reading import Broken, Read

Makers = Mapping[str, Callable[..., Any]]

_PRIMITIVES: Final[Mapping[str, Read]] = {
    "null": reading.null,
    "boolean": reading.boolean,
    "int": reading.integer,
    "long": reading.long,
    "float": reading.single,
    "double": reading.double,
    "bytes": reading.octets,
    "string": reading.string,
}

#: (written, read) -> how; an int may be read as a float, text as bytes, and so on.
_PROMOTIONS: Final[Mapping[tuple[str, str], Read]] = {
    ("int", "long"): reading.integer,
    ("int", "float"): reading.converted(reading.integer, float),
    ("int", "double"): reading.converted(reading.integer, float),
    ("long", "float"): reading.converted(reading.long, float),
    ("long", "double"): reading.converted(reading.long, float),
    ("float", "double"): reading.single,
    ("string", "bytes"): reading.octets,
    ("bytes", "string"): reading.string,
}


class Mismatch(Exception):
    """The two schemas do not resolve; the message says where and why."""


def reader(written: Type, ours: Type, makers: Makers) -> Read:
    """How to read `written` bytes as `ours`, or UnsafeSchema with the field that does not fit."""
    try:
        return _read(written, ours, makers)
    except Mismatch as error:
        raise UnsafeSchema(f"the writer's schema does not fit: {error}") from None


def _read(written: Type, ours: Type, makers: Makers) -> Read:
    if isinstance(written, Union):
        return _from_union(written, ours, makers)
    match ours:
        case Union(branches):
            return _into_union(written, branches, makers)
        case Primitive(name) if isinstance(written, Primitive):
            if written.name == name:
                return _PRIMITIVES[name]
            if promotion := _PROMOTIONS.get((written.name, name)):
                return promotion
        case Record() if isinstance(written, Record) and _same_name(written, ours):
            return _record(written, ours, makers)
        case Enumeration() if isinstance(written, Enumeration) and _same_name(written, ours):
            return _enumeration(written, ours, makers)
        case Array(items) if isinstance(written, Array):
            return _array(written.items, items, makers)
        case Map(values) if isinstance(written, Map):
            return reading.mapping(_read(written.values, values, makers), width(written.values))
        case Fixed(_, size) if isinstance(written, Fixed) and _same_name(written, ours):
            if written.size == size:
                return reading.octets_of(size)
    raise Mismatch(f"expected {label(ours)}, it writes {label(written)}")


def _same_name(written: Record | Enumeration | Fixed, ours: Record | Enumeration | Fixed) -> bool:
    return short_name(written.name) in (short_name(ours.name), *ours.aliases)


def _from_union(written: Union, ours: Type, makers: Makers) -> Read:
    """Every branch that fits; one that does not is an error only in a value that uses it."""
    tried = [_branch(branch, ours, makers) for branch in written.branches]
    if all(isinstance(branch, Mismatch) for branch in tried):
        raise Mismatch(f"expected {label(ours)}, it writes {label(written)}")
    refusal = _refusal(label(ours))
    return reading.union([refusal if isinstance(branch, Mismatch) else branch for branch in tried])


def _into_union(written: Type, branches: tuple[Type, ...], makers: Makers) -> Read:
    """The first branch that fits."""
    for branch in branches:
        read = _branch(written, branch, makers)
        if not isinstance(read, Mismatch):
            return read
    raise Mismatch(f"expected {label(Union(branches))}, it writes {label(written)}")


def _branch(written: Type, ours: Type, makers: Makers) -> Read | Mismatch:
    try:
        return _read(written, ours, makers)
    except Mismatch as error:
        return error


def _refusal(expected: str) -> Read:
    def read(_data: bytes, _at: int) -> tuple[Any, int]:
        raise Broken(expected)

    return read


def _enumeration(written: Enumeration, ours: Enumeration, makers: Makers) -> Read:
    make = makers.get(short_name(ours.name), str)
    stand_in = None if ours.default is None else make(ours.default)
    symbols = [make(symbol) if symbol in ours.symbols else stand_in for symbol in written.symbols]
    return reading.one_of(symbols, ours.symbols)


def _array(written: Type, ours: Type, makers: Makers) -> Read:
    if written == ours == Primitive("float"):
        return reading.floats
    collect = _vector if ours == Primitive("float") else tuple
    return reading.array(_read(written, ours, makers), width(written), collect)


def _vector(values: list[float]) -> Any:
    return np.array(values, np.float32)


def _record(written: Record, ours: Record, makers: Makers) -> Read:
    """The written fields in their order, those we do not have skipped, then defaults for those it lacks."""
    wanted = dict(_pairs(written, ours))
    steps: list[tuple[str, Read]] = []
    for field in written.fields:
        match = wanted.get(field.name)
        read = skipper(field.type) if match is None else _inside(match.name, field.type, match.type, makers)
        steps.append((field.name if match is None else match.name, read))
    have = {field.name for field in wanted.values()}
    steps += [(field.name, _default(field, makers)) for field in ours.fields if field.name not in have]
    dropped = [field.name for field in written.fields if field.name not in wanted]
    return reading.record(steps, dropped, makers.get(short_name(ours.name), dict))


def _pairs(written: Record, ours: Record) -> list[tuple[str, Field]]:
    """The written name and our field, for each field of ours that was written under its name or an alias."""
    names = {field.name for field in written.fields}
    found = ((next((n for n in (f.name, *f.aliases) if n in names), None), f) for f in ours.fields)
    return [(name, field) for name, field in found if name is not None]


def _inside(name: str, written: Type, ours: Type, makers: Makers) -> Read:
    try:
        return _read(written, ours, makers)
    except Mismatch as error:
        raise Mismatch(f"{name}: {error}") from None


def _default(field: Field, makers: Makers) -> Read:
    if field.default is NO_DEFAULT:
        raise Mismatch(f"{field.name}: expected a field, it writes none and there is no default")

    def read(_data: bytes, at: int) -> tuple[Any, int]:
        return _value(field.type, field.default, makers), at

    return read


def _value(of: Type, json: Any, makers: Makers) -> Any:
    """A default, made anew for each record since some values can be changed."""
    match of:
        case Union(branches):
            return _value(branches[0], json, makers)
        case Primitive("float" | "double"):
            return float(json)
        case Primitive("bytes") | Fixed():
            return json.encode("latin-1")
        case Enumeration(name):
            return makers.get(short_name(name), str)(json)
        case Array(items):
            listed = [_value(items, item, makers) for item in json]
            return _vector(listed) if items == Primitive("float") else tuple(listed)
        case Map(inner):
            return {key: _value(inner, value, makers) for key, value in json.items()}
        case Record(name, _, fields):
            named = {f.name: _value(f.type, json.get(f.name, f.default), makers) for f in fields}
            return makers.get(short_name(name), dict)(**named)
        case _:
            return json


def skipper(written: Type) -> Read:
    """How to check and pass over a value that nobody wants, keeping none of it."""
    match written:
        case Primitive(name):
            return _PRIMITIVES[name]
        case Fixed(_, size):
            return reading.octets_of(size)
        case Enumeration(_, symbols):
            return reading.one_of(symbols, symbols)
        case Array(items):
            return reading.passed_over(skipper(items), width(items))
        case Map(values):
            pair = reading.record([("key", reading.string), ("value", skipper(values))], (), _nothing)
            return reading.passed_over(pair, 1 + width(values))
        case Union(branches):
            return reading.union([skipper(branch) for branch in branches])
        case Record(_, _, fields):
            return reading.record([(f.name, skipper(f.type)) for f in fields], (), _nothing)


def _nothing(**_values: Any) -> None:
    return None
