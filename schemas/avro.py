"""Avro schemas as a small tree of types, parsed with limits.

A writer schema comes from outside, so it is as suspect as the bytes it describes. `parse` refuses what
could turn a few bytes into much work: recursion, great depth or size, and array items that take no bytes.
For what it lets through, the work to read n bytes is at most proportional to n.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from schemas.errors import UnsafeSchema

#: Longest schema text in characters, deepest nesting, and most types (a named one counts at each use).
MAX_TEXT: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_TYPES: Final = 1_000

#: The fewest bytes that a value of each primitive takes.
PRIMITIVES: Final = {
    "null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1,
}  # fmt: skip

#: Stands for "no default", since None is one.
NO_DEFAULT: Final = object()


@dataclass(frozen=True, slots=True)
class Primitive:
    """null, boolean, int, long, float, double, bytes or string; logical types are read as their base."""

    name: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always `size` bytes."""

    name: str
    size: int
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Enumeration:
    """One of `symbols`; `default` stands in for a writer's symbol that is not among them."""

    name: str
    symbols: tuple[str, ...]
    default: str | None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Array:
    """Any number of items of one type."""

    items: "Type"


@dataclass(frozen=True, slots=True)
class Map:
    """Any number of values of one type, each under a string."""

    values: "Type"


@dataclass(frozen=True, slots=True)
class Union:
    """A value of any one of the branches."""

    branches: tuple["Type", ...]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record; `default` is the JSON of the schema, or NO_DEFAULT."""

    name: str
    type: "Type"
    aliases: tuple[str, ...]
    default: Any


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence of fields."""

    name: str
    aliases: tuple[str, ...]
    fields: tuple[Field, ...]


Type = Primitive | Fixed | Enumeration | Array | Map | Union | Record


def parse(text: str) -> Type:
    """The type that a schema's JSON text describes, or UnsafeSchema with what is wrong about it."""
    if len(text) > MAX_TEXT:
        raise UnsafeSchema(f"the schema is longer than {MAX_TEXT} characters")
    try:
        source = json.loads(text)
    except (ValueError, RecursionError):
        raise UnsafeSchema("the schema is not JSON") from None
    return _Parser().type(source, namespace="", depth=0)


def short_name(name: str) -> str:
    """A name without its namespace: resolution compares these."""
    return name.rpartition(".")[2]


def label(of: Type) -> str:
    """What to call a type in a message, 200 characters at most."""
    match of:
        case Array(items):
            text = f"array of {label(items)}"
        case Map(values):
            text = f"map of {label(values)}"
        case Union(branches):
            text = " or ".join(label(branch) for branch in branches[:8])
        case _:
            text = of.name
    return text[:200]


def width(of: Type) -> int:
    """The fewest bytes that a value of this type takes."""
    match of:
        case Primitive(name):
            return PRIMITIVES[name]
        case Fixed(_, size):
            return size
        case Record(_, _, fields):
            return sum(width(field.type) for field in fields)
        case Union(branches):
            return 1 + min(width(branch) for branch in branches)
        case _:
            return 1


def _hides_free_work(of: Type) -> bool:
    """Whether a value has fields that cost work and no bytes: harmless once, a bomb in a million items."""
    match of:
        case Record(_, _, fields):
            return any(width(field.type) == 0 or _hides_free_work(field.type) for field in fields)
        case Union(branches):
            return any(map(_hides_free_work, branches))
        case _:
            return False


@dataclass(frozen=True, slots=True)
class _Named:
    """A finished definition, with how many types and levels each use of its name adds."""

    type: Type
    types: int
    height: int


class _Parser:
    """Walks one schema, counting types and remembering names; a name still being defined maps to None."""

    def __init__(self) -> None:
        self._named: dict[str, _Named | None] = {}
        self._types = 0
        self._deepest = 0

    def type(self, source: Any, namespace: str, depth: int) -> Type:
        self._count(1, depth)
        match source:
            case str():
                return self._reference(source, namespace, depth)
            case list():
                return self._union(source, namespace, depth + 1)
            case {"type": "array", "items": items}:
                return _checked_array(self.type(items, namespace, depth + 1))
            case {"type": "map", "values": values}:
                return _checked_map(self.type(values, namespace, depth + 1))
            case {"type": "record" | "error" | "enum" | "fixed", "name": str()}:
                return self._definition(source, namespace, depth)
            case {"type": str() | list() | dict() as inner}:
                return self.type(inner, namespace, depth + 1)
        raise UnsafeSchema(f"the schema holds something that is not an Avro type: {_clip(source)}")

    def _count(self, types: int, depth: int) -> None:
        self._types += types
        self._deepest = max(self._deepest, depth)
        if self._types > MAX_TYPES:
            raise UnsafeSchema(f"the schema has more than {MAX_TYPES} types")
        if depth > MAX_DEPTH:
            raise UnsafeSchema(f"the schema is nested more than {MAX_DEPTH} deep")

    def _reference(self, name: str, namespace: str, depth: int) -> Type:
        if name in PRIMITIVES:
            return Primitive(name)
        full_name = _qualify(name, namespace)
        if full_name not in self._named:
            raise UnsafeSchema(f"the schema uses {_clip(name)}, which it does not define")
        known = self._named[full_name]
        if known is None:
            raise UnsafeSchema(f"the schema is recursive: {_clip(full_name)} contains itself")
        self._count(known.types, depth + known.height)
        return known.type

    def _union(self, sources: list[Any], namespace: str, depth: int) -> Union:
        branches = tuple(self.type(source, namespace, depth) for source in sources)
        if not branches or any(isinstance(branch, Union) for branch in branches):
            raise UnsafeSchema("the schema has a union that is empty or directly inside another")
        return Union(branches)

    def _definition(self, source: dict[str, Any], namespace: str, depth: int) -> Type:
        space = source.get("namespace", namespace)
        if not isinstance(space, str):
            raise UnsafeSchema("the schema has a namespace that is not text")
        full_name = _qualify(source["name"], space)
        if full_name in self._named:
            raise UnsafeSchema(f"the schema defines {_clip(full_name)} twice")
        self._named[full_name] = None
        types, deepest, self._deepest = self._types, self._deepest, depth
        made = self._body(source, full_name, depth)
        self._named[full_name] = _Named(made, self._types - types, self._deepest - depth)
        self._deepest = max(deepest, self._deepest)
        return made

    def _body(self, source: dict[str, Any], full_name: str, depth: int) -> Type:
        match source:
            case {"type": "fixed", "size": int(size)} if size >= 0:
                return Fixed(full_name, size, _aliases(source))
            case {"type": "enum", "symbols": list(symbols)} if symbols and _all_text(symbols):
                default = source.get("default")
                if default is not None and default not in symbols:
                    raise UnsafeSchema(f"{_clip(full_name)}: its default is not one of its symbols")
                return Enumeration(full_name, tuple(symbols), default, _aliases(source))
            case {"type": "record" | "error", "fields": list(fields)}:
                space = full_name.rpartition(".")[0]
                made = tuple(self._fields(fields, space, depth + 1))
                return Record(full_name, _aliases(source), made)
        raise UnsafeSchema(f"the schema defines {_clip(full_name)} in a way that Avro does not know")

    def _fields(self, sources: list[Any], namespace: str, depth: int) -> Iterator[Field]:
        names: set[str] = set()
        for source in sources:
            match source:
                case {"name": str(name), "type": inner} if name not in names:
                    names.add(name)
                    made = self.type(inner, namespace, depth)
                    yield Field(name, made, _aliases(source), source.get("default", NO_DEFAULT))
                case _:
                    raise UnsafeSchema("the schema has a field that is given twice or lacks name or type")


def _checked_array(items: Type) -> Array:
    if width(items) == 0 or _hides_free_work(items):
        raise UnsafeSchema(f"the schema has an array whose items take no bytes: {label(items)}")
    return Array(items)


def _checked_map(values: Type) -> Map:
    if _hides_free_work(values):
        raise UnsafeSchema(f"the schema has a map of records whose fields take no bytes: {label(values)}")
    return Map(values)


def _qualify(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _all_text(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _aliases(source: dict[str, Any]) -> tuple[str, ...]:
    aliases = source.get("aliases", [])
    return tuple(map(short_name, aliases)) if isinstance(aliases, list) and _all_text(aliases) else ()


def _clip(value: object) -> str:
    return value[:80] if isinstance(value, str) else f"a JSON {type(value).__name__}"
