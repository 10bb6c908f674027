"""`sentence-streams dead-letters`: what is on the dead-letter topic, for people."""

import asyncio
import csv
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from confluent_kafka.admin import AdminClient

from agents.clients import broker, codec, connection
from agents.console import mute, plural, print_json, progress, remark, table
from agents.show import Form, Item, printer, read_letter
from agents.show import Letter as Shown
from schemas.codec import Codec
from schemas.errors import Reject, Retry, StreamsError
from schemas.records import Embedding, Record, Sentence
from streams.dead_letters import Letter, opened
from streams.ranges import Range, Ranges, resolve, scan, size
from streams.records import Record as Raw
from streams.records import TopicPartition
from streams.redrive import Place, Selection, redrives, source_of, unchecked
from streams.settings import Settings

#: Bytes of a value that is not text which `show` dumps.
DUMPED = 256


class NoSuchLetter(StreamsError):
    """There is no dead letter at this place; it may have been removed by retention."""


# -- list -----------------------------------------------------------------------------------------------------


def show_list(settings: Settings, selection: Selection, *, form: Form, limit: int | None, summary: bool) -> int:
    """Prints the selected dead letters, or only their counts, and returns the exit code."""
    ranges = ranges_of(broker(settings), settings, selection)
    try:
        with codec(settings) as decoder:
            reasons = asyncio.run(_list(settings, selection, ranges, _printer(form, summary, decoder), limit))
        if summary:
            _summary(reasons, form)
        sys.stdout.flush()
    except BrokenPipeError:
        mute()
        return 0
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    remark(f"{plural(reasons.total(), 'dead letter')}{': ' if counts else ''}{counts}")
    return 0


def _printer(form: Form, summary: bool, decoder: Codec) -> Callable[[Raw], None]:
    if summary:
        return lambda _record: None
    show, decode = printer(form, Shown, sys.stdout, vectors=False), Decoder(decoder)
    return lambda record: show(_item(record, decode(record)))


async def _list(
    settings: Settings, selection: Selection, ranges: Ranges, show: Callable[[Raw], None], limit: int | None
) -> Counter[str]:
    reasons: Counter[str] = Counter()
    passed = 0
    with progress(settings.topic_dead_letters, size(ranges), shown=not sys.stdout.isatty()) as advance:
        async with aclosing(scan(connection(settings), ranges)) as batches:
            async for batch in batches:
                for record in batch.records:
                    letter = opened(record.headers)
                    if selection.has(record, letter):
                        show(record)
                        reasons[letter.reason if letter else "unknown"] += 1
                    if reasons.total() == limit:
                        return reasons
                passed += len(batch.records)
                advance(passed, reasons.total())
    return reasons


def _summary(reasons: Counter[str], form: Form) -> None:
    counts = reasons.most_common()
    if form is Form.TEXT:
        table(("reason", "dead letters"), ((reason, f"{count:,}") for reason, count in counts))
    elif form is Form.JSONL:
        for reason, count in counts:
            print_json({"reason": reason, "count": count})
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows([("reason", "count"), *counts])


# -- show -----------------------------------------------------------------------------------------------------


def show_one(settings: Settings, place: Place, *, as_json: bool) -> int:
    """Prints all there is to one dead letter, and returns the exit code. Raises NoSuchLetter."""
    selection = Selection(places=(place,))
    ranges = ranges_of(broker(settings), settings, selection)
    record = asyncio.run(one(settings, ranges, place))
    with codec(settings) as decoder:
        content = content_of(record, Decoder(decoder)(record))
    print_json(content) if as_json else _print_content(content)
    return 0


async def one(settings: Settings, ranges: Ranges, place: Place) -> Raw:
    """Returns the dead letter at a place that lies in the ranges. Raises NoSuchLetter."""
    async with aclosing(scan(connection(settings), ranges)) as batches:
        async for batch in batches:
            for record in batch.records:
                if record.offset == place.offset:
                    return record  # type: ignore[no-any-return]
    raise NoSuchLetter(f"there is no dead letter at {place} of {settings.topic_dead_letters}")


def content_of(record: Raw, decoded: Record | None) -> dict[str, Any]:
    """Returns all there is to a dead letter, for people and as JSON."""
    letter = opened(record.headers)
    value = record.value
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "time": _time(record.timestamp),
        **(_why(letter) if letter else {}),
        "key": None if record.key is None else _readable(record.key),
        "bytes": None if value is None else len(value),
        "record": None if decoded is None else _fields(decoded),
        # A value that decodes says more than its bytes.
        "value": _readable(value[:DUMPED]) if value is not None and decoded is None else None,
        "headers": [[name, header_text(name, value)] for name, value in record.headers],
    }


def _why(letter: Letter) -> dict[str, Any]:
    read_at, first = letter.read_at, source_of(letter)
    return {
        "reason": letter.reason,
        "stage": letter.stage,
        "message": letter.message,
        "read_at": f"{read_at.topic}/{read_at.partition}@{read_at.offset}",
        "first_read_at": f"{first.topic}/{first.partition}@{first.offset}",
        "first_time": _time(first.timestamp),
        "redriven": redrives(letter.headers),
    }


def _fields(record: Record) -> dict[str, Any]:
    found = {each.name: getattr(record, each.name) for each in fields(record)}
    if isinstance(record, Embedding):
        found["vector"] = f"{record.dimensions} values"
        found["source"] = str(record.source)
    return found


def _print_content(content: dict[str, Any]) -> None:
    headers, record = content.pop("headers"), content.pop("record")
    rows = [(name, value) for name, value in content.items() if value is not None]
    rows += [(f"record.{name}", value) for name, value in (record or {}).items()]
    _print_rows(rows)
    sys.stdout.write("headers\n")
    _print_rows((f"  {name}", value) for name, value in headers)


def _print_rows(rows: Iterable[tuple[str, Any]]) -> None:
    for name, value in rows:
        lines = _harmless(str(value)).splitlines() or [""]
        sys.stdout.write(f"{_harmless(name)}: {lines[0]}\n")
        sys.stdout.writelines(f"    {line}\n" for line in lines[1:])


def _harmless(text: str) -> str:
    """Escapes what could steer a terminal."""
    return "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)


#: Headers that hold a big-endian number; the others are text or opaque.
NUMBERS = {
    "kafka_dlt-original-partition": 4,
    "kafka_dlt-original-offset": 8,
    "kafka_dlt-original-timestamp": 8,
    "kafka_replyPartition": 4,
}


def header_text(name: str, value: bytes | None) -> str | None:
    """Returns a header's value for people: Spring's binary numbers in digits, text as text, the rest in hex."""
    if value is None:
        return None
    if NUMBERS.get(name) == len(value):
        number = int.from_bytes(value, "big", signed=True)
        time = _time(number) if name.endswith("timestamp") else None
        return f"{number} ({time})" if time else str(number)
    return _readable(value[:DUMPED]) if not _is_text(value) else value.decode()


def _readable(value: bytes) -> str:
    """Returns text as it is, anything else as a dump of hex and ASCII, 16 bytes a line."""
    if _is_text(value):
        return value.decode()
    lines = [value[start : start + 16] for start in range(0, len(value), 16)]
    return "\n".join(f"{line.hex(' '):<47}  {''.join(map(_ascii, line))}" for line in lines)


def _ascii(byte: int) -> str:
    char = chr(byte)
    return char if char in string.printable and char.isprintable() else "."


def _is_text(value: bytes) -> bool:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return False
    return all(each.isprintable() or each in "\n\t" for each in text)


def _time(milliseconds: int) -> str | None:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):  # any producer may write any number
        return None


# -- all of them ----------------------------------------------------------------------------------------------


def ranges_of(admin: AdminClient, settings: Settings, selection: Selection) -> dict[TopicPartition, Range]:
    """Returns what of the dead-letter topic a selection has to read. Raises UnknownTopic."""
    return selection.within(resolve(admin, settings.topic_dead_letters, selection.start, selection.end))


class Decoder:
    """Decodes what a dead letter holds; without a word where that is not possible, since that is why it is one."""

    def __init__(self, decoder: Codec) -> None:
        self._codec = decoder
        self._registry_away = False

    def __call__(self, record: Raw) -> Record | None:
        for kind in (Sentence, Embedding):
            try:
                return unchecked(self._codec, kind, record.value, record.headers)
            except Reject:
                continue
            except Retry as error:
                if not self._registry_away:
                    remark(f"records are not decoded: {error}")
                self._registry_away = True
                return None
        return None


def _item(record: Raw, decoded: Record | None) -> Item:
    return Item(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        key=None if record.key is None else record.key.decode(errors="backslashreplace"),
        record=decoded,
        letter=read_letter(record.headers),
    )
