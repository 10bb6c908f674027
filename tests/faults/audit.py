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

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from fastavro import parse_schema, schemaless_reader
from numpy.typing import NDArray

from streams.settings import Settings
from tests.support.kafka import unique

SCHEMAS = Path(__file__).parents[2] / "schemas"
#: Bytes of a single-object value before its datum: a marker of two, a fingerprint of eight.
FRAME = 10
#: Seconds without a single record after which a topic counts as unreadable.
PATIENCE = 60.0

#: The reason of a dead letter that holds, instead of a record, the batch it could not be got out of.
SEALED = "unreadable-batch"

#: Where a request lies: partition and offset.
Place = tuple[int, int]
#: Digest and, where it counts, vector of the first answer to a request.
First = tuple[bytes, NDArray[np.float64] | None]


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
    #: Least cosine between two answers to one request, where they need not have the same bytes.
    cosine: float = 1.0
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


def audit(settings: Settings, *, mutated: bool = False, exact: bool = True) -> Audit:
    """Reads requests, embeddings and dead letters to their ends.

    `mutated` requests are not compared with answers. Where the model is not `exact`, the vectors of repeats are
    compared by their cosine and not by their bytes.
    """
    found = Audit()
    for message in read(settings.bootstrap_servers, settings.topic_requests):
        found.requests[message.partition(), message.offset()] = message.value()
    firsts: dict[Place, First] = {}
    for message in read(settings.bootstrap_servers, settings.topic_embeddings):
        _answer(found, message, firsts, mutated, exact)
    for message in read(settings.bootstrap_servers, settings.topic_dead_letters):
        _letter(found, message)
    return found


def _answer(found: Audit, message: Message, firsts: dict[Place, First], mutated: bool, exact: bool) -> None:
    embedding = _decoded(message.value(), EMBEDDING)
    place = embedding["source"]["partition"], embedding["source"]["offset"]
    digest = _digest(message, embedding, exact)
    vector = None if exact else np.array(embedding["vector"])
    first, first_vector = firsts.setdefault(place, (digest, None))
    if vector is not None and first_vector is not None:
        found.cosine = min(found.cosine, _cosine(vector, first_vector))
    elif vector is not None:
        firsts[place] = first, vector
    found.answers[place] += 1
    if place not in found.requests:
        found.wrong.append(f"an answer to {place}, which nobody asked")
    elif first != digest:
        found.wrong.append(f"two different answers to {place}")
    elif not mutated:
        sentence = _decoded(found.requests[place], SENTENCE)
        if (sentence["id"], sentence["text"]) != (embedding["sentence_id"], embedding["text"]):
            found.wrong.append(f"{place} has the answer of another")


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _digest(message: Message, embedding: Any, exact: bool) -> bytes:
    """The bytes of a result and its headers, all but when and whether it was made anew and, unless `exact`, its vector.

    A repeat may come from the cache: `cached` is the byte before the source.
    """
    head, _, vector = message.value().rpartition(_varint(embedding["embedded_at"]))  # that of the source comes earlier
    source = _source(embedding["source"])
    assert head.endswith(bytes([embedding["cached"]]) + source)
    head = head[: -len(source) - 1] + source
    headers = [pair for pair in message.headers() or () if pair[0] != "ce_time"]
    return hashlib.sha256(head + (vector if exact else b"") + repr((message.key(), headers)).encode()).digest()


def _letter(found: Audit, message: Message) -> None:
    headers = dict(message.headers())
    place = int(headers["__connect.errors.partition"]), int(headers["__connect.errors.offset"])
    found.letters[place] = headers["reason"].decode()
    found.letter_counts[place] += 1
    if found.letters[place] != SEALED and found.requests.get(place) != message.value():
        found.wrong.append(f"the dead letter of {place} has other bytes")


def _decoded(value: bytes, schema: Any) -> Any:
    return schemaless_reader(BytesIO(value[FRAME:]), schema, None)


def _source(source: Any) -> bytes:
    topic = source["topic"].encode()
    return (
        _varint(len(topic)) + topic + b"".join(_varint(source[name]) for name in ("partition", "offset", "timestamp"))
    )


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
            "receive.message.max.bytes": 1_000_000_000,  # else it unpacks no more than 100 MB
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
