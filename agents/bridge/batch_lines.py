"""Lines of batches: JSON Lines in OpenAI's shape, CSV and Parquet with columns; and the same three out again.

A CSV or Parquet has a column `text` (or `input`), and may have `custom_id`, `model` and `dimensions`.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import PurePath
from typing import IO, Any

import orjson
from pydantic import ValidationError

from agents.bridge.embeddings import EmbeddingRequest
from schemas.errors import StreamsError

ENDPOINT = "/v1/embeddings"
#: Bytes of a line beyond which it is an error of its own.
LONGEST = 8_000_000
#: Rows of a Parquet that are in memory at once.
ROWS = 1_000


class Form(StrEnum):
    """How a file holds its lines."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class UnusableFile(StreamsError):
    """Nothing of this file can be read; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a request, or why it is none. `number` counts from 1."""

    number: int
    custom_id: str | None
    request: EmbeddingRequest | None
    problem: str = ""


def form_of(filename: str) -> Form:
    """The format that a file's name stands for; JSON Lines where it says nothing."""
    suffix = PurePath(filename).suffix.lower().removeprefix(".")
    return Form(suffix) if suffix in set(Form) else Form.JSONL


def read(stream: IO[bytes], form: Form) -> Iterator[Line]:
    """Reads line by line, whatever the size of the file. Raises UnusableFile."""
    if form is Form.JSONL:
        return _json_lines(stream)
    rows = _csv(stream) if form is Form.CSV else _parquet(stream)
    return (_of_row(number, row) for number, row in enumerate(rows, 1))


def chunks(lines: Iterator[Line], size: int) -> Iterator[list[Line]]:
    """Cuts lines into lists of `size`, always the same for the same file."""
    while part := list(islice(lines, size)):
        yield part


def write(results: Iterable[dict[str, Any]], form: Form) -> Iterator[bytes]:
    """Yields a file of output lines (OpenAI's shape) in a format; a line with several inputs is several rows."""
    if form is Form.JSONL:
        return (orjson.dumps(result) + b"\n" for result in results)
    rows = (row for result in results for row in _rows(result))
    return _to_csv(rows) if form is Form.CSV else _to_parquet(rows)


# -- in -------------------------------------------------------------------------------------------------------


def _json_lines(stream: IO[bytes]) -> Iterator[Line]:
    for number, raw in enumerate(stream, 1):
        if raw.strip():
            yield _of_json(number, raw.removeprefix(b"\xef\xbb\xbf"))


def _of_json(number: int, raw: bytes) -> Line:
    if len(raw) > LONGEST:
        return Line(number, None, None, f"longer than {LONGEST} bytes")
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return Line(number, None, None, "not JSON")
    if not isinstance(found, dict):
        return Line(number, None, None, "expected an object")
    custom_id = found.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return Line(number, None, None, "custom_id: expected a text")
    if found.get("method", "POST") != "POST" or found.get("url", ENDPOINT) != ENDPOINT:
        return Line(number, custom_id, None, f"expected the method POST and the url {ENDPOINT}")
    return _checked(number, custom_id, found.get("body"))


def _of_row(number: int, row: dict[str, Any]) -> Line:
    custom_id = str(row.get("custom_id") or f"row-{number}")
    body = {name: row[name] for name in ("model", "dimensions") if row.get(name) not in {None, ""}}
    if isinstance(size := body.get("dimensions"), str) and size.isdecimal():  # a CSV has texts only
        body["dimensions"] = int(size)
    return _checked(number, custom_id, {**body, "input": row.get("text", row.get("input"))})


def _checked(number: int, custom_id: str, body: Any) -> Line:
    try:
        return Line(number, custom_id, EmbeddingRequest.model_validate(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("body", *first["loc"]))
        return Line(number, custom_id, None, f"{where}: {first['msg'].removeprefix('Value error, ')}")


def _csv(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(LONGEST)
    lines = (raw.decode("utf-8-sig", errors="replace") for raw in stream)
    reader = csv.DictReader(lines, strict=True)
    try:
        _require(reader.fieldnames or ())
        yield from reader
    except csv.Error as error:
        raise UnusableFile(f"line {reader.line_num}: not CSV: {error}") from None


def _parquet(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(stream.read()))
    except pa.ArrowInvalid as error:
        raise UnusableFile(f"not Parquet: {str(error).splitlines()[0]}") from None
    names = file.schema_arrow.names
    _require(names)
    wanted = [name for name in names if name in {"custom_id", "text", "input", "model", "dimensions"}]
    for batch in file.iter_batches(ROWS, columns=wanted):
        yield from batch.to_pylist()


def _require(columns: Iterable[str]) -> None:
    if not {"text", "input"} & set(columns):
        raise UnusableFile("expected a column text (or input)")


# -- out ------------------------------------------------------------------------------------------------------


def _rows(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    body = result["response"]["body"]
    for item in body["data"]:
        place = {"custom_id": result["custom_id"], "index": item["index"], "model": body["model"]}
        yield {**place, "embedding": item["embedding"], "truncated": item["truncated"]}


def _to_csv(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["custom_id", "index", "model", "embedding", "truncated"])
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "embedding": json.dumps(row["embedding"])})
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()


def _to_parquet(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("custom_id", pa.string()), ("index", pa.int32()), ("model", pa.string())]
    schema = pa.schema([*fields, ("embedding", pa.list_(pa.float32())), ("truncated", pa.bool_())])
    sink, rows = _Sink(), iter(rows)
    with pq.ParquetWriter(sink, schema) as writer:
        while part := list(islice(rows, ROWS)):
            writer.write_table(pa.Table.from_pylist(part, schema))
            yield sink.taken()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """Hands over what was written so far, and goes on counting: a Parquet's footer names places in the file."""

    def __init__(self) -> None:
        self._written, self._place = bytearray(), 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        self._written += data
        self._place += len(data)
        return len(data)

    def taken(self) -> bytes:
        """What came since the last call."""
        taken, self._written = bytes(self._written), bytearray()
        return taken
