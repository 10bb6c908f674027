"""What came from a topic, as people and machines read it: lines of text, JSON Lines, CSV."""

import base64
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TextIO

import numpy as np
import orjson

from schemas.headers import Headers
from schemas.packing import values
from schemas.records import Alert, Embedding, ModelCommand, Record, Reply, Score, ScoreStatus, Sentence, TrainingRequest

#: Characters of a text that a line shows.
SHORT = 80
COORDINATES = ("topic", "partition", "offset", "timestamp", "key")


class Form(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Letter:
    """Why a record is a dead letter, and where it was read; None where its headers do not say."""

    reason: str | None
    stage: str | None
    message: str | None
    attempts: int | None
    topic: str | None
    partition: int | None
    offset: int | None
    #: Milliseconds since 1970 UTC.
    timestamp: int | None


@dataclass(frozen=True, slots=True)
class Item:
    """One record of a topic; without `record` and `letter` it is a tombstone."""

    topic: str
    partition: int
    offset: int
    #: Milliseconds since 1970 UTC.
    timestamp: int
    key: str | None
    record: Record | None
    letter: Letter | None = None


def read_letter(headers: Headers) -> Letter:
    """Reads the headers of a dead letter."""
    found = dict(headers)
    return Letter(
        reason=_text(found.get("reason")),
        stage=_text(found.get("__connect.errors.stage")),
        message=_text(found.get("__connect.errors.exception.message")),
        attempts=_digits(found.get("attempts")),
        topic=_text(found.get("__connect.errors.topic")),
        partition=_digits(found.get("__connect.errors.partition")),
        offset=_digits(found.get("__connect.errors.offset")),
        timestamp=_binary(found.get("kafka_dlt-original-timestamp")),
    )


def printer(form: Form, kind: type[Any] | None, out: TextIO, *, vectors: bool) -> Callable[[Item], None]:
    """Returns what prints an item; `kind` is what the topic holds (a record's class or Letter), None if unknown."""
    if form is Form.JSONL:
        return lambda item: _write(out, _json(item, vectors=vectors))
    if form is Form.TEXT:
        return lambda item: _write(out, _line(item, vectors=vectors))
    return _csv(kind, out, vectors=vectors)


def _write(out: TextIO, line: str) -> None:
    out.write(line + "\n")


# -- text -----------------------------------------------------------------------------------------------------


def _line(item: Item, *, vectors: bool) -> str:
    return "  ".join([f"{item.partition}@{item.offset}", *_parts(item, vectors=vectors)])


def _parts(item: Item, *, vectors: bool) -> list[str]:
    if item.letter is not None:
        return _letter_parts(item.letter, item.record)
    match item.record:
        case None:
            return [shortened(item.key or "without key"), "deleted"]
        case Sentence(id=identity, text=text):
            return [shortened(identity), shortened(text)]
        case Embedding() as embedding:
            return _embedding_parts(embedding, vectors=vectors)
        case Score() as score:
            return _score_parts(score)
        case Reply() as reply:
            return [shortened(_text(reply.correlation_id) or ""), *_reply_parts(reply, vectors=vectors)]
        case Alert() as alert:
            return [alert.severity, shortened(alert.kind), shortened(alert.subject), shortened(alert.message)]
        case ModelCommand() as command:
            active = command.active.name if command.active else "as the settings say"
            return [f"{command.kind}:{shortened(command.alias)}", shortened(active), shortened(command.reason)]
        case TrainingRequest() as training:
            return [shortened(training.id), shortened(training.scorer), training.head, shortened(training.source)]


def _embedding_parts(embedding: Embedding, *, vectors: bool) -> list[str]:
    cut = " (truncated)" if embedding.truncated else ""
    parts = [
        shortened(embedding.sentence_id),
        f"{embedding.dimensions} dimensions",
        f"{embedding.token_count} tokens{cut}",
        shortened(embedding.model),
    ]
    if vectors:
        parts.append(f"[{_cell(values(embedding))}]")
    return [*parts, shortened(embedding.text)] if embedding.text is not None else parts


def _score_parts(score: Score) -> list[str]:
    parts = [shortened(score.sentence_id), shortened(score.scorer), shortened(score.label), f"{score.score:.3f}"]
    return parts if score.status is ScoreStatus.OK else [*parts, f"fallback: {shortened(score.reason or '')}"]


def _reply_parts(reply: Reply, *, vectors: bool) -> list[str]:
    if reply.error is not None:
        return [f"{reply.error.reason} ({reply.error.stage})", shortened(reply.error.message)]
    if reply.embedding is None:
        return ["deleted"]
    labels = [f"{shortened(score.scorer)}: {shortened(score.label)}" for score in reply.scores]
    return [*_embedding_parts(reply.embedding, vectors=vectors), *labels]


def _letter_parts(letter: Letter, record: Record | None) -> list[str]:
    place = f"{letter.topic}/{letter.partition}@{letter.offset}" if letter.topic else "unknown place"
    why = f"{letter.reason or 'no reason'} ({letter.stage or 'no stage'})"
    parts = [why, f"from {shortened(place)}", shortened(letter.message or "no message")]
    return parts if record is None else [*parts, *_parts(Item("", 0, 0, 0, None, record), vectors=False)]


def shortened(text: str) -> str:
    """Returns a text that fits a line of a terminal and cannot steer it: control characters are escaped."""
    clear = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[: SHORT + 1])
    return clear if len(clear) <= SHORT else clear[: SHORT - 1] + "…"


# -- JSON Lines and CSV ---------------------------------------------------------------------------------------


def _json(item: Item, *, vectors: bool) -> str:
    content = {name: getattr(item, name) for name in COORDINATES}
    if item.letter is not None:
        content["dead_letter"] = item.letter
    content["record"] = None if item.record is None else _fields(item.record, vectors=vectors)
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _fields(record: Record, *, vectors: bool) -> dict[str, Any]:
    found = {name: getattr(record, name) for name in _names(type(record), vectors=vectors)}
    return {name: _plain(name, value, vectors=vectors) for name, value in found.items()}


def _plain(name: str, value: Any, *, vectors: bool) -> Any:
    """A field as JSON can hold it, with the vector inside it only where that is wanted."""
    match value:
        case bytes():
            return base64.b64encode(value).decode() if name == "packed" else _text(value)
        case Embedding():
            return _fields(value, vectors=vectors)
        case _:
            return value


def _names(kind: type[Any], *, vectors: bool) -> list[str]:
    return [each.name for each in fields(kind) if vectors or each.name not in {"vector", "packed"}]


def _csv(kind: type[Any] | None, out: TextIO, *, vectors: bool) -> Callable[[Item], None]:
    """A row an item under one header: coordinates, then the fields of the topic's records.

    Dead letters, and topics whose records are unknown, have the record as JSON in one cell.
    """
    writer = csv.writer(out, lineterminator="\n")
    if kind is None:
        columns = ["record"]
    elif kind is Letter:
        columns = [f"dead_letter_{name}" for name in _names(Letter, vectors=False)] + ["record"]
    else:
        columns = _names(kind, vectors=vectors)
    writer.writerow([*COORDINATES, *columns])

    def write(item: Item) -> None:
        cells = _cells(item, kind, columns, vectors=vectors)
        writer.writerow([*(getattr(item, name) for name in COORDINATES), *cells])

    return write


def _cells(item: Item, kind: type[Any] | None, columns: Sequence[str], *, vectors: bool) -> list[Any]:
    if item.record is None and item.letter is None:
        return [""] * len(columns)
    if kind is not None and kind is not Letter:
        return [_cell(_plain(name, getattr(item.record, name), vectors=vectors)) for name in columns]
    whole = (
        ""
        if item.record is None
        else orjson.dumps(_fields(item.record, vectors=vectors), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    )
    letter = [] if item.letter is None else [getattr(item.letter, each.name) for each in fields(Letter)]
    return [*letter, whole]


def _cell(value: Any) -> Any:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float() | None:
            return value
        case tuple() if all(isinstance(each, str) for each in value):
            return " ".join(value)
        case np.ndarray():
            return " ".join(map(str, value))  # a float32 prints as short as it can be read back
        case _:
            return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


# -- headers --------------------------------------------------------------------------------------------------


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _digits(value: bytes | None) -> int | None:
    return int(value) if value is not None and len(value) < 20 and value.isdigit() else None


def _binary(value: bytes | None) -> int | None:
    return int.from_bytes(value, "big", signed=True) if value is not None and len(value) == 8 else None
