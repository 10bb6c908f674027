"""Ranges of a topic, read once from end to end: what replays and redrives work on. Nothing here joins a group."""

import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.structs import TopicPartition as KafkaTopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicPartition as AdminTopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from schemas.errors import Retry, StreamsError
from streams.records import TopicPartition

#: Records of one fetch.
FETCH_RECORDS = 500
#: Seconds for an answer, and for the next record of a range that is not read to its end.
PATIENCE = 30.0
#: A number from here on is a time: in milliseconds it is 1973, as an offset nobody has it.
FIRST_TIME = 100_000_000_000
#: The end of the year 9999.
LAST_TIME = 253_402_300_799_999
#: A partition that was only just made, or is changing leaders, answers so.
SETTLING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    }
)
FOREVER = 2**62


class UnknownTopic(StreamsError):
    """The broker has no such topic."""


class NothingComes(Retry):
    """A range could not be read to its end: the broker gives nothing any more."""


class Range(NamedTuple):
    """Offsets of one partition: from `start` up to `end`, which is not in it."""

    start: int
    end: int


Ranges = Mapping[TopicPartition, Range]


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a range of every partition starts or ends; offset and time (epoch ms) are None for an edge."""

    offset: int | None = None
    time: int | None = None
    #: With neither: the end of the topic, or else its beginning.
    end: bool = False

    @classmethod
    def parse(cls, text: str) -> "Bound":
        """Reads `beginning`, `end`, an offset, epoch milliseconds, or an ISO 8601 time (UTC where it names no zone).

        Raises ValueError.
        """
        if text in {"beginning", "end"}:
            return cls(end=text == "end")
        if text.isascii() and text.isdigit():
            number = int(text)
            if number > LAST_TIME:
                raise ValueError(text)
            return cls(time=number) if number >= FIRST_TIME else cls(offset=number)
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return cls(time=round(moment.timestamp() * 1000))

    def __str__(self) -> str:
        if self.time is not None:
            return datetime.fromtimestamp(self.time / 1000, UTC).isoformat()
        if self.offset is not None:
            return str(self.offset)
        return "end" if self.end else "beginning"


BEGINNING, END = Bound(), Bound(end=True)


# -- questions to the brokers; they block ---------------------------------------------------------------------


def resolve(admin: AdminClient, topic: str, start: Bound, end: Bound) -> dict[TopicPartition, Range]:
    """Returns what lies between two bounds in each partition, as far as it is committed now.

    Raises UnknownTopic; StreamsError where the embedded broker is asked for a time, which it cannot find.
    """
    cluster = admin.list_topics(timeout=PATIENCE)
    found = cluster.topics.get(topic)
    if found is None or found.error is not None:
        raise UnknownTopic(f"topic {topic} does not exist; `sentence-streams provision` makes the stream's topics")
    if (start.time or end.time) and is_embedded(admin):
        raise StreamsError("the embedded broker finds no times: use beginning, end or offsets")
    partitions = list(found.partitions)
    first, last = (offsets(admin, topic, partitions, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
    at = [
        offsets(admin, topic, partitions, OffsetSpec.for_timestamp(bound.time)) if bound.time is not None else {}
        for bound in (start, end)
    ]
    ranges = {}
    for n in partitions:
        low, high = (
            _place(bound, first[n], last[n], times.get(n)) for bound, times in zip((start, end), at, strict=True)
        )
        ranges[TopicPartition(topic, n)] = Range(low, max(low, high))
    return ranges


def is_embedded(admin: AdminClient) -> bool:
    """Whether this is the embedded broker, which finds no times and keeps no offsets of transactions."""
    return str(admin.list_topics(timeout=PATIENCE).cluster_id).startswith("mockCluster")


def _place(bound: Bound, first: int, last: int, at_time: int | None) -> int:
    if at_time is not None:
        return at_time if at_time >= 0 else last  # nothing is as late as that
    if bound.offset is not None:
        return min(max(bound.offset, first), last)
    return last if bound.end else first


def offsets(admin: AdminClient, topic: str, partitions: Iterable[int], spec: OffsetSpec) -> dict[int, int]:
    """Returns partition -> offset; waits for partitions that were only just made or are changing leaders."""
    asked = {AdminTopicPartition(topic, n): spec for n in partitions}
    attempts = Retrying(
        retry=retry_if_exception(_settling), stop=stop_after_delay(PATIENCE), wait=wait_fixed(0.2), reraise=True
    )
    for attempt in attempts:
        with attempt:
            answers = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=PATIENCE)
            return {partition.partition: answer.result().offset for partition, answer in answers.items()}
    raise AssertionError("unreachable: the last attempt raises")


def _settling(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in SETTLING


def committed(admin: AdminClient, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Returns the offsets that a group has committed; partitions without one are left out."""
    asked = [AdminTopicPartition(*partition) for partition in partitions]
    if not asked:
        return {}
    (answer,) = admin.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, asked)], request_timeout=PATIENCE
    ).values()
    found = answer.result().topic_partitions
    return {TopicPartition(each.topic, each.partition): each.offset for each in found if each.offset >= 0}


def lag(admin: AdminClient, group: str, topics: Iterable[str]) -> int:
    """Returns how many records of these topics a group has not committed; 0 for a group that never committed."""
    cluster = admin.list_topics(timeout=PATIENCE)
    ends: dict[TopicPartition, int] = {}
    for topic in topics:
        if topic in cluster.topics:
            partitions = cluster.topics[topic].partitions
            found = offsets(admin, topic, partitions, OffsetSpec.latest())
            ends |= {TopicPartition(topic, n): offset for n, offset in found.items()}
    done = committed(admin, group, ends)
    return sum(end - done.get(partition, 0) for partition, end in ends.items()) if done else 0


def remaining(ranges: Ranges, done: Mapping[TopicPartition, int]) -> dict[TopicPartition, Range]:
    """Returns what of the ranges lies behind these offsets; partitions with nothing left are left out."""
    left = {tp: Range(max(start, done.get(tp, start)), end) for tp, (start, end) in ranges.items()}
    return {tp: each for tp, each in left.items() if each.start < each.end}


def size(ranges: Ranges) -> int:
    """Returns how many offsets the ranges hold: at least as many as records."""
    return sum(end - start for start, end in ranges.values())


# -- reading --------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Records of one partition in order, and the offset to go on at: it can lie behind the last record's."""

    partition: TopicPartition
    records: Sequence[ConsumerRecord]
    position: int
    #: Whether the partition's range ends here.
    last: bool


async def scan(
    connection: Mapping[str, Any], ranges: Ranges, patience: float = PATIENCE
) -> AsyncGenerator[Batch, None]:
    """Yields the committed records of the ranges; close it (`aclosing`) where it is not read to its end.

    `connection`: as aiokafka names it. Raises NothingComes after `patience` seconds without any progress.
    """
    at = {KafkaTopicPartition(*tp): each.start for tp, each in ranges.items() if each.start < each.end}
    if not at:
        return
    consumer = AIOKafkaConsumer(
        **connection,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",  # what retention took away since is not there to be read
        fetch_max_wait_ms=100,
    )
    async with consumer:
        consumer.assign(list(at))
        for tp, offset in at.items():
            consumer.seek(tp, offset)
        heard = time.monotonic()
        while at:
            fetched = await consumer.getmany(*at, timeout_ms=200, max_records=FETCH_RECORDS)
            for tp in list(at):
                end = ranges[TopicPartition(*tp)].end
                position = min(await consumer.position(tp), end)
                if position == at[tp]:
                    continue
                heard, at[tp] = time.monotonic(), position
                if position == end:
                    del at[tp]
                    consumer.pause(tp)
                records = [record for record in fetched.get(tp, ()) if record.offset < end]
                yield Batch(TopicPartition(*tp), records, position, position == end)
            if time.monotonic() - heard > patience:
                raise NothingComes(f"{', '.join(f'{tp.topic}/{tp.partition}' for tp in at)}: nothing comes any more")
