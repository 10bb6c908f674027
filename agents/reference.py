"""The list of all settings, written from the settings themselves: `.env.example` and the documentation's table."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr

from streams.settings import names

HEADER = """\
# Every setting of sentence-streams with its default; times are seconds, sizes bytes.
# Written by `sentence-streams settings --env`. Take the # off a line to set it.
"""


def env() -> str:
    """Returns the text of `.env.example`."""
    return HEADER + "".join(f"\n{_comment(name, field)}# {name}={default(field)}\n" for name, field in names().items())


def markdown() -> str:
    """Returns a table of the settings for the documentation."""
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    for name, field in names().items():
        value = f"`{default(field)}`" if default(field) else ""
        rows.append(f"| `{name}` | {value} | {' '.join(_sentences(name, field))} |".replace("  ", " "))
    return "\n".join(rows) + "\n"


def default(field: Any) -> str:
    """Returns a setting's default as the environment would spell it, empty where there is none."""
    value = field.default
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(value)
        case _:
            return str(value)


def is_secret(field: Any) -> bool:
    """Returns whether a setting's value must never be shown."""
    return SecretStr in (get_args(field.annotation) or (field.annotation,))


def _comment(name: str, field: Any) -> str:
    return "".join(f"# {sentence}\n" for sentence in _sentences(name, field))


def _sentences(name: str, field: Any) -> Iterator[str]:
    yield str(field.description)
    if choices := _choices(field.annotation):
        yield f"One of: {', '.join(choices)}."
    if is_secret(field):
        yield f"Or the name of a file that holds it: {name}_FILE."


def _choices(annotation: Any) -> list[str]:
    """Returns the values that a setting may have, where they can be listed; not those of a list."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return list(annotation)
    if type(None) in get_args(annotation):
        return [choice for each in get_args(annotation) for choice in _choices(each)]
    return []
