"""The Kafka publisher's own logic, with a producer that does what it is told; brokers are the contract suite's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
)
from aiokafka.structs import RecordMetadata
from aiokafka.structs import TopicPartition as AioTopicPartition
from tenacity import wait_none

from schemas.errors import ResultTooLarge
from streams import publisher as module
from streams.observe.metrics import Metrics
from streams.publisher import BrokerUnavailable, KafkaPublisher, Receipt, partition_of
from streams.records import Outgoing

Values = list[bytes | None]


class FakeBatch:
    """Takes `capacity` records."""

    capacity: ClassVar[int]

    def __init__(self) -> None:
        self.values: Values = []

    def append(self, *, timestamp: Any, key: Any, value: bytes | None, headers: Any) -> object:
        if len(self.values) == self.capacity:
            return None
        self.values.append(value)
        return object()


class FakeProducer:
    """A producer whose topics have two partitions; `behave` raises what the broker answers to a batch."""

    made: ClassVar[list["FakeProducer"]] = []
    sent: ClassVar[list[tuple[int, Values]]] = []  # every batch that was accepted: partition, values
    behave: ClassVar[Callable[["FakeProducer", int, Values], None]]
    unreachable: ClassVar[list[Exception]] = []  # raised by start, one a call
    unknown: ClassVar[list[Exception]] = []  # raised by partitions_for, one a call
    receipts: ClassVar[asyncio.Event]

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.stopped = False
        self.client = self
        FakeProducer.made.append(self)

    async def start(self) -> None:
        if self.unreachable:
            raise self.unreachable.pop(0)

    async def stop(self) -> None:
        self.stopped = True

    async def partitions_for(self, topic: str) -> set[int]:
        if self.unknown:
            raise self.unknown.pop(0)
        return {0, 1}

    async def fetch_all_metadata(self) -> object:
        if self.unreachable:
            raise self.unreachable.pop(0)
        return object()

    def create_batch(self) -> FakeBatch:
        return FakeBatch()

    async def send_batch(self, batch: FakeBatch, topic: str, *, partition: int) -> "asyncio.Future[RecordMetadata]":
        return asyncio.ensure_future(self._deliver(batch.values, topic, partition))

    async def _deliver(self, values: Values, topic: str, partition: int) -> RecordMetadata:
        await self.receipts.wait()
        FakeProducer.behave(self, partition, values)
        offset = sum(len(sent) for where, sent in self.sent if where == partition)
        self.sent.append((partition, values))
        return RecordMetadata(topic, partition, AioTopicPartition(topic, partition), offset, -1, 0, 0)


def accept(producer: FakeProducer, partition: int, values: Values) -> None:
    """A broker that takes everything."""


@pytest.fixture(autouse=True)
async def broker(monkeypatch: pytest.MonkeyPatch) -> type[FakeProducer]:
    """The fake in the place of aiokafka's producer, and no waiting between tries."""
    FakeBatch.capacity = 5
    FakeProducer.made, FakeProducer.sent = [], []
    FakeProducer.unreachable, FakeProducer.unknown = [], []
    FakeProducer.behave = accept
    FakeProducer.receipts = asyncio.Event()
    FakeProducer.receipts.set()
    monkeypatch.setattr(module, "AIOKafkaProducer", FakeProducer)
    monkeypatch.setattr(module, "BACKOFF", wait_none())
    return FakeProducer


@pytest.fixture
def metrics() -> Metrics:
    """Figures of one test."""
    return Metrics()


@pytest.fixture
async def publisher(metrics: Metrics) -> AsyncIterator[KafkaPublisher]:
    """A started publisher."""
    publisher = KafkaPublisher({"bootstrap_servers": "broker:9092"}, metrics)
    await publisher.start()
    yield publisher
    await publisher.stop()


def letters(*values: bytes, partition: int = 0) -> list[Outgoing]:
    return [Outgoing("topic", b"k", value, (), partition) for value in values]


def once(error: Exception) -> Callable[[FakeProducer, int, Values], None]:
    """Returns a broker that fails the first batch and takes the rest."""
    errors = [error]

    def behave(producer: FakeProducer, partition: int, values: Values) -> None:
        if errors:
            raise errors.pop()

    return behave


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_partition_follows_from_the_key_as_in_java(key: bytes, murmur2: int) -> None:
    """The values are those of Kafka's own tests; the sign bit is cut off, for any number of partitions."""
    for partitions in (1, 2, 7, 50):
        assert partition_of(Outgoing("t", key, b""), partitions, iter(())) == (murmur2 & 0x7FFFFFFF) % partitions


async def test_the_producer_is_idempotent_and_waits_for_all_replicas(
    publisher: KafkaPublisher, broker: type[FakeProducer]
) -> None:
    """And it compresses; the connection's own settings reach it."""
    settings = broker.made[0].settings
    assert settings["acks"] == "all"
    assert settings["enable_idempotence"] is True
    assert settings["compression_type"] == "zstd"
    assert settings["bootstrap_servers"] == "broker:9092"


async def test_what_gathers_during_a_batch_is_the_next_batch(
    publisher: KafkaPublisher, broker: type[FakeProducer]
) -> None:
    """Calls share batches under load, in the order of the calls, as many records as a batch takes."""
    broker.receipts.clear()
    calls = [asyncio.create_task(publisher.publish(letters(b"%d" % n))) for n in range(2)]
    await asyncio.sleep(0.01)
    calls += [asyncio.create_task(publisher.publish(letters(b"%d" % n))) for n in range(2, 9)]
    await asyncio.sleep(0.01)
    broker.receipts.set()
    assert await asyncio.gather(*calls) == [{}] * 9
    assert broker.sent == [(0, [b"0", b"1"]), (0, [b"2", b"3", b"4", b"5", b"6"]), (0, [b"7", b"8"])]


async def test_few_letters_wait_for_more_while_a_batch_is_under_way(
    publisher: KafkaPublisher, broker: type[FakeProducer]
) -> None:
    """Under load a small batch waits for company; on an idle stream the first is sent at once."""
    broker.receipts.clear()
    calls = [asyncio.create_task(publisher.publish([Outgoing("t", b"k", b"0", (), 0)]))]
    await asyncio.sleep(0)
    for value in (b"1", b"2"):
        calls.append(asyncio.create_task(publisher.publish([Outgoing("t", b"k", value, (), 1)])))
        for _ in range(5):
            await asyncio.sleep(0)
    broker.receipts.set()
    await asyncio.gather(*calls)
    assert broker.sent == [(0, [b"0"]), (1, [b"1", b"2"])]


async def test_a_batch_that_fails_is_sent_again(
    publisher: KafkaPublisher, broker: type[FakeProducer], metrics: Metrics
) -> None:
    """Until the broker takes it; order stays, and the tries are counted and told."""
    told: list[bool] = []
    publisher._waits = lambda: told.append(True)
    broker.behave = once(KafkaTimeoutError())
    assert await publisher.publish(letters(b"0", b"1")) == {}
    assert broker.sent == [(0, [b"0", b"1"])]
    assert metrics.registry.get_sample_value("streams_publish_retries_total") == len(told) == 1


async def test_a_partition_without_a_leader_holds_up_nobody_else(
    publisher: KafkaPublisher, broker: type[FakeProducer]
) -> None:
    """Its records wait; those of another partition get their receipts."""

    def behave(producer: FakeProducer, partition: int, values: Values) -> None:
        if partition == 0:
            raise KafkaTimeoutError()

    broker.behave = behave
    waiting = asyncio.create_task(publisher.publish(letters(b"0")))
    assert await publisher.publish(letters(b"1", partition=1)) == {}
    assert not waiting.done()
    broker.behave = accept
    assert await waiting == {}


async def test_a_topic_that_is_not_there_yet_is_waited_for(
    publisher: KafkaPublisher, broker: type[FakeProducer]
) -> None:
    """As is a broker that does not tell how many partitions it has."""
    broker.unknown = [KafkaConnectionError(), KafkaTimeoutError()]
    assert await publisher.publish([Outgoing("topic", b"k", b"0")]) == {}
    assert len(broker.sent) == 1


async def test_a_refused_record_is_found_among_its_neighbours(
    publisher: KafkaPublisher, broker: type[FakeProducer]
) -> None:
    """The batch is halved until it stands alone; the others are published in order."""

    def behave(producer: FakeProducer, partition: int, values: Values) -> None:
        if b"large" in values:
            raise MessageSizeTooLargeError()

    broker.behave = behave
    refused = await publisher.publish(letters(b"0", b"1", b"2", b"large", b"4", b"large", b"6"))
    assert sorted(refused) == [3, 5]
    assert all(isinstance(reason, ResultTooLarge) for reason in refused.values())
    assert [value for _, values in broker.sent for value in values] == [b"0", b"1", b"2", b"4", b"6"]


@pytest.mark.parametrize("large", [0, 31, 63])
async def test_a_refused_record_is_found_in_few_tries(
    publisher: KafkaPublisher, broker: type[FakeProducer], large: int
) -> None:
    """Halving finds it; sending its neighbours one by one would take over a hundred tries."""
    tries = 0

    def behave(producer: FakeProducer, partition: int, values: Values) -> None:
        nonlocal tries
        tries += 1
        if b"large" in values:
            raise MessageSizeTooLargeError()

    broker.behave, FakeBatch.capacity = behave, 64
    sent = letters(*(b"large" if n == large else b"%d" % n for n in range(64)))
    assert list(await publisher.publish(sent)) == [large]
    assert tries < 40


async def test_a_producer_that_the_broker_lost_track_of_is_replaced(
    publisher: KafkaPublisher, broker: type[FakeProducer]
) -> None:
    """Only a new one can go on; the old one is closed."""
    broker.behave = once(OutOfOrderSequenceNumber())
    assert await publisher.publish(letters(b"0")) == {}
    assert [producer.stopped for producer in broker.made] == [True, False]
    assert broker.sent == [(0, [b"0"])]


async def test_a_replacement_that_cannot_connect_is_tried_again(
    publisher: KafkaPublisher, broker: type[FakeProducer]
) -> None:
    """The broker may go away at that very moment; nothing hangs for ever, and nothing is left open."""

    def behave(producer: FakeProducer, partition: int, values: Values) -> None:
        if producer is broker.made[0]:
            raise OutOfOrderSequenceNumber()

    broker.behave = behave
    broker.unreachable = [KafkaConnectionError()]
    async with asyncio.timeout(10):
        assert await publisher.publish(letters(b"0")) == {}
    assert [producer.stopped for producer in broker.made] == [True, True, False]


async def test_an_error_nobody_foresaw_reaches_everybody_who_waits(
    publisher: KafkaPublisher, broker: type[FakeProducer]
) -> None:
    """A bug must not look like a broker that is slow; the next call starts afresh."""
    broker.behave = once(AssertionError("a bug"))
    async with asyncio.timeout(10):
        calls = [publisher.publish(letters(b"0", b"1")), publisher.publish(letters(b"2"))]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [AssertionError] * 2
    assert await publisher.publish(letters(b"3")) == {}
    assert broker.sent == [(0, [b"3"])]


async def test_stopping_cancels_who_waits_for_a_receipt(broker: type[FakeProducer], metrics: Metrics) -> None:
    """What has no receipt is given up: it was not acknowledged, so it comes again."""
    publisher = KafkaPublisher({"bootstrap_servers": "broker:9092"}, metrics)
    await publisher.start()
    broker.receipts.clear()
    call = asyncio.create_task(publisher.publish(letters(b"0")))
    await asyncio.sleep(0.01)
    await publisher.stop()
    done, _ = await asyncio.wait([call], timeout=10)
    assert done
    assert call.cancelled()
    assert broker.made[0].stopped


async def test_what_comes_before_the_connection_waits_for_it(broker: type[FakeProducer], metrics: Metrics) -> None:
    """As it would for a broker that is away later."""
    publisher = KafkaPublisher({"bootstrap_servers": "broker:9092"}, metrics)
    call = asyncio.create_task(publisher.publish(letters(b"0")))
    await asyncio.sleep(0.01)
    assert not call.done()
    await publisher.start()
    assert await asyncio.wait_for(call, 10) == {}
    assert broker.sent == [(0, [b"0"])]
    await publisher.stop()


async def test_a_broker_that_is_not_there_is_said_to_be_away(broker: type[FakeProducer], metrics: Metrics) -> None:
    """With the client's own words, which name the address; the half-open producer is closed."""
    broker.unreachable = [KafkaConnectionError("no route")]
    with pytest.raises(BrokerUnavailable, match=r"no broker answers.*no route"):
        await KafkaPublisher({"bootstrap_servers": "broker:9092"}, metrics).start()
    assert broker.made[0].stopped


async def test_reachable_tells_whether_a_broker_answers(publisher: KafkaPublisher, broker: type[FakeProducer]) -> None:
    """Readiness asks this."""
    assert await publisher.reachable()
    broker.unreachable = [KafkaError("gone")]
    assert not await publisher.reachable()


def test_making_a_publisher_connects_to_nothing(metrics: Metrics) -> None:
    """Not even an event loop is needed before `start`."""
    KafkaPublisher({"bootstrap_servers": "broker:9092"}, metrics)


async def test_receipts_say_where_each_record_is(publisher: KafkaPublisher) -> None:
    """The receipt of a record names its partition and its offset in it."""
    keyed = [Outgoing("t", b"%d" % n, b"v%d" % n) for n in range(6)]
    first, _ = await publisher.post(keyed)
    second, _ = await publisher.post(keyed)
    assert set(first) == set(second) == set(range(6))
    sizes = {partition: sum(receipt.partition == partition for receipt in first.values()) for partition in (0, 1)}
    for index, receipt in first.items():
        assert second[index] == Receipt(receipt.partition, receipt.offset + sizes[receipt.partition])


async def test_what_nobody_waits_for_is_not_sent(publisher: KafkaPublisher, broker: type[FakeProducer]) -> None:
    """A call that is cancelled takes back what is not on its way yet; what others sent behind it goes on."""
    broker.receipts.clear()
    first = asyncio.create_task(publisher.publish([Outgoing("t", None, b"first", partition=0)]))
    await asyncio.sleep(0.01)  # it is on its way
    given_up = asyncio.create_task(publisher.publish([Outgoing("t", None, b"given up", partition=0)]))
    last = asyncio.create_task(publisher.publish([Outgoing("t", None, b"last", partition=0)]))
    await asyncio.sleep(0.01)
    given_up.cancel()
    broker.receipts.set()
    await asyncio.gather(first, last)
    assert [value for _, values in broker.sent for value in values] == [b"first", b"last"]
