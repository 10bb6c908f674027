"""Redriving dead letters: which of them to send again through the replay lane, and as what."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from heapq import merge
from operator import attrgetter
from typing import Any, NamedTuple

from schemas import framing
from schemas.codec import Codec, R, validate
from schemas.errors import InvalidField, Reject
from schemas.headers import VALUE_SCHEMA, Header, Headers, source_headers
from schemas.records import Sentence, Source
from streams.dead_letters import Letter, opened
from streams.latest import Latest, is_reply_only, original_source, without_caller
from streams.ranges import BEGINNING, END, Batch, Bound, Range, Ranges, scan
from streams.records import Outgoing, Record, TopicPartition
from streams.transfer import fingerprint

#: How often a record was redriven; it stays on the record, so a record that fails again tells it.
REDRIVES = "redrive-attempts"


class Left:
    """Why a selected dead letter is not redriven."""

    PARKED = "parked"
    SUPERSEDED = "superseded"
    REPLY_ONLY = "reply-only"
    NO_REQUEST = "no-request"
    FOREIGN = "foreign"


class Place(NamedTuple):
    """Where a dead letter is on its topic."""

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Reads PARTITION@OFFSET; raises ValueError."""
        partition, offset = text.split("@")
        place = cls(int(partition), int(offset))
        if min(place) < 0:
            raise ValueError(text)
        return place

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters; what is None does not matter."""

    reason: str | None = None
    stage: str | None = None
    #: Where the record was read, or first read before a replay.
    topic: str | None = None
    key: str | None = None
    #: When it became a dead letter.
    start: Bound = BEGINNING
    end: Bound = END
    places: tuple[Place, ...] = ()

    def within(self, ranges: Ranges) -> dict[TopicPartition, Range]:
        """Narrows ranges to the places, where there are any."""
        if not self.places:
            return dict(ranges)
        narrowed = {}
        for tp, (start, end) in ranges.items():
            offsets = [place.offset for place in self.places if place.partition == tp.partition]
            low, high = max(start, min(offsets, default=end)), min(end, max(offsets, default=start - 1) + 1)
            if low < high:
                narrowed[tp] = Range(low, high)
        return narrowed

    def has(self, record: Record, letter: Letter | None) -> bool:
        """Whether it is one of them."""
        if self.places and (record.partition, record.offset) not in self.places:
            return False
        if self.key is not None and record.key != self.key.encode():
            return False
        if letter is None:
            return self.reason is self.stage is self.topic is None
        topics = {letter.read_at.topic, source_of(letter).topic}
        return (
            self.reason in {None, letter.reason}
            and self.stage in {None, letter.stage}
            and (self.topic is None or self.topic in topics)
        )

    def checkpoint(self, text: str | None) -> str:
        """Names this selection (with the text to set), always the same: its checkpoint goes by it."""
        places = sorted(self.places)
        return fingerprint([self.reason, self.stage, self.topic, self.key, self.start, self.end, places, text])


def source_of(letter: Letter) -> Source:
    """Returns where the record was first read, also when it came by a replay."""
    return original_source(letter.headers) or letter.read_at


def redrives(headers: Headers) -> int:
    """Returns how often a record was redriven before."""
    value = dict(headers).get(REDRIVES) or b""
    return int(value) if value.isdigit() and len(value) < 10 else 0


# -- the plan -------------------------------------------------------------------------------------------------


class Candidate(NamedTuple):
    """A selected dead letter, as small as can be."""

    place: Place
    timestamp: int
    reason: str
    key: bytes | None
    #: Where its record was first read; None where nobody knows.
    source: Source | None
    #: Why not to redrive it, as far as it tells by itself.
    left: str | None


@dataclass(slots=True)
class Plan:
    """What a redrive would do."""

    ranges: dict[TopicPartition, Range]
    selected: set[Place] = field(default_factory=set)
    #: Reason -> how many of the selected.
    reasons: Counter[str] = field(default_factory=Counter)
    #: Why not -> which.
    left: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))


async def survey(
    batches: AsyncIterable[Batch], selection: Selection, max_attempts: int, not_requests: str
) -> list[Candidate]:
    """Returns the selected dead letters of the batches; `not_requests` is the topic whose records are results."""
    found = []
    async for batch in batches:
        for record in batch.records:
            letter = opened(record.headers)
            if selection.has(record, letter):
                found.append(_candidate(record, letter, max_attempts, not_requests))
    return found


def _candidate(record: Record, letter: Letter | None, max_attempts: int, not_requests: str) -> Candidate:
    place = Place(record.partition, record.offset)
    if letter is None:
        return Candidate(place, record.timestamp, "unknown", record.key, None, Left.FOREIGN)
    left = None
    if letter.read_at.topic == not_requests:
        left = Left.NO_REQUEST
    elif is_reply_only(letter.headers):
        left = Left.REPLY_ONLY
    elif redrives(letter.headers) >= max_attempts:
        left = Left.PARKED
    return Candidate(place, record.timestamp, letter.reason, record.key, source_of(letter), left)


async def newest(
    connection: Mapping[str, Any], candidates: Iterable[Candidate], ends: Callable[[str], Ranges]
) -> dict[str, Latest]:
    """Reads the topics that candidates came from, each from its first candidate on; topic -> its last records.

    `ends` gives the ranges of a topic, none for one that is gone.
    """
    since: dict[str, dict[int, int]] = defaultdict(dict)
    for candidate in candidates:
        if candidate.source is not None and candidate.left is None and candidate.key is not None:
            source = candidate.source
            first = since[source.topic].get(source.partition, source.offset)
            since[source.topic][source.partition] = min(first, source.offset)
    found: dict[str, Latest] = {}
    for topic, firsts in since.items():
        latest = found[topic] = Latest()
        ranges = {
            tp: Range(max(each.start, firsts[tp.partition]), each.end)
            for tp, each in ends(topic).items()
            if tp.partition in firsts
        }
        async with aclosing(scan(connection, ranges)) as batches:
            async for batch in batches:
                for record in batch.records:
                    latest.note(record)
    return found


def decide(candidates: Sequence[Candidate], latest: Mapping[str, Latest], ranges: Ranges, limit: int | None) -> Plan:
    """Returns what to redrive: the oldest `limit` candidates that nothing speaks against."""
    plan = Plan(dict(ranges))
    by_partition: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_partition[candidate.place.partition].append(candidate)
    # Within a partition the order of offsets holds whatever the timestamps: the checkpoint is an offset.
    for candidate in merge(*by_partition.values(), key=attrgetter("timestamp")):
        if len(plan.selected) == limit:
            _cut(plan, candidate.place, ranges)
            continue
        left = candidate.left or _superseded(candidate, latest)
        if left is None:
            plan.selected.add(candidate.place)
            plan.reasons[candidate.reason] += 1
        else:
            plan.left[left].append(candidate.place)
    return plan


def _cut(plan: Plan, place: Place, ranges: Ranges) -> None:
    """Ends the plan's range before a place that has to wait for another run."""
    for tp in ranges:
        if tp.partition == place.partition:
            start, end = plan.ranges[tp]
            plan.ranges[tp] = Range(start, min(end, place.offset))


def _superseded(candidate: Candidate, latest: Mapping[str, Latest]) -> str | None:
    source = candidate.source
    if source is None or source.topic not in latest:
        return None
    later = latest[source.topic].superseded(candidate.key, source.partition, source.offset, source.timestamp)
    return Left.SUPERSEDED if later else None


# -- what is sent ---------------------------------------------------------------------------------------------


def redriven(record: Record, topic: str) -> Outgoing:
    """Returns the record of a dead letter as the replay lane gets it: key, value and own headers as they came.

    Our headers are taken off; where it was first read and how often it was redriven is added. Off, too, is what
    only its caller could use: the deadline, which has passed, and the address of the reply.
    """
    letter = opened(record.headers)
    if letter is None:
        raise ValueError("expected a dead letter that was opened before")
    headers: list[Header] = [header for header in without_caller(letter.headers) if header[0] != REDRIVES]
    if original_source(letter.headers) is None:
        headers += source_headers(letter.read_at)
    headers.append((REDRIVES, b"%d" % (redrives(letter.headers) + 1)))
    return Outgoing(topic, record.key, record.value, headers)


def edited(outgoing: Outgoing, text: str, codec: Codec) -> Outgoing:
    """Returns the record with another text and the same id, encoded anew.

    Raises Reject where the record cannot be decoded, or the text cannot be embedded.
    """
    sentence = replace(unchecked(codec, Sentence, outgoing.value, outgoing.headers), text=text)
    validate(sentence)
    headers = [header for header in outgoing.headers if header[0] != VALUE_SCHEMA]
    return outgoing._replace(value=codec.encode(sentence, outgoing.topic), headers=headers)


def unchecked(codec: Codec, kind: type[R], value: bytes | None, headers: Headers) -> R:
    """Decodes as the codec does, but lets through what nobody could embed: that is what an edit is to mend.

    Raises Reject or Retry.
    """
    try:
        return codec.decode(kind, value, headers)
    except InvalidField:
        frame, start = framing.split(value or b"", headers)
        read = codec._plan(kind, frame)
        if isinstance(read, Reject):  # never: it was decoded a moment ago
            raise read from None
        return read(value or b"", start)[0]  # type: ignore[no-any-return]


def converter(
    topic: str, text: str | None, codec: Codec
) -> Callable[[Sequence[Record]], list[list[Outgoing] | Reject]]:
    """Returns what makes requests of dead letters; `text` replaces theirs."""

    def convert(records: Sequence[Record]) -> list[list[Outgoing] | Reject]:
        return [_converted(redriven(record, topic), text, codec) for record in records]

    return convert


def _converted(outgoing: Outgoing, text: str | None, codec: Codec) -> list[Outgoing] | Reject:
    try:
        return [outgoing if text is None else edited(outgoing, text, codec)]
    except Reject as error:
        return error
