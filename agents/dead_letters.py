"""`sentence-streams dead-letters`: what is on the dead-letter topic, for people; and sending it again."""

import asyncio
import csv
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from confluent_kafka.admin import AdminClient

from agents import transfers
from agents.clients import broker, codec
from agents.console import mute, plural, print_json, progress, remark, table, waiting
from agents.show import Form, Item, printer, read_letter
from agents.show import Letter as Shown
from schemas.codec import Codec
from schemas.errors import Reject, Retry, StreamsError
from schemas.records import Embedding, Record, Sentence
from streams.dead_letters import Letter, opened
from streams.ranges import BEGINNING, END, Range, Ranges, UnknownTopic, resolve, scan, size
from streams.records import Record as Raw
from streams.records import TopicPartition
from streams.redrive import (
    Left,
    Place,
    Plan,
    Selection,
    converter,
    decide,
    newest,
    redrives,
    source_of,
    survey,
    unchecked,
)
from streams.settings import Settings
from streams.transfer import Latest, Pace, Tally, Transfer, resume

#: Bytes of a value that is not text which `show` dumps.
DUMPED = 256
#: What to do about dead letters that a redrive leaves where they are.
ADVICE = {
    Left.PARKED: "redriven as often as --max-attempts allows; name their places and a higher --max-attempts to insist",
    Left.SUPERSEDED: "their key has a newer record or was deleted; --include-superseded sends them all the same",
    Left.REPLY_ONLY: "their results were for a caller who has gone",
    Left.NO_REQUEST: "not requests: `replay --re-score` scores embeddings again",
    Left.FOREIGN: "without the headers that this product writes",
}


class NoSuchLetter(StreamsError):
    """There is no dead letter at this place; it may have been removed by retention."""


class NotOne(StreamsError):
    """A text can be set on one dead letter only; the selection has another number."""


# -- list -----------------------------------------------------------------------------------------------------


def show_list(settings: Settings, selection: Selection, *, form: Form, limit: int | None, summary: bool) -> int:
    """Prints the selected dead letters, or only their counts, and returns the exit code."""
    ranges = _ranges(broker(settings), settings, selection)
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
    show, decode = printer(form, Shown, sys.stdout, vectors=False), _Decoder(decoder)
    return lambda record: show(_item(record, decode(record)))


async def _list(
    settings: Settings, selection: Selection, ranges: Ranges, show: Callable[[Raw], None], limit: int | None
) -> Counter[str]:
    reasons: Counter[str] = Counter()
    passed = 0
    with progress(settings.topic_dead_letters, size(ranges), shown=not sys.stdout.isatty()) as advance:
        async with aclosing(scan(transfers.connection(settings), ranges)) as batches:
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
    ranges = _ranges(broker(settings), settings, selection)
    record = asyncio.run(_one(settings, ranges, place))
    with codec(settings) as decoder:
        content = _content(record, _Decoder(decoder)(record))
    print_json(content) if as_json else _print_content(content)
    return 0


async def _one(settings: Settings, ranges: Ranges, place: Place) -> Raw:
    async with aclosing(scan(transfers.connection(settings), ranges)) as batches:
        async for batch in batches:
            for record in batch.records:
                if record.offset == place.offset:
                    return record  # type: ignore[no-any-return]
    raise NoSuchLetter(f"there is no dead letter at {place} of {settings.topic_dead_letters}")


def _content(record: Raw, decoded: Record | None) -> dict[str, Any]:
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


# -- redrive --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to redrive, and how."""

    selection: Selection
    #: Text for the one selected record.
    text: str | None
    limit: int | None
    rate: float
    max_attempts: int
    include_superseded: bool
    execute: bool


def redrive(settings: Settings, job: Job, *, as_json: bool) -> int:
    """Says what would be redriven or does it, and returns the exit code. Raises NotOne, TakenOver and others."""
    try:
        with codec(settings) as coder:
            return _redrive(settings, job, coder, as_json=as_json)
    except KeyboardInterrupt:
        remark("interrupted: the same command goes on where this one ended")
        return 130


def _redrive(settings: Settings, job: Job, coder: Codec, *, as_json: bool) -> int:
    admin = broker(settings)
    group = f"{settings.group}-redrive-{job.selection.checkpoint(job.text)}"
    ranges, done = transfers.unfinished(admin, group, _ranges(admin, settings, job.selection))
    with waiting("reading the dead letters"):
        plan = asyncio.run(_plan(settings, admin, job, ranges))
        if job.text is not None and not (done and not plan.selected):
            _check_edit(settings, job.text, plan, coder)
    _tell_plan(plan, job, settings, done)
    tally = None
    if job.execute and plan.ranges:
        transfers.require(admin, settings.topic_replay)
        started = time.monotonic()
        tally = transfers.interruptible(lambda stop: _execute(settings, admin, group, job, plan, coder, stop))
        transfers.tell(tally, what="dead letter", to=settings.topic_replay, seconds=time.monotonic() - started)
    if as_json:
        print_json(_as_json(plan, tally))
    return transfers.exit_code(tally) if tally else 0


async def _plan(settings: Settings, admin: AdminClient, job: Job, ranges: Ranges) -> Plan:
    link = transfers.connection(settings)
    async with aclosing(scan(link, ranges)) as batches:
        candidates = await survey(batches, job.selection, job.max_attempts, settings.topic_embeddings)

    def ends(topic: str) -> Ranges:
        try:
            return resolve(admin, topic, BEGINNING, END)
        except UnknownTopic:
            return {}

    latest: dict[str, Latest] = {} if job.include_superseded else await newest(link, candidates, ends)
    return decide(candidates, latest, ranges, job.limit)


def _check_edit(settings: Settings, text: str, plan: Plan, coder: Codec) -> None:
    if len(plan.selected) != 1:
        raise NotOne(f"--set-text: expected one dead letter that can be redriven, there are {len(plan.selected):,}")
    (place,) = plan.selected
    only = {TopicPartition(settings.topic_dead_letters, place.partition): Range(place.offset, place.offset + 1)}
    (result,) = converter(settings.topic_replay, text, coder)([asyncio.run(_one(settings, only, place))])
    if isinstance(result, Reject):
        raise StreamsError(f"--set-text: {place}: {result}")


async def _execute(
    settings: Settings, admin: AdminClient, group: str, job: Job, plan: Plan, coder: Codec, stop: asyncio.Event
) -> Tally:
    out = transfers.publisher(settings, group)
    with progress(settings.topic_replay, size(plan.ranges)) as advance:
        transfer = Transfer(
            out,
            lambda record: (record.partition, record.offset) in plan.selected,
            converter(settings.topic_replay, job.text, coder),
            Pace(job.rate),
            stop,
            advance=advance,
        )
        return await resume(transfer, out, transfers.connection(settings), admin, group, plan.ranges)


def _tell_plan(plan: Plan, job: Job, settings: Settings, done: int) -> None:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in plan.reasons.most_common())
    verb = "redriving" if job.execute else "would redrive"
    seconds = len(plan.selected) / job.rate
    remark(
        f"{verb} {plural(len(plan.selected), 'dead letter')} to {settings.topic_replay}"
        f"{f': {counts}' if counts else ''}; at {job.rate:g}/s {transfers.duration(seconds)}"
    )
    for why, places in plan.left.items():
        remark(f"left: {len(places):,} {why}: {ADVICE[why]}: {transfers.listed(places)}")
    if done:
        remark("earlier runs of this selection went through the rest; nothing is redriven twice")
    if not job.execute:
        remark("nothing was sent: --execute does it")


def _as_json(plan: Plan, tally: Tally | None) -> dict[str, Any]:
    return {
        "selected": len(plan.selected),
        "reasons": plan.reasons,
        "left": {why: [str(place) for place in places] for why, places in plan.left.items()},
        "executed": None if tally is None else transfers.as_json(tally),
    }


# -- all of them ----------------------------------------------------------------------------------------------


def _ranges(admin: AdminClient, settings: Settings, selection: Selection) -> dict[TopicPartition, Range]:
    return selection.within(resolve(admin, settings.topic_dead_letters, selection.start, selection.end))


class _Decoder:
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
