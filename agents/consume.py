"""`sentence-streams consume`: prints what is on a topic. It joins no group and commits nothing."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from agents.clients import NoTopic, broker, codec, request_topics
from agents.console import mute, plural, progress, remark
from agents.show import Form, Item, Letter, printer, read_letter
from schemas.codec import Codec
from schemas.errors import Reject, StreamsError
from schemas.records import Alert, Embedding, ModelCommand, Record, Reply, Score, Sentence, TrainingRequest
from streams.brokers.admin import AWAY
from streams.lanes import LaneName
from streams.settings import Settings

KINDS: tuple[type[Record], ...] = (Sentence, Embedding, Score, Reply, Alert, ModelCommand, TrainingRequest)
#: Records taken at a time, and seconds to wait for them.
FETCH, PAUSE = 500, 0.2
#: A partition that was only just made, or is changing leaders, answers so.
SETTLING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    }
)
#: Undecodable records that are named; the rest is counted.
NAMED = 20
#: Seconds for a first answer, and for the next record while the end has not been reached.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to print, and how."""

    #: A name of `known`, or a topic.
    topic: str
    form: Form
    start: OffsetSpec
    #: Whether to wait for more at the end.
    follow: bool
    limit: int | None
    #: Seconds without a record after which it ends; None: PATIENCE, or for ever with `follow`.
    timeout: float | None
    vectors: bool
    key: str | None


def known(settings: Settings) -> dict[str, tuple[str, type[Any]]]:
    """Returns short name -> topic and what it holds."""
    requests = request_topics(settings)
    return {
        "embeddings": (settings.topic_embeddings, Embedding),
        "scores": (settings.topic_scores, Score),
        "quarantine": (settings.topic_quarantine, Score),
        "replies": (settings.topic_replies, Reply),
        "kept-replies": (settings.topic_kept_replies, Reply),
        "dead-letters": (settings.topic_dead_letters, Letter),
        "alerts": (settings.topic_alerts, Alert),
        "models": (settings.topic_models, ModelCommand),
        "training": (settings.topic_training, TrainingRequest),
        "requests": (requests[LaneName.BULK], Sentence),
        "interactive": (requests[LaneName.INTERACTIVE], Sentence),
        "replay": (requests[LaneName.REPLAY], Sentence),
    }


def start_at(text: str) -> OffsetSpec:
    """Returns where `beginning`, `latest`, an ISO 8601 time (UTC where it names no zone) or epoch ms stand for.

    Raises ValueError.
    """
    if text == "beginning":
        return OffsetSpec.earliest()
    if text == "latest":
        return OffsetSpec.latest()
    if text.isdigit():
        return OffsetSpec.for_timestamp(int(text))
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return OffsetSpec.for_timestamp(round(moment.timestamp() * 1000))


def run(settings: Settings, job: Job) -> int:
    """Prints records, tells what it could not read, and returns the exit code: 1 if it timed out too early.

    Raises NoTopic, BrokerUnreachable, BrokerRefused or RegistryUnavailable.
    """
    topics = known(settings)
    topic, kind = topics.get(job.topic) or next(
        (each for each in topics.values() if each[0] == job.topic), (job.topic, None)
    )
    with codec(settings) as decoder, closing(_Reader(settings, topic, job)) as reader:
        decode = _Decoder(decoder, kind)
        try:
            code = _print(reader, decode, kind, job)
            sys.stdout.flush()
        except BrokenPipeError:
            mute()
            return 0
        finally:
            decode.tell()
    return code


def _print(reader: "_Reader", decode: "_Decoder", kind: type[Any] | None, job: Job) -> int:
    show = printer(job.form, kind, sys.stdout, vectors=job.vectors)
    printed = 0
    with progress(reader.topic, reader.total, shown=not sys.stdout.isatty()) as advance:
        for batch in reader.batches():
            for message in batch:
                item = decode(message) if _wanted(message, job.key) else None
                if item is not None:
                    show(item)
                    printed += 1
                if printed == job.limit:
                    return 0
            sys.stdout.flush()
            advance(reader.seen, printed)
    if reader.silent and not (job.follow and job.limit is None):
        remark(f"{plural(printed, 'record')} printed, then nothing came for {reader.patience:g} s")
        return 1
    return 0


def _wanted(message: Message, key: str | None) -> bool:
    return key is None or message.key() == key.encode()


class _Reader:
    """Reads a topic's partitions from where the job starts to where they end now, or on and on."""

    def __init__(self, settings: Settings, topic: str, job: Job) -> None:
        self.topic = topic
        self.patience = job.timeout or (float("inf") if job.follow else PATIENCE)
        self.seen = 0
        self.silent = False
        connecting = min(job.timeout or PATIENCE, PATIENCE)
        starts, self._ends = _bounds(broker(settings, connecting), topic, job.start, connecting)
        self._open = {n for n in starts if job.follow or starts[n] < self._ends[n]}
        self.total = None if job.follow else sum(self._ends[n] - starts[n] for n in self._open)
        self._follow = job.follow
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "group.id": "sentence-streams-consume",  # asked for by the client, never joined
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "log_level": 0,
                "error_cb": lambda _error: None,  # silence ends the reading, see `patience`
                **settings.kafka_security().librdkafka(),
            }
        )
        self._consumer.assign([TopicPartition(topic, n, starts[n]) for n in self._open])

    def batches(self) -> Iterator[list[Message]]:
        """Yields what was fetched; ends at the end, or with `silent` set when nothing came for too long."""
        heard = time.monotonic()
        while self._open:
            events = self._consumer.consume(FETCH, PAUSE)
            messages = [event for event in events if self._is_record(event)]
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > self.patience:
                self.silent = True
                return
            self.seen += len(messages)
            yield messages

    def close(self) -> None:
        """Disconnects."""
        self._consumer.close()

    def _is_record(self, event: Message) -> bool:
        """Books the ends of partitions; returns whether this is a record that came before them."""
        error, partition, offset = event.error(), event.partition(), event.offset()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF and not self._follow:
                self._open.discard(partition)
            elif error.code() not in AWAY | {KafkaError._PARTITION_EOF}:
                raise StreamsError(f"cannot read {self.topic}: {error.str()}")
            return False
        if self._follow:
            return True
        inside = partition in self._open and offset < self._ends[partition]
        if offset + 1 >= self._ends[partition]:
            self._open.discard(partition)
        return inside


def _bounds(admin: AdminClient, topic: str, start: OffsetSpec, timeout: float) -> tuple[dict[int, int], dict[int, int]]:
    """Returns where each partition starts and ends, as far as it is committed."""
    cluster = admin.list_topics(timeout=timeout)
    if topic not in cluster.topics:
        raise NoTopic(f"topic {topic} does not exist; `sentence-streams provision` makes the stream's topics")
    partitions = list(cluster.topics[topic].partitions)
    ends = _offsets(admin, topic, partitions, OffsetSpec.latest(), timeout)
    starts = _offsets(admin, topic, partitions, start, timeout)
    if -1 in starts.values() and str(cluster.cluster_id).startswith("mockCluster"):
        raise StreamsError("the embedded broker finds no times: use --from beginning")
    return {n: ends[n] if offset < 0 else offset for n, offset in starts.items()}, ends


def _offsets(admin: AdminClient, topic: str, partitions: list[int], spec: OffsetSpec, timeout: float) -> dict[int, int]:
    """Returns partition -> offset; waits for partitions that were only just made or are changing leaders."""
    asked = {TopicPartition(topic, n): spec for n in partitions}
    attempts = Retrying(
        retry=retry_if_exception(_settling), stop=stop_after_delay(timeout), wait=wait_fixed(PAUSE), reraise=True
    )
    for attempt in attempts:
        with attempt:
            answers = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout)
            return {partition.partition: answer.result().offset for partition, answer in answers.items()}
    raise AssertionError("unreachable: the last attempt raises")


def _settling(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in SETTLING


class _Decoder:
    """Makes items of messages; keeps account of those that it cannot decode."""

    def __init__(self, codec: Codec, kind: type[Any] | None) -> None:
        self._codec = codec
        self._letters = kind is Letter
        self._kinds = list(KINDS) if kind in {None, Letter} else [kind]
        self._refused: Counter[str] = Counter()

    def __call__(self, message: Message) -> Item | None:
        """Returns what to show, None for what is not a record; raises RegistryUnavailable."""
        value, headers = message.value(), message.headers() or []
        item = partial(_item, message)
        if self._letters:
            return item(self._record(value, headers, lambda _error: None), read_letter(headers))
        if value is None:
            return item(None)
        record = self._record(value, headers, partial(self._refuse, message))
        return None if record is None else item(record)

    def tell(self) -> None:
        """Says how many records could not be decoded."""
        if self._refused:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self._refused.most_common())
            remark(f"{plural(self._refused.total(), 'record')} could not be decoded: {reasons}")

    def _record(self, value: bytes, headers: Any, refuse: Callable[[Reject], None]) -> Record | None:
        """Tries every kind that it may be, the last found first."""
        first: Reject | None = None
        for kind in self._kinds:
            try:
                record = self._codec.decode(kind, value, headers)
            except Reject as error:
                first = first or error
            else:
                self._kinds.sort(key=lambda each: each is not kind)
                return record
        if first is not None:
            refuse(first)
        return None

    def _refuse(self, message: Message, error: Reject) -> None:
        self._refused[error.reason] += 1
        if self._refused.total() <= NAMED:
            place = f"{message.topic()}/{message.partition()}@{message.offset()}"
            remark(f"{place}: {error.reason}: {error}")


def _item(message: Message, record: Record | None, letter: Letter | None = None) -> Item:
    key = message.key()
    return Item(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp=message.timestamp()[1],
        key=None if key is None else key.decode(errors="backslashreplace"),
        record=record,
        letter=letter,
    )
