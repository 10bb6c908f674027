"""One suite for everything that publishes: the fake, Kafka's built-in stand-in, and a real Kafka."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.errors import ResultTooLarge
from streams import publisher as publisher_module
from streams.brokers.embedded import EmbeddedBroker
from streams.observe.metrics import Metrics
from streams.pipeline import Publisher
from streams.publisher import KafkaPublisher
from streams.records import Outgoing, Record
from streams.testing import InMemoryPublisher
from tests.support.kafka import create_topics, unique

REAL = pytest.param("kafka", marks=pytest.mark.kafka)
PARTITIONS = 4
LIMIT = 100_000
#: Random, since brokers judge what is left after compression.
TOO_LARGE = random.Random(1).randbytes(LIMIT + 1)

#: Key -> murmur2 as Java prints it, from the tests of Apache Kafka's own `Utils.murmur2`.
MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


class Log(Protocol):
    """A publisher with a topic of four partitions, and a way to read back what is there."""

    publisher: Publisher
    topic: str

    async def read(self) -> list[Record]:
        """Returns all records of the topic that can be read now, partition by partition in order."""


class MemoryLog:
    """The fake, which is its own log."""

    def __init__(self) -> None:
        self.topic = unique("results")
        self.publisher = InMemoryPublisher(partitions=PARTITIONS, max_bytes=LIMIT)

    async def read(self) -> list[Record]:
        return sorted(self.publisher.on(self.topic), key=lambda record: (record.partition, record.offset))


class KafkaLog:
    """A broker, read by a consumer that waits for nothing: what it sees had its receipt."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.topic = unique("results")
        self._servers = bootstrap_servers
        self.publisher = KafkaPublisher({"bootstrap_servers": bootstrap_servers}, Metrics())

    async def read(self) -> list[Record]:
        tps = [TopicPartition(self.topic, partition) for partition in range(PARTITIONS)]
        async with AIOKafkaConsumer(bootstrap_servers=self._servers, fetch_max_wait_ms=20) as consumer:
            consumer.assign(tps)
            await consumer.seek_to_beginning(*tps)
            ends = await consumer.end_offsets(tps)
            found: dict[Any, list[Record]] = {tp: [] for tp in tps}
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for tp, records in (await consumer.getmany(timeout_ms=50)).items():
                    found[tp] += records
        return [record for tp in tps for record in found[tp]]


@pytest.fixture(params=["memory", "embedded", REAL])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    """Each publisher in turn."""
    async for log in _opened(request):
        yield log


@pytest.fixture(params=["memory", REAL])
async def strict_log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    """Each publisher whose broker has a limit for the size of a record; the embedded one has none."""
    async for log in _opened(request):
        yield log


async def _opened(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    if request.param == "memory":
        yield MemoryLog()
        return
    broker = request.getfixturevalue("embedded_broker" if request.param == "embedded" else "kafka")
    log = KafkaLog(broker.bootstrap_servers)
    create_topics(broker, {log.topic: PARTITIONS}, max_message_bytes=str(LIMIT))
    await log.publisher.start()
    try:
        yield log
    finally:
        await log.publisher.stop()


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [record.value for record in records]


async def test_a_receipt_means_that_the_record_can_be_read(log: Log) -> None:
    """What `publish` returned for is in the log, each record once."""
    sent = [Outgoing(log.topic, b"%d" % number, b"value %d" % number) for number in range(300)]
    assert await log.publisher.publish(sent) == {}
    assert sorted(values(await log.read())) == sorted(record.value for record in sent)


async def test_nothing_to_publish_is_done_at_once(log: Log) -> None:
    """An empty call returns and writes nothing."""
    assert await log.publisher.publish([]) == {}
    assert await log.read() == []


async def test_records_of_one_key_keep_their_order(log: Log) -> None:
    """Within a call, and from one call to the next, whatever other calls are under way."""

    async def caller(name: bytes) -> None:
        for start in range(0, 60, 20):
            await log.publisher.publish(
                [Outgoing(log.topic, b"%s%d" % (name, n % 3), b"%d" % n) for n in range(start, start + 20)]
            )

    await asyncio.gather(*(caller(name) for name in (b"a", b"b", b"c", b"d")))
    records = await log.read()
    assert len(records) == 4 * 60
    for key in {record.key for record in records}:
        numbers = [int(record.value) for record in records if record.key == key and record.value]
        assert len(numbers) == 20
        assert numbers == sorted(numbers)


async def test_the_partition_is_the_one_that_java_clients_choose(log: Log) -> None:
    """Producers in any language find a key's records in one partition: murmur2, sign bit cut off."""
    assert await log.publisher.publish([Outgoing(log.topic, key, b"x") for key in MURMUR2]) == {}
    chosen = {record.key: record.partition for record in await log.read()}
    assert chosen == {key: (value & 0x7FFFFFFF) % PARTITIONS for key, value in MURMUR2.items()}


async def test_records_without_a_key_are_spread_evenly(log: Log) -> None:
    """No key means any partition: all take the same share."""
    assert await log.publisher.publish([Outgoing(log.topic, None, b"%d" % n) for n in range(12)]) == {}
    records = await log.read()
    assert [record.key for record in records] == [None] * 12
    assert [record.partition for record in records] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


async def test_a_named_partition_wins_over_the_key(log: Log) -> None:
    """Replies go to the partition that the caller reads."""
    assert await log.publisher.publish([Outgoing(log.topic, b"foobar", b"x", (), n) for n in range(4)]) == {}
    assert [record.partition for record in await log.read()] == [0, 1, 2, 3]


async def test_headers_arrive_as_they_were(log: Log) -> None:
    """Order, repeats, empty values, missing values and names beyond ASCII are kept."""
    headers = [("b", b"1"), ("a", b"\x00\xff"), ("b", b"2"), ("none", None), ("empty", b""), ("köpf", b"x")]
    assert await log.publisher.publish([Outgoing(log.topic, b"k", b"v", headers)]) == {}
    (record,) = await log.read()
    assert list(record.headers) == headers


async def test_tombstones_and_empty_values_are_different_things(log: Log) -> None:
    """A value of None deletes, an empty value does not."""
    assert await log.publisher.publish([Outgoing(log.topic, b"k", None), Outgoing(log.topic, b"k", b"")]) == {}
    assert values(await log.read()) == [None, b""]


async def test_a_record_that_is_too_large_is_refused_alone(strict_log: Log) -> None:
    """Its neighbours, of the same partition too, are published in order; the answer names it by its index."""
    sent = [Outgoing(strict_log.topic, b"k", b"%d" % number) for number in range(20)]
    sent[7] = sent[13] = Outgoing(strict_log.topic, b"k", TOO_LARGE)
    refused = await strict_log.publisher.publish(sent)
    assert sorted(refused) == [7, 13]
    assert all(isinstance(reason, ResultTooLarge) for reason in refused.values())
    assert values(await strict_log.read()) == [b"%d" % number for number in range(20) if number not in {7, 13}]


async def test_publishing_goes_on_after_a_refusal(strict_log: Log) -> None:
    """A refused record leaves nothing behind that would hold up or reorder what comes next."""
    for number in range(5):
        kept = Outgoing(strict_log.topic, b"k", b"%d" % number)
        large = Outgoing(strict_log.topic, b"k", TOO_LARGE)
        assert list(await strict_log.publisher.publish([large, kept])) == [0]
    assert values(await strict_log.read()) == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_end_does_not_wait_for_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to a broker that is gone would never end; whoever waits is cancelled, and nothing is logged late."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    monkeypatch.setattr(publisher_module, "CLOSE_TIMEOUT", 0.1)
    with EmbeddedBroker() as broker:
        publisher = KafkaPublisher({"bootstrap_servers": broker.bootstrap_servers}, Metrics())
        await publisher.start()
        assert await publisher.publish([Outgoing("results", b"k", b"0")]) == {}
    waiting = asyncio.create_task(publisher.publish([Outgoing("results", b"k", b"1")]))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(30):
        await publisher.stop()
    await asyncio.wait([waiting], timeout=10)
    assert waiting.cancelled()
    del publisher
    gc.collect()
    assert complaints == []


# -- what only the fake can do --------------------------------------------------------------------------------


async def test_the_fake_holds_receipts_back_until_they_are_released() -> None:
    """The records are there, but nobody was told."""
    publisher = InMemoryPublisher()
    publisher.hold()
    waiting = asyncio.create_task(publisher.publish([Outgoing("results", b"k", b"0")]))
    await asyncio.sleep(0.01)
    assert values(publisher.on("results")) == [b"0"]
    assert not waiting.done()
    publisher.release()
    assert await waiting == {}


async def test_the_fake_refuses_what_it_is_told_to() -> None:
    """With the reason it is given; other records of the call are kept."""
    reason = ResultTooLarge("because")
    publisher = InMemoryPublisher(refuse=lambda record: reason if record.value == b"1" else None)
    assert await publisher.publish([Outgoing("results", b"k", b"%d" % n) for n in range(3)]) == {1: reason}
    assert values(publisher.on("results")) == [b"0", b"2"]
    assert [record.offset for record in publisher.records] == [0, 1]


async def test_a_slow_fake_still_keeps_the_order_of_calls() -> None:
    """A receipt that takes its time is later, not out of order."""
    publisher = InMemoryPublisher(delay=0.02)
    first = asyncio.create_task(publisher.publish([Outgoing("results", b"k", b"0")]))
    await asyncio.sleep(0)
    publisher.delay = 0.0
    await publisher.publish([Outgoing("results", b"k", b"1")])
    assert not first.done()
    assert await first == {}
    assert values(publisher.on("results")) == [b"0", b"1"]
