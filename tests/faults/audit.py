"""What became of every request: read back with plain librdkafka and fastavro, none of the product's own code."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from fastavro import parse_schema, schemaless_reader

from streams.settings import Settings
from tests.support.kafka import unique

SCHEMAS = Path(__file__).parents[2] / "schemas"
#: Bytes of a single-object value before its datum: a marker of two, a fingerprint of eight.
FRAME = 10
#: Seconds without a single record after which a topic counts as unreadable.
PATIENCE = 60.0

#: Where a request lies: partition and offset.
Place = tuple[int, int]


def _schema(name: str) -> Any:
    """A contract, with timestamps left as the numbers they are on the wire."""
    return parse_schema(json.loads((SCHEMAS / name).read_text().replace('"logicalType"', '"was"')))


SENTENCE, EMBEDDING = _schema("sentence.avsc"), _schema("embedding.avsc")


@dataclass(slots=True)
class Audit:
    """Every request and what came of it."""

    requests: dict[Place, bytes] = field(default_factory=dict)
    answers: Counter[Place] = field(default_factory=Counter)
    #: The reason of each dead letter.
    letters: dict[Place, str] = field(default_factory=dict)
    letter_counts: Counter[Place] = field(default_factory=Counter)
    #: What must never be, in words: repeats that differ, answers to nobody, altered bytes.
    wrong: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Requests with neither an answer nor a dead letter."""
        return len(self.requests.keys() - self.answers.keys() - self.letters.keys())

    @property
    def repeated(self) -> int:
        """Answers and dead letters beyond the first of each request."""
        return self.answers.total() + self.letter_counts.total() - len(self.answers.keys() | self.letters.keys())

    def text(self, place: Place) -> str:
        """The text of a request."""
        return str(_decoded(self.requests[place], SENTENCE)["text"])


def audit(settings: Settings, *, mutated: bool = False) -> Audit:
    """Reads requests, embeddings and dead letters to their ends; `mutated` requests are not compared with answers."""
    found = Audit()
    for message in read(settings.bootstrap_servers, settings.topic_requests):
        found.requests[message.partition(), message.offset()] = message.value()
    digests: dict[Place, bytes] = {}
    for message in read(settings.bootstrap_servers, settings.topic_embeddings):
        _answer(found, message, digests, mutated)
    for message in read(settings.bootstrap_servers, settings.topic_dead_letters):
        _letter(found, message)
    return found


def _answer(found: Audit, message: Message, digests: dict[Place, bytes], mutated: bool) -> None:
    embedding = _decoded(message.value(), EMBEDDING)
    place = embedding["source"]["partition"], embedding["source"]["offset"]
    digest = _digest(message, embedding["embedded_at"])
    found.answers[place] += 1
    if place not in found.requests:
        found.wrong.append(f"an answer to {place}, which nobody asked")
    elif digests.setdefault(place, digest) != digest:
        found.wrong.append(f"two different answers to {place}")
    elif not mutated:
        sentence = _decoded(found.requests[place], SENTENCE)
        if (sentence["id"], sentence["text"]) != (embedding["sentence_id"], embedding["text"]):
            found.wrong.append(f"{place} has the answer of another")


def _digest(message: Message, embedded_at: int) -> bytes:
    """The bytes of a result and its headers, all but when it was made."""
    head, _, vector = message.value().rpartition(_varint(embedded_at))  # that of the source comes earlier
    headers = [pair for pair in message.headers() or () if pair[0] != "ce_time"]
    return hashlib.sha256(head + vector + repr((message.key(), headers)).encode()).digest()


def _letter(found: Audit, message: Message) -> None:
    headers = dict(message.headers())
    place = int(headers["__connect.errors.partition"]), int(headers["__connect.errors.offset"])
    found.letters[place] = headers["reason"].decode()
    found.letter_counts[place] += 1
    if found.requests.get(place) != message.value():
        found.wrong.append(f"the dead letter of {place} has other bytes")


def _decoded(value: bytes, schema: Any) -> Any:
    return schemaless_reader(BytesIO(value[FRAME:]), schema, None)


def _varint(number: int) -> bytes:
    number <<= 1  # zigzag of what is never negative
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def read(servers: str, topic: str) -> Iterator[Message]:
    """Every committed record of a topic, up to its end."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": unique("audit"),
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        left = set(consumer.list_topics(topic, timeout=PATIENCE).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in left])
        last = time.monotonic()
        while left:
            for message in consumer.consume(1000, timeout=0.5):
                last = time.monotonic()
                if (error := message.error()) is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                elif not error.retriable():
                    raise KafkaException(error)
            assert time.monotonic() - last < PATIENCE, f"{topic} cannot be read to its end"
    finally:
        consumer.close()
