"""What of an OpenAPI document callers rely on, and which changes of it would break them."""

from collections.abc import Iterator
from typing import Any

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")

#: Limits on what may be sent: 1 where a lower one is narrower, -1 where a higher one is.
BOUNDS = {"maximum": 1, "maxLength": 1, "maxItems": 1, "minimum": -1, "minLength": -1, "minItems": -1}

Schema = dict[str, Any]


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns every change from `old` to `new` that breaks a caller who only knows the old document."""
    return list(Comparison(old, new).all())


class Comparison:
    """Two documents. Callers send what the old one allows, and read what it promises."""

    def __init__(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self._old, self._new = old, new

    def all(self) -> Iterator[str]:
        """Yields each break, with where it is."""
        for path, operations in self._old["paths"].items():
            for method in operations.keys() & set(METHODS):
                where, found = f"{method.upper()} {path}", self._new["paths"].get(path, {}).get(method)
                if found is None:
                    yield f"{where}: removed"
                else:
                    yield from self._operation(where, operations[method], found)

    def _operation(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        yield from self._parameters(where, old.get("parameters", []), new.get("parameters", []))
        sent, taken = _json(old.get("requestBody", {})), _json(new.get("requestBody", {}))
        if sent is not None and taken is None:
            yield f"{where}: takes no body any more"
        elif taken is not None:
            yield from self._taken(f"{where} body", sent or {}, taken)
        for status, answer in old["responses"].items():
            if status not in new["responses"]:
                if status.startswith("2"):
                    yield f"{where}: answers {status} no more"
            elif (told := _json(answer)) is not None:
                yield from self._told(f"{where} {status}", told, _json(new["responses"][status]) or {})

    def _parameters(self, where: str, old: list[Schema], new: list[Schema]) -> Iterator[str]:
        known = {(each["in"], each["name"]): each for each in old}
        found = {(each["in"], each["name"]): each for each in new}
        for place, name in known.keys() - found.keys():
            yield f"{where}: {place} {name}: removed"
        for key, each in found.items():
            if each.get("required") and not known.get(key, {}).get("required"):
                yield f"{where}: {key[0]} {key[1]}: required now"
            if key in known:
                yield from self._taken(f"{where}: {key[0]} {key[1]}", known[key]["schema"], each["schema"])

    def _taken(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        """What may be sent: the new document must take all that the old one let through."""
        old, new = self._resolved(self._old, old), self._resolved(self._new, new)
        for name in set(new.get("required", ())) - set(old.get("required", ())):
            yield f"{where}/{name}: required now"
        for name, each in old.get("properties", {}).items():
            if name in new.get("properties", {}):
                yield from self._taken(f"{where}/{name}", each, new["properties"][name])
            elif not new.get("additionalProperties", True):
                yield f"{where}/{name}: refused now"
        yield from self._narrowed(where, old, new)
        if "items" in old and "items" in new:
            yield from self._taken(f"{where}/*", old["items"], new["items"])

    def _narrowed(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        if lost := self._types(self._old, old) - self._types(self._new, new):
            yield f"{where}: takes no {', '.join(sorted(lost))} any more"
        if "enum" in new and (lost := set(old.get("enum", ["anything"])) - set(new["enum"])):
            yield f"{where}: takes no {', '.join(map(str, sorted(lost)))} any more"
        for bound, sign in BOUNDS.items():
            if bound in new and (bound not in old or sign * new[bound] < sign * old[bound]):
                yield f"{where}: {bound} is {new[bound]} now"

    def _told(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        """What is answered: all that the old document promised must still be there."""
        old, new = self._resolved(self._old, old), self._resolved(self._new, new)
        for name in set(old.get("required", ())) - set(new.get("required", ())):
            yield f"{where}/{name}: not always there any more"
        for name, each in old.get("properties", {}).items():
            if name not in new.get("properties", {}):
                yield f"{where}/{name}: removed"
            else:
                yield from self._told(f"{where}/{name}", each, new["properties"][name])
        if more := self._types(self._new, new) - self._types(self._old, old):
            yield f"{where}: can be {', '.join(sorted(more))} now"
        if "items" in old and "items" in new:
            yield from self._told(f"{where}/*", old["items"], new["items"])

    def _types(self, document: Schema, schema: Schema) -> set[str]:
        schema = self._resolved(document, schema)
        if "anyOf" in schema:
            return set().union(*(self._types(document, each) for each in schema["anyOf"]))
        found = schema.get("type", ())
        return {found} if isinstance(found, str) else set(found)

    def _resolved(self, document: Schema, schema: Schema) -> Schema:
        """A schema itself, without references; of `X or null` only X, since null is told by its types."""
        while "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema


def _json(content: Schema) -> Schema | None:
    for kind, found in content.get("content", {}).items():
        if kind.endswith("json"):
            return dict(found["schema"])
    return None
