"""The stream on a real Kafka: whatever the bytes, each record is answered once or is one dead letter."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from schemas.records import Alert, Embedding, Overflow, Sentence, Severity, Source
from streams.records import Headers
from streams.testing import PublishedRecord
from tests.support.batches import Content, Name, send
from tests.support.commands import Commands
from tests.support.failing import FAULTS
from tests.support.kafka import HasBrokers
from tests.support.stream import CODEC, PATIENCE, WHY, Program, Stream, encoded, wait_until

RECORDS = 20_000
PARTITIONS = 8
LONG = " ".join(f"word{number}" for number in range(300))
NOISE = random.Random(7)

#: From a number to the value and headers of a request.
Maker = Callable[[int], tuple[bytes, Headers]]


def having(**fields: Any) -> Maker:
    return lambda number: (encoded(number, **fields), ())


def bent(change: Callable[[bytes], bytes]) -> Maker:
    return lambda number: (change(encoded(number)), ())


def until(deadline: bytes) -> Maker:
    return lambda number: (encoded(number), (("deadline", deadline),))


GOOD: list[Maker] = [
    having(),
    having(text=LONG),
    having(dimensions=64),
    having(model="deterministic", scorers=("similarity",), metadata={"a": "1", "": "ü"}),
    until(b"99999999999999"),
]
#: What cannot be handled, and the reason its dead letter gives.
BAD: list[tuple[str, Maker]] = [
    ("bad-bytes", lambda _: (b"", ())),
    ("bad-bytes", lambda _: (bytes([NOISE.randrange(2, 0xC3)]) + NOISE.randbytes(40), ())),
    ("bad-bytes", lambda number: (json.dumps({"id": str(number), "text": "no Avro"}).encode(), ())),
    ("bad-bytes", bent(lambda value: value[:10] + b"\xff" * 30)),
    ("bad-bytes", bent(lambda value: value[:-3])),
    ("bad-bytes", bent(lambda value: value + b"!")),
    ("unknown-schema", bent(lambda value: b"\xc3\x01" + b"?" * 8 + value[10:])),
    ("unknown-schema", bent(lambda value: b"\x00\x00\x00\x00\x07" + value[10:])),  # an id, and no registry
    ("invalid-field", having(text=" \n")),
    ("invalid-field", having(dimensions=385)),
    ("invalid-field", until(b"tomorrow")),
    ("unknown-model", having(model="gpt-9")),
    ("text-too-long", having(text=LONG, overflow=Overflow.REJECT)),
    ("expired", until(b"1000")),
]
#: Headers that are nobody's: repeated, without a value, with an empty one, with one that is not text.
ODD: list[Headers] = [(), (("tag", b"a"), ("tag", b"b"), ("none", None)), (("empty", b""), ("binary", b"\xff\x00"))]
ANSWER = "answer"


def mixed(count: int) -> Iterator[dict[str, Any]]:
    """Requests of every kind over all partitions, with and without keys; their header `expect` says what becomes."""
    dice = random.Random(1)
    for number in range(count):
        expect, make = (ANSWER, dice.choice(GOOD)) if dice.random() < 0.6 else dice.choice(BAD)
        value, headers = make(number)
        yield {
            "value": value,
            "key": dice.choice([None, b"", f"key-{dice.randrange(500)}".encode(), b"\xff\x00\xfe"]),
            "headers": [("expect", expect.encode()), *dice.choice(ODD), *headers],
            "partition": number % PARTITIONS,
        }


def plain(count: int, **more: Any) -> Iterator[dict[str, Any]]:
    """Sentences with the ids s-0, s-1 and so on, without keys."""
    return ({"value": encoded(number), **more} for number in range(count))


def header(record: PublishedRecord, name: str) -> bytes | None:
    """The last header of that name."""
    return dict(record.headers)[name]


Place = tuple[int, int]


def by_source(stream: Stream) -> dict[Place, list[tuple[PublishedRecord, Embedding]]]:
    """The embeddings of each request, by its partition and offset."""
    found = defaultdict(list)
    for record, embedding in stream.embeddings():
        found[embedding.source.partition, embedding.source.offset].append((record, embedding))
    return found


def by_origin(stream: Stream) -> dict[Place, list[PublishedRecord]]:
    """The dead letters of each request, by its partition and offset."""
    found = defaultdict(list)
    for record in stream.dead_letters():
        place = [int(header(record, f"__connect.errors.{name}") or b"") for name in ("partition", "offset")]
        found[place[0], place[1]].append(record)
    return found


def assert_result(stream: Stream, request: PublishedRecord, result: PublishedRecord, embedding: Embedding) -> None:
    """An embedding belongs to its request, as the record, its key and its headers tell."""
    sentence = CODEC.decode(Sentence, request.value)
    assert (embedding.sentence_id, embedding.text) == (sentence.id, sentence.text)
    assert (embedding.metadata, embedding.scorers) == (sentence.metadata, sentence.scorers)
    assert embedding.source == Source(request.topic, request.partition, request.offset, request.timestamp)
    assert embedding.vector.shape == (sentence.dimensions or 384,)
    assert embedding.truncated == (sentence.text == LONG)
    assert result.key == (sentence.id.encode() if request.key is None else request.key)
    passed = [pair for pair in request.headers if pair[0] != "deadline"]
    assert list(result.headers)[-len(passed) :] == passed
    assert header(result, "ce_id") == embedding.id.encode()
    assert header(result, "ce_source") == f"/sentence-streams/{stream.settings.topic_requests}".encode()


def assert_dead_letter(stream: Stream, request: PublishedRecord, letter: PublishedRecord) -> None:
    """A dead letter is its request byte for byte, followed by both families of headers that say why."""
    assert (letter.key, letter.value) == (request.key, request.value)
    own, added = letter.headers[: len(request.headers)], letter.headers[len(request.headers) :]
    assert own == request.headers
    why = dict(added)
    assert [name for name, _ in added if name != "kafka_dlt-exception-cause-fqcn"] == WHY
    assert why["reason"] == header(request, "expect")
    assert why["__connect.errors.topic"] == why["kafka_dlt-original-topic"] == request.topic.encode()
    assert why["kafka_dlt-original-partition"] == request.partition.to_bytes(4, "big")
    assert why["kafka_dlt-original-offset"] == request.offset.to_bytes(8, "big")
    assert why["kafka_dlt-original-timestamp"] == request.timestamp.to_bytes(8, "big")
    assert why["kafka_dlt-original-timestamp-type"] == b"CreateTime"
    assert why["kafka_dlt-original-consumer-group"] == stream.settings.group.encode()
    assert why["__connect.errors.exception.message"]


@pytest.fixture
def stream(kafka: HasBrokers, tmp_path: Path) -> Iterator[Stream]:
    """Topics of eight partitions, and no worker yet."""
    with Stream(kafka.bootstrap_servers, tmp_path, partitions=PARTITIONS) as stream:
        yield stream


def test_each_of_many_records_is_answered_once_or_is_one_dead_letter(stream: Stream) -> None:
    """20,000 records of good and bad bytes: one result or one dead letter each, in order, everything committed."""
    sent = stream.send(mixed(RECORDS))
    stream.start().ready()
    stream.finish()
    answers, letters = by_source(stream), by_origin(stream)
    assert sum(map(len, answers.values())) + sum(map(len, letters.values())) == RECORDS
    for request in sent:
        place = request.partition, request.offset
        if header(request, "expect") == ANSWER.encode():
            [(result, embedding)] = answers[place]
            assert_result(stream, request, result, embedding)
        else:
            [letter] = letters[place]
            assert_dead_letter(stream, request, letter)
    assert_ordered(stream)


def assert_ordered(stream: Stream) -> None:
    """On each output partition, the results of one input partition come in the order of its offsets."""
    last: dict[Place, int] = {}
    for record, embedding in stream.embeddings():
        route, offset = (record.partition, embedding.source.partition), embedding.source.offset
        assert last.get(route, -1) < offset, f"offset {offset} after {last[route]} on {route}"
        last[route] = offset


def assert_each_answered(stream: Stream, sent: list[PublishedRecord], most: int | None = None) -> None:
    """Every request has its result, `most` times at most; repeats differ in nothing but when and how they were made."""
    answers = by_source(stream)
    assert answers.keys() == {(request.partition, request.offset) for request in sent}
    assert stream.dead_letters() == []
    for found in answers.values():
        assert most is None or len(found) <= most
        assert len({timeless(record, embedding) for record, embedding in found}) == 1


def timeless(record: PublishedRecord, embedding: Embedding) -> tuple[object, ...]:
    """All of a result but when it was made, and whether the cache had its vector."""
    value = CODEC.encode(replace(embedding, embedded_at=0, cached=False), record.topic)
    return record.key, value, tuple(pair for pair in record.headers if pair[0] != "ce_time")


def busy(stream: Stream, worker: Program) -> list[PublishedRecord]:
    """Sends records until the worker is in the middle of them; returns all that were sent."""
    sent = stream.send(plain(200))
    worker.ready()
    wait_until(lambda: bool(stream.read(stream.settings.topic_embeddings)), "there is a result")
    return sent + stream.send(plain(2_500))


#: A worker with this takes a record or two at a time, so that thousands last.
SLOW = {"token_budget": 8}


def test_a_worker_that_is_told_to_leave_loses_and_repeats_nothing(stream: Stream) -> None:
    """SIGTERM in the middle of its work: what was begun is finished and committed, the rest is for the next worker."""
    first = stream.start(**SLOW)
    sent = busy(stream, first)
    first.stop()
    assert stream.lag() == len(sent) - len(stream.embeddings()) > 0
    stream.start().ready()
    stream.finish()
    assert_each_answered(stream, sent, most=1)


def test_a_worker_that_is_killed_loses_nothing(stream: Stream) -> None:
    """SIGKILL in the middle of its work: what was not committed is done again, with the same ids and bytes."""
    first = stream.start(commit_interval=60, **SLOW)
    sent = busy(stream, first)
    first.kill()
    done = len(stream.embeddings())
    assert done < len(sent)
    stream.start().ready()
    stream.finish()
    assert_each_answered(stream, sent)
    assert len(stream.embeddings()) == done + len(sent), "nothing was committed before the kill, so all came again"


def test_a_worker_that_was_frozen_too_long_lets_go(kafka: HasBrokers, tmp_path: Path) -> None:
    """Frozen past its session it has lost its partition: another finishes the work, and it cannot undo that."""
    with Stream(kafka.bootstrap_servers, tmp_path, partitions=1, lanes="bulk", stall_seconds=1) as stream:
        first = stream.start(**SLOW)
        sent = busy(stream, first)
        first.freeze()
        assert len(stream.embeddings()) < len(sent)
        second = stream.start().ready()
        stream.finish()
        done = len(stream.embeddings())
        first.thaw()
        wait_until(lambda: first.says("ready") != second.says("ready"), "one of the two has the partition")
        assert first.says("live")
        assert second.says("live")
        sent += stream.send(plain(100))
        stream.finish()
        assert_each_answered(stream, sent)
        assert len(stream.embeddings()) - done < 1_000, "only what it had in its hands may come again"
        first.stop()


def test_workers_that_come_and_go_lose_nothing(stream: Stream) -> None:
    """Two workers join a busy one, then the first two leave: every record is answered."""
    with Flood(stream) as flood:
        first = stream.start().ready()
        second, third = stream.start(), stream.start()
        second.ready()
        third.ready()
        first.stop()
        second.stop()
        wait_until(third.ready, "the third has taken over")
    stream.finish()
    assert_each_answered(stream, flood.sent)


class Flood:
    """Requests that go on coming until the block ends."""

    def __init__(self, stream: Stream) -> None:
        self.sent: list[PublishedRecord] = []
        self._stream = stream
        self._ends = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> "Flood":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(0.02):
            self.sent += self._stream.send(plain(50))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_that_fails_ends(stream: Stream, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Whatever fails, and whatever then hangs: the process is gone soon, with a status that has it started again."""
    monkeypatch.setenv("FAULT_UNDER_TEST", fault)
    worker = stream.start(module="tests.support.failing", drain_timeout=3, **SLOW).ready()
    sent = stream.send(plain(300))
    wait_until(lambda: bool(stream.read(stream.settings.topic_embeddings)), "there is a result")
    sent += stream.send([{"value": encoded(10_000), "key": b"fail"}])  # a text that no cache has
    assert worker.exit() != 0
    assert '"leaving"' in worker.tail()
    stream.start().ready()
    stream.finish()
    assert_each_answered(stream, sent)


@pytest.mark.parametrize("codec", [None, "zstd"])
def test_what_no_client_sends_costs_its_own_records_only(stream: Stream, codec: str | None) -> None:
    """A header name of any bytes, and a batch that unpacks to a gigabyte: dead letters, and everybody else answered."""
    servers, topic = stream.servers, stream.settings.topic_requests
    worker = stream.start().ready()
    odd: Content = (b"odd", encoded(2), [("fine", b"1"), (Name(b"\xff\xfename"), b"\xff")])
    batch: list[Content] = [(b"k", encoded(1), []), odd, (b"k", encoded(3), [])]
    asyncio.run(send(servers, topic, 0, batch, codec))
    asyncio.run(send(servers, topic, 0, [(b"bomb", bytes(1 << 30), [])], "zstd"))
    asyncio.run(send(servers, topic, 0, [(b"k", encoded(4), [])], codec))
    stream.finish()
    assert {embedding.sentence_id for _, embedding in stream.embeddings()} == {"s-1", "s-3", "s-4"}
    letters = by_origin(stream)
    [name], [bomb] = letters[0, 1], letters[0, 3]
    assert (name.key, name.value) == (b"odd", encoded(2))
    assert name.headers[:2] == (("fine", b"1"), ("\\xff\\xfename", b"\xff"))
    assert header(name, "reason") == b"invalid-field"
    assert header(bomb, "reason") == b"unreadable-batch"
    assert len(bomb.value or b"") < 1_000_000, "the batch as it came"
    assert len(letters) == 2
    assert psutil.Process(worker.pid).memory_info().rss < 600 << 20
    worker.stop()


def test_the_brake_on_dead_letters_tells(
    kafka: HasBrokers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When it closes and when it is open again there is an alert, and `consume alerts` prints it."""
    with Stream(kafka.bootstrap_servers, tmp_path, partitions=1, dead_letter_limit="5 per 2 second") as stream:
        stream.start().ready()
        stream.send({"value": b"nonsense"} for _ in range(6))
        stream.finish()
        wait_until(lambda: bool(stream.read(stream.settings.topic_alerts)), "there is an alert")
        (record, *_) = stream.read(stream.settings.topic_alerts)
        alert = CODEC.decode(Alert, record.value)
        assert (alert.kind, alert.subject) == ("dead-letter-limit", stream.settings.group)
        assert alert.severity is Severity.CRITICAL
        printed = Commands(stream, monkeypatch, capsys)("consume", "alerts")
        assert printed.code == 0, printed.err
        assert f"critical  dead-letter-limit  {stream.settings.group}" in printed.out


def test_a_compacted_input_is_answered(kafka: HasBrokers, tmp_path: Path) -> None:
    """Gaps that compaction left in the offsets hold up neither results nor commits."""
    with Stream(kafka.bootstrap_servers, tmp_path, partitions=1) as stream:
        topic = stream.settings.topic_requests
        configure(kafka, topic, COMPACT)
        keys = [f"key-{number % 50}".encode() for number in range(500)]
        stream.send({"value": encoded(number), "key": key} for number, key in enumerate(keys))

        def compacted() -> bool:
            stream.send([{"value": encoded(9999), "key": b"last"}])  # the open segment is never compacted
            return len(stream.read(topic)) < len(keys)

        wait_until(compacted, f"{topic} is compacted")
        stream.start().ready()
        stream.finish()
        left = {(request.partition, request.offset) for request in stream.read(topic)}
        assert by_source(stream).keys() >= left
        assert {embedding.sentence_id for _, embedding in stream.embeddings()} >= {f"s-{n}" for n in range(450, 500)}


COMPACT = {
    "cleanup.policy": "compact",
    "segment.ms": "10",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "10",
}


def configure(kafka: HasBrokers, topic: str, settings: dict[str, str]) -> None:
    """Changes settings of a topic."""
    changes = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in settings.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=changes)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(PATIENCE)
