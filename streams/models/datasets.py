"""Labelled sentences: from a file, an object store or a topic, checked before anything is trained on them.

| source | rows | named by |
|---|---|---|
| `labels.csv` | a row that names the columns, then a sentence a row | line |
| `labels.jsonl`, `.ndjson` | an object a line | line |
| `labels.parquet` | two columns | row, from 1 |
| `s3://`, `gs://`, `az://bucket/labels.csv` | as its name says | the same |
| a range of a request topic | sentences whose metadata has the label | partition@offset |

Text and label are in columns `text` and `label` unless the caller says otherwise.
"""

import asyncio
import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from schemas.codec import Codec
from schemas.errors import Reject, StreamsError
from schemas.records import Sentence
from streams.ranges import Ranges, scan
from streams.records import Record

#: Schemes of object URLs; their credentials and endpoints come from the environment, as their own tools have them.
SCHEMES = ("s3://", "gs://", "az://")
#: Largest file that is read, in bytes.
MOST_BYTES = 1024**3
#: Examples every label needs: one for each fold of a cross-validation at least.
LEAST = 5
#: Of the rows with one trouble, how many are named.
NAMED = 10


class UnusableLabels(StreamsError):
    """Nothing can be trained on these labels; the message says which rows are in the way, in one line."""


class Columns(NamedTuple):
    """Which columns, or which metadata of a topic's sentences, hold what."""

    text: str = "text"
    label: str = "label"


USUAL = Columns()


class Example(NamedTuple):
    """A labelled sentence, and the place it was read from."""

    place: str
    text: str
    label: str


class Unusable(NamedTuple):
    """A row without a sentence or without a label."""

    place: str
    problem: str


Row = Example | Unusable


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled sentences that a scorer can be trained on, sorted: the same examples in another order are the same."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    #: What was left out, and why, with its rows: a line each.
    warnings: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The canonical form: JSON Lines, which `read` reads."""
        rows = zip(self.texts, self.labels, strict=True)
        return b"".join(orjson.dumps({"text": text, "label": label}) + b"\n" for text, label in rows)

    @property
    def digest(self) -> str:
        """sha256 of the canonical form, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """Label -> how many sentences have it, in the labels' order."""
        return dict(sorted(Counter(self.labels).items()))


# -- checks ---------------------------------------------------------------------------------------------------


def checked(rows: Iterable[Row], source: str) -> Dataset:
    """Leaves out what nobody can learn from, and says so. Raises UnusableLabels.

    A text with two labels is left out as a whole; a text that is there twice counts once.
    """
    unusable: dict[str, list[str]] = defaultdict(list)
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if isinstance(row, Unusable):
            unusable[row.problem].append(row.place)
        else:
            places[row.text][row.label].append(row.place)
    warnings = [_left_out(problem, where) for problem, where in unusable.items()]
    warnings += _contradictions(places)
    warnings += _repetitions(places)
    good = sorted((text, next(iter(labels))) for text, labels in places.items() if len(labels) == 1)
    dataset = Dataset(tuple(text for text, _ in good), tuple(label for _, label in good), tuple(warnings))
    _suffices(dataset, places, source)
    return dataset


def _left_out(problem: str, places: Sequence[str]) -> str:
    return f"{_rows(len(places))} left out, {problem}: {_named(places)}"


def _contradictions(places: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """One line for all texts that have several labels."""
    found = [labels for labels in places.values() if len(labels) > 1]
    if not found:
        return []
    said = [", ".join(f"{_named(where)} says {label}" for label, where in labels.items()) for labels in found]
    rows = sum(len(where) for labels in found for where in labels.values())
    return [f"{_rows(rows)} left out, one text with several labels: {_named(said, '; ')}"]


def _repetitions(places: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """One line for all texts that are there more than once with one label."""
    found = [where for labels in places.values() if len(labels) == 1 for where in labels.values() if len(where) > 1]
    if not found:
        return []
    rows = sum(len(where) - 1 for where in found)
    said = [f"{_named(where[1:])} as {where[0]}" for where in found]
    return [f"{_rows(rows)} left out, the same text and label again: {_named(said, '; ')}"]


def _suffices(dataset: Dataset, places: Mapping[str, Mapping[str, Sequence[str]]], source: str) -> None:
    counts = dataset.counts
    why = "; ".join(dataset.warnings)
    if not counts:
        raise UnusableLabels(f"{source}: no labelled sentence is left" + (f": {why}" if why else ""))
    if len(counts) == 1:
        raise UnusableLabels(
            f"{source}: every sentence is labelled {next(iter(counts))!r}: expected two labels or more"
        )
    few = {label: count for label, count in counts.items() if count < LEAST}
    if few:
        where = {label: [row for each in places.values() for row in each.get(label, ())] for label in few}
        said = [f"{label!r} has {count} ({_named(where[label])})" for label, count in few.items()]
        raise UnusableLabels(f"{source}: expected {LEAST} examples of each label or more: {_named(said, '; ')}")


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _named(items: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(items[:NAMED])
    return shown if len(items) <= NAMED else f"{shown} and {len(items) - NAMED:,} more"


# -- files and objects ----------------------------------------------------------------------------------------


def read(source: str, columns: Columns = USUAL) -> Dataset:
    """Labelled sentences of a file or an object URL. Raises UnusableLabels."""
    name = source.rsplit("/", 1)[-1].lower()
    parse = next((parse for ending, parse in FORMATS.items() if name.endswith(ending)), None)
    if parse is None:
        raise UnusableLabels(f"{source}: expected a name that ends in {', '.join(FORMATS)}")
    content = _object(source) if source.startswith(SCHEMES) else _file(source)
    try:
        return checked(parse(content, columns), source)
    except _Malformed as error:
        raise UnusableLabels(f"{source}: {error}") from None


class _Malformed(Exception):
    """The file as a whole is not what its name says."""


def _file(source: str) -> bytes:
    path = Path(source)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UnusableLabels(f"{source}: larger than {MOST_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise UnusableLabels(f"{source}: cannot read it: {error.strerror}") from None


def _object(url: str) -> bytes:
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    folder, _, name = url.rpartition("/")
    try:
        found = obstore.get(from_url(folder), name)
        if found.meta["size"] > MOST_BYTES:
            raise UnusableLabels(f"{url}: larger than {MOST_BYTES:,} bytes")
        return bytes(found.bytes())
    except (BaseError, OSError, ValueError) as error:  # what is missing, refused or not reachable
        raise UnusableLabels(f"{url}: cannot read it: {str(error).splitlines()[0]}") from None


def _csv(content: bytes, columns: Columns) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_text(content), newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        where = [_column(names, name) for name in columns]
        line = reader.line_num + 1
        for cells in reader:
            if any(map(str.strip, cells)):
                whole = len(cells) == len(names)
                yield (
                    _row(f"line {line}", *(cells[at] for at in where))
                    if whole
                    else Unusable(f"line {line}", f"expected {len(names)} cells")
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise _Malformed(f"line {reader.line_num}: not CSV: {error}") from None


def _column(names: Sequence[str], name: str) -> int:
    if names.count(name) != 1:
        raise _Malformed(f"expected one column {name!r}, it has {', '.join(names) or 'none'}")
    return names.index(name)


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Malformed(f"line {line}: not UTF-8") from None


def _jsonl(content: bytes, columns: Columns) -> Iterator[Row]:
    for line, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            fields = orjson.loads(raw)
        except orjson.JSONDecodeError:
            yield Unusable(f"line {line}", "not JSON")
            continue
        if isinstance(fields, dict):
            yield _row(f"line {line}", fields.get(columns.text), fields.get(columns.label))
        else:
            yield Unusable(f"line {line}", "not an object")


def _parquet(content: bytes, columns: Columns) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise _Malformed("Parquet needs the extra: pip install 'sentence-streams[training]'") from None
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        names = file.schema_arrow.names
        for name in columns:
            _column(names, name)
        number = 0
        for batch in file.iter_batches(columns=list(dict.fromkeys(columns))):
            texts, labels = (batch.column(name).to_pylist() for name in columns)
            for text, label in zip(texts, labels, strict=True):
                number += 1
                yield _row(f"row {number}", text, label)
    except pyarrow.ArrowException as error:
        raise _Malformed(f"not Parquet: {str(error).splitlines()[0]}") from None


#: What reads a file, by how its name ends.
FORMATS: Mapping[str, Callable[[bytes, Columns], Iterator[Row]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
}


def _row(place: str, text: Any, label: Any) -> Row:
    if not isinstance(text, str) or not text.strip():
        return Unusable(place, "no text")
    if isinstance(label, bool):
        label = str(label).lower()
    elif isinstance(label, int):
        label = str(label)
    if not isinstance(label, str) or not label.strip():
        return Unusable(place, "no label")
    return Example(place, text, label.strip())


# -- topics ---------------------------------------------------------------------------------------------------


async def read_topic(connection: Mapping[str, Any], codec: Codec, ranges: Ranges, label: str = USUAL.label) -> Dataset:
    """Labelled sentences of these ranges of a request topic. Raises UnusableLabels, NothingComes."""
    source = ", ".join(sorted({tp.topic for tp in ranges})) or "the topic"
    records: list[Record] = []
    async with aclosing(scan(connection, ranges)) as batches:
        async for batch in batches:
            records += batch.records
    return await asyncio.to_thread(lambda: checked(from_records(records, codec, label), source))


def from_records(records: Iterable[Record], codec: Codec, label: str = USUAL.label) -> Iterator[Row]:
    """A row for each sentence of a request topic; its metadata has the label. Deletions are passed over.

    A record with a key replaces the earlier ones of that key.
    """
    latest: dict[bytes, Record | None] = {}
    loose: list[Record] = []
    for record in records:
        if record.key is None:
            loose.append(record)
        else:
            latest[record.key] = record if record.value is not None else None
    for record in (*loose, *(record for record in latest.values() if record is not None)):
        place = f"{record.partition}@{record.offset}"
        try:
            sentence = codec.decode(Sentence, record.value, record.headers)
        except Reject as error:
            yield Unusable(place, error.reason)
        else:
            yield _row(place, sentence.text, sentence.metadata.get(label))
