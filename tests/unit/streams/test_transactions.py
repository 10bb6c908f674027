"""Taking partitions over: whoever opens a producer fences its owner, so nobody may who has lost the partition."""

import asyncio
from typing import Any, ClassVar

import pytest
from tenacity import wait_none

from streams import publisher as publisher_module
from streams import transactions as module
from streams.observe.metrics import Metrics
from streams.publisher import BrokerUnavailable
from streams.records import Outgoing, PartitionLost, TopicPartition
from streams.transactions import TransactionalPublisher

P0, P1 = TopicPartition("requests", 0), TopicPartition("requests", 1)


class FakeProducer:
    """A transactional producer; `start` is what fences, and waits while the broker is `away`."""

    made: ClassVar[list["FakeProducer"]]
    broker: ClassVar[asyncio.Event]

    def __init__(self, *, transactional_id: str, **_: Any) -> None:
        self.name = transactional_id
        self.fenced = self.stopped = False
        FakeProducer.made.append(self)

    async def start(self) -> None:
        await self.broker.wait()
        self.fenced = True

    async def stop(self) -> None:
        await asyncio.sleep(0.001)
        self.stopped = True


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> TransactionalPublisher:
    """A publisher whose broker is there."""
    monkeypatch.setattr(module, "AIOKafkaProducer", FakeProducer)
    monkeypatch.setattr(publisher_module, "BACKOFF", wait_none())
    FakeProducer.made, FakeProducer.broker = [], asyncio.Event()
    FakeProducer.broker.set()
    return TransactionalPublisher({}, Metrics(), "group")


def fencing() -> list[str]:
    """The names under which somebody was fenced."""
    return [producer.name for producer in FakeProducer.made if producer.fenced]


def open_now() -> list[str]:
    """The names of the producers that were started and not stopped."""
    return sorted(producer.name for producer in FakeProducer.made if producer.fenced and not producer.stopped)


async def test_each_partition_has_a_producer_of_its_own(publisher: TransactionalPublisher) -> None:
    """Its name is made of group, topic and partition; those of the assignment before are stopped."""
    await publisher.assign([P0])
    await publisher.assign([P0, P1])
    assert open_now() == ["group-requests-0", "group-requests-1"]
    assert len(FakeProducer.made) == 3
    await publisher.stop()
    assert open_now() == []


async def test_a_takeover_that_waits_is_ended_by_the_next_call(publisher: TransactionalPublisher) -> None:
    """When the call returns, nothing is on its way any more that could fence the partitions' next owner."""
    FakeProducer.broker.clear()
    late = asyncio.create_task(publisher.assign([P0, P1]))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        await publisher.assign(())
    FakeProducer.broker.set()
    await late
    await asyncio.sleep(0.01)
    assert fencing() == []
    assert all(producer.stopped for producer in FakeProducer.made)


async def test_the_last_of_many_calls_counts(publisher: TransactionalPublisher) -> None:
    """Rebalances may come faster than a broker answers."""
    FakeProducer.broker.clear()
    calls = []
    for tps in ([P0], [P0, P1], (), [P1], [P0], [P1]):
        calls.append(asyncio.create_task(publisher.assign(tps)))
        await asyncio.sleep(0.002)
    FakeProducer.broker.set()
    await asyncio.gather(*calls)
    assert fencing() == open_now() == ["group-requests-1"]


async def test_a_call_that_waits_its_turn_does_not_outlive_a_later_one(publisher: TransactionalPublisher) -> None:
    """Also one that has not begun to open anything, since it still closes what was there."""
    await publisher.assign([P0])
    first = asyncio.create_task(publisher.assign([P0, P1]))
    await asyncio.sleep(0)
    await publisher.assign(())
    await first
    assert open_now() == []
    assert fencing() == ["group-requests-0"]


async def test_a_caller_that_is_cancelled_is(publisher: TransactionalPublisher) -> None:
    """A cancellation from outside is no later call; what was opened half is closed."""
    FakeProducer.broker.clear()
    caller = asyncio.create_task(publisher.assign([P0]))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert all(producer.stopped for producer in FakeProducer.made)
    FakeProducer.broker.set()
    await publisher.assign([P0])
    assert open_now() == ["group-requests-0"]


async def test_nothing_is_delivered_for_a_partition_that_is_not_ours(publisher: TransactionalPublisher) -> None:
    """It was given up, or it never was."""
    await publisher.assign([P0])
    await publisher.assign(())
    with pytest.raises(PartitionLost):
        await publisher.deliver([], P0, 1)


async def test_what_belongs_to_no_partition_goes_out_without_a_transaction(
    publisher: TransactionalPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through one plain publisher, made when it is first needed; a broker that is away then is no end."""
    made: list[str] = []

    class Plain:
        def __init__(self, *_: Any) -> None:
            made.append("made")

        async def start(self) -> None:
            if len(made) == 1:
                raise BrokerUnavailable("away")

        async def stop(self) -> None:
            made.append("stopped")

        async def publish(self, records: Any) -> Any:
            return {0: "refused"} if records else {}

    monkeypatch.setattr(module, "KafkaPublisher", Plain)
    with pytest.raises(BrokerUnavailable):
        await publisher.publish([])
    results = await asyncio.gather(publisher.publish([Outgoing("alerts", None, b"x")]), publisher.publish([]))
    assert results == [{0: "refused"}, {}]
    await publisher.stop()
    assert made == ["made", "made", "stopped"]
