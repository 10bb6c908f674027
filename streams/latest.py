"""Which record of a key is the last, and what the headers of an old record still mean when it is sent again."""

import hashlib
from typing import NamedTuple

from schemas.errors import InvalidField
from schemas.headers import (
    CORRELATION_ID,
    DEADLINE,
    REPLY_PARTITION,
    REPLY_TOPIC,
    RESULTS,
    SOURCE_OFFSET,
    SOURCE_PARTITION,
    SOURCE_TIMESTAMP,
    SOURCE_TOPIC,
    SPRING_CORRELATION_ID,
    SPRING_REPLY_PARTITION,
    SPRING_REPLY_TOPIC,
    Results,
    parse_request,
)
from schemas.records import Source
from streams.records import Headers, Record

_SOURCE = frozenset({SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET, SOURCE_TIMESTAMP})
#: What belongs to the caller of that time: nobody waits for the answer any more, and every deadline has passed.
_CALLERS = frozenset(
    {DEADLINE, REPLY_TOPIC, REPLY_PARTITION, CORRELATION_ID}
    | {SPRING_REPLY_TOPIC, SPRING_REPLY_PARTITION, SPRING_CORRELATION_ID}
)


def without_caller(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Returns the headers less what only the caller of that time could use: deadline and reply address."""
    return [header for header in headers if header[0] not in _CALLERS]


def original_source(headers: Headers) -> Source | None:
    """Returns where an earlier replay says that a record was first read; None where no valid headers say so."""
    try:
        return parse_request([header for header in headers if header[0] in _SOURCE]).source
    except InvalidField:
        return None


def is_reply_only(headers: Headers) -> bool:
    """Whether only the caller was to see the results: sent again, they would go to nobody."""
    return dict(headers).get(RESULTS) == Results.REPLY_ONLY.encode()


class _Place(NamedTuple):
    partition: int
    offset: int
    timestamp: int
    chosen: bool


class Latest:
    """Where the last record of every key is, so that nothing brings back what was superseded or deleted.

    Memory: some 300 bytes a key, however long it is. Records of one partition are ordered by offset; those of two
    (a topic that got more partitions) by timestamp.
    """

    def __init__(self) -> None:
        self._last: dict[bytes, _Place] = {}

    def note(self, record: Record, *, chosen: bool = False) -> int | None:
        """Takes a record into account, in any order; one without a key, or without public results, supersedes none.

        Returns the partition of a `chosen` record that turns out to be superseded, by this one or as this one.
        """
        if record.key is None or is_reply_only(record.headers):
            return None
        digest = _digest(record.key)
        place = _Place(record.partition, record.offset, record.timestamp, chosen)
        last = self._last.get(digest)
        if last is None or _later(place, last):
            self._last[digest] = place
            loser = last
        else:
            loser = place
        return loser.partition if loser is not None and loser.chosen else None

    def superseded(self, key: bytes | None, partition: int, offset: int, timestamp: int) -> bool:
        """Whether a later record of the key is known."""
        last = self._last.get(_digest(key)) if key is not None else None
        return last is not None and _later(last, _Place(partition, offset, timestamp, False))


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16).digest()


def _later(one: _Place, other: _Place) -> bool:
    return one.offset > other.offset if one.partition == other.partition else one.timestamp > other.timestamp
