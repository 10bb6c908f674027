"""Sentences from text, JSON Lines and CSV: one row at a time, whatever the size of the file."""

import csv
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.codec import validate
from schemas.errors import InvalidField
from schemas.records import Encoding, Overflow, Sentence

BOM = b"\xef\xbb\xbf"
#: Bytes thrown away at a time while a line that is too long is passed over.
CHUNK = 64 * 1024


class Format(StrEnum):
    """How a file holds its sentences."""

    TEXT = "text"
    JSONL = "jsonl"
    CSV = "csv"


SUFFIXES = {".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".csv": Format.CSV}


class Given(NamedTuple):
    """A sentence, and the key it asks for."""

    line: int
    sentence: Sentence
    key: str | None


class Malformed(NamedTuple):
    """A row that is no sentence; `problem` names the field and what was expected."""

    line: int
    problem: str


class Blank(NamedTuple):
    """A row without anything on it."""

    line: int


Row = Given | Malformed | Blank


class UnusableInput(Exception):
    """Nothing of this file can be read; the message says what was expected."""


class Fields(BaseModel):
    """What a row may say about its sentence."""

    model_config = ConfigDict(extra="forbid")

    text: str
    id: str | None = None
    key: str | None = None
    model: str | None = None
    dimensions: int | None = None
    scorers: tuple[str, ...] | None = None
    overflow: Overflow | None = None
    encoding: Encoding = Encoding.FLOAT32
    metadata: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for a sentence whose row does not say otherwise."""

    #: Name of the source: part of the ids that are made here.
    name: str
    model: str | None = None
    dimensions: int | None = None
    scorers: tuple[str, ...] = ()
    overflow: Overflow = Overflow.TRUNCATE


def format_of(path: Path) -> Format:
    """Returns the format that a file's name stands for; text where it says nothing."""
    return SUFFIXES.get(path.suffix.lower(), Format.TEXT)


def rows(stream: BinaryIO, form: Format, defaults: Defaults, most: int) -> Iterator[Row]:
    """Reads a stream row by row; `most` is the longest line in bytes. Raises UnusableInput.

    A row without an id gets one made of the source's name, the line number and the text, so that reading the same
    file again gives the same ids.
    """
    lines = _lines(stream, most)
    if form is Format.CSV:
        yield from _csv(lines, defaults, most)
        return
    parse = _from_json if form is Format.JSONL else _from_text
    for line, raw in lines:
        if isinstance(raw, str):
            yield Malformed(line, raw)
        elif not raw.strip():
            yield Blank(line)
        else:
            yield parse(line, raw, defaults)


def _lines(stream: BinaryIO, most: int) -> Iterator[tuple[int, bytes | str]]:
    """Yields line number and line, its end included, or a str that says what is wrong with it."""
    for number in count(1):
        line = stream.readline(most + 2)
        if not line:
            return
        if number == 1:
            line = line.removeprefix(BOM)
        if len(line) > most and not line.endswith(b"\n"):
            while (rest := stream.readline(CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield number, f"longer than {most} bytes"
        else:
            yield number, line


def _from_text(line: int, raw: bytes, defaults: Defaults) -> Row:
    # Only the line's end is taken off: white space around a sentence is part of it.
    try:
        text = raw.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        return Malformed(line, f"text: not UTF-8 at byte {error.start + 1}")
    return Blank(line) if text.isspace() else _given(line, Fields(text=text), defaults)


def _from_json(line: int, raw: bytes, defaults: Defaults) -> Row:
    try:
        # Strict: a number is not a text, and "3" is not a number.
        fields = Fields.model_validate_json(raw, strict=True)
    except ValidationError as error:
        return Malformed(line, _problem(error))
    return _given(line, fields, defaults)


def _csv(lines: Iterator[tuple[int, bytes | str]], defaults: Defaults, most: int) -> Iterator[Row]:
    """Reads a CSV; its first row names the columns. A quoted cell may go on over several lines."""
    too_long: list[Malformed] = []
    csv.field_size_limit(most)
    reader = csv.reader(_decoded(lines, too_long), strict=True)
    columns = _columns(reader)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Malformed(line, f"not CSV: {error}")
            continue
        if too_long:  # the row they are in lacks them
            yield from too_long
            too_long.clear()
        elif cells is not None:
            yield _from_cells(line, columns, cells, defaults) if any(map(str.strip, cells)) else Blank(line)
        if cells is None:
            return


def _decoded(lines: Iterable[tuple[int, bytes | str]], too_long: list[Malformed]) -> Iterator[str]:
    for number, raw in lines:
        if isinstance(raw, str):
            too_long.append(Malformed(number, raw))
            yield "\n"
        else:
            # A byte that is not UTF-8 spoils its own row only, see _from_cells.
            yield raw.decode(errors="surrogateescape")


def _columns(reader: Iterator[list[str]]) -> list[str]:
    try:
        columns = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise UnusableInput(f"line 1: not CSV: {error}") from None
    if "text" not in columns:
        raise UnusableInput("line 1: expected a row that names the columns, one of them text")
    if repeated := next((name for name in columns if columns.count(name) > 1), None):
        raise UnusableInput(f"line 1: expected every column once, {repeated!r} is there twice")
    return columns


def _from_cells(line: int, columns: list[str], cells: list[str], defaults: Defaults) -> Row:
    if len(cells) != len(columns):
        return Malformed(line, f"expected {len(columns)} cells, it has {len(cells)}")
    values: dict[str, Any] = {}
    metadata = {}
    for column, cell in zip(columns, cells, strict=True):
        if not cell.isascii() and not _is_text(cell):
            return Malformed(line, f"{column}: not UTF-8")
        if not cell:
            continue  # an empty cell says nothing
        if column in Fields.model_fields and column != "metadata":
            values[column] = cell.split() if column == "scorers" else cell
        else:
            metadata[column] = cell
    try:
        fields = Fields.model_validate({**values, "metadata": metadata})
    except ValidationError as error:
        return Malformed(line, _problem(error))
    return _given(line, fields, defaults)


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _given(line: int, fields: Fields, defaults: Defaults) -> Row:
    sentence = Sentence(
        id=fields.id if fields.id is not None else _id(line, fields.text, defaults.name),
        text=fields.text,
        model=defaults.model if fields.model is None else fields.model,
        dimensions=defaults.dimensions if fields.dimensions is None else fields.dimensions,
        scorers=defaults.scorers if fields.scorers is None else fields.scorers,
        overflow=fields.overflow or defaults.overflow,
        metadata=fields.metadata,
        encoding=fields.encoding,
    )
    try:
        validate(sentence)
    except InvalidField as error:
        return Malformed(line, str(error))
    return Given(line, sentence, fields.key)


def _id(line: int, text: str, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"sentence-streams/produce\0{name}\0{line}\0{text}"))


def _problem(error: ValidationError) -> str:
    """Returns the first problem, led by its field's name."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    what = "no such field" if problem["type"] == "extra_forbidden" else problem["msg"].replace("line 1 ", "")
    return f"{where}: {what[0].lower()}{what[1:]}" if where else what
