"""One suite for whatever delivers replies: an address that does not exist costs its own reply, and nobody waits."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from confluent_kafka.admin import AdminClient

from schemas.errors import NoReplyPartition
from streams import publisher as publisher_module
from streams.observe.metrics import Metrics
from streams.pipeline import Publisher
from streams.publisher import KafkaPublisher
from streams.records import Outgoing, TopicPartition
from streams.testing import InMemoryPublisher
from streams.transactions import TransactionalPublisher
from tests.support.kafka import HasBrokers, create_topics, unique
from tests.support.stream import read

REAL = [pytest.param(kind, marks=pytest.mark.kafka) for kind in ("kafka", "transactional")]
PARTITIONS = 4
#: Seconds after which a publisher has waited for what will never be there.
PATIENCE = 60.0


@dataclass
class Post:
    """A publisher, the topic that replies go to, and the partition whose requests they answer."""

    publisher: Publisher
    topic: str
    source: TopicPartition
    broker: HasBrokers | None

    async def deliver(self, *replies: Outgoing) -> list[int]:
        """Delivers all that can be, as the pipeline does; returns the indexes of the replies without a place."""
        left = dict(enumerate(replies))
        lost: list[int] = []
        async with asyncio.timeout(PATIENCE):
            while left:
                refused = await self.publisher.deliver(list(left.values()), self.source, 0)
                assert all(isinstance(reason, NoReplyPartition) for reason in refused.values())
                gone = [list(left)[index] for index in refused]
                lost += gone
                # A transaction is all or nothing; otherwise what was not refused is out.
                again = left.keys() - gone if refused and self.publisher.atomic else set()
                left = {index: left[index] for index in sorted(again)}
        return sorted(lost)

    def values(self) -> list[tuple[int, bytes | None]]:
        """What can be read: partition and value of each reply."""
        if isinstance(self.publisher, InMemoryPublisher):
            found: Sequence[object] = self.publisher.on(self.topic)
        else:
            assert self.broker is not None
            found = list(read(self.broker.bootstrap_servers, self.topic))
        return sorted((each.partition, each.value) for each in found)  # type: ignore[attr-defined]


def reply(topic: str, partition: int | None, value: bytes, key: bytes | None = b"c") -> Outgoing:
    return Outgoing(topic, key, value, (), partition, reply=True)


@asynccontextmanager
async def opened(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Post]:
    """A publisher of some kind, started."""
    topic, source = unique("replies"), TopicPartition(unique("requests"), 0)
    if kind == "memory":
        yield Post(InMemoryPublisher(partitions=PARTITIONS), topic, source, None)
        return
    broker = request.getfixturevalue("embedded_broker" if kind == "embedded" else "kafka")
    create_topics(broker, {topic: PARTITIONS, source.topic: 1})
    connection = {"bootstrap_servers": broker.bootstrap_servers}
    publisher: KafkaPublisher | TransactionalPublisher = KafkaPublisher(connection, Metrics())
    if kind == "transactional":
        publisher = TransactionalPublisher(connection, Metrics(), unique("group"))
    await publisher.start()
    await publisher.assign([source])
    try:
        yield Post(publisher, topic, source, broker)
    finally:
        await publisher.stop()


@pytest.fixture(params=["memory", "embedded", *REAL])
async def post(request: pytest.FixtureRequest) -> AsyncIterator[Post]:
    """Each publisher in turn."""
    async with opened(request.param, request) as post:
        yield post


@pytest.fixture(params=REAL)
async def real_post(request: pytest.FixtureRequest) -> AsyncIterator[Post]:
    """Each publisher to a real Kafka, whose topics come and go."""
    async with opened(request.param, request) as post:
        yield post


async def test_a_reply_to_a_partition_that_does_not_exist_is_lost_alone(post: Post) -> None:
    """Its neighbours are delivered once, to the partitions that they name."""
    places = [0, 4, 3, 99, 0]
    replies = [reply(post.topic, place, b"%d" % index) for index, place in enumerate(places)]
    assert await post.deliver(*replies) == [1, 3]
    assert post.values() == [(0, b"0"), (0, b"4"), (3, b"2")]


async def test_replies_without_a_partition_are_spread(post: Post) -> None:
    """By their key, the correlation id, as any other record."""
    assert await post.deliver(*(reply(post.topic, None, b"%d" % n, b"c%d" % n) for n in range(40))) == []
    found = post.values()
    assert len(found) == 40
    assert {partition for partition, _ in found} == {0, 1, 2, 3}


async def test_a_reply_to_a_topic_that_does_not_exist_is_lost_alone(real_post: Post) -> None:
    """Whether it names a partition or not; other topics are waited for, this one is not."""
    nowhere = unique("nowhere")
    replies = [reply(nowhere, 0, b"0"), reply(real_post.topic, 1, b"1"), reply(nowhere, None, b"2")]
    assert await real_post.deliver(*replies) == [0, 2]
    assert real_post.values() == [(1, b"1")]


async def test_a_partition_that_was_added_is_found(real_post: Post) -> None:
    """What the publisher knows of a topic may be old: it looks again before it gives a reply up."""
    assert await real_post.deliver(reply(real_post.topic, 0, b"0")) == []
    assert real_post.broker is not None
    create_topics(real_post.broker, {real_post.topic: PARTITIONS + 2})
    assert await real_post.deliver(reply(real_post.topic, PARTITIONS + 1, b"1")) == []
    assert real_post.values() == [(0, b"0"), (PARTITIONS + 1, b"1")]


@pytest.mark.kafka
async def test_a_topic_that_is_deleted_holds_nobody_up(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies to it are lost from then on, also one that was on its way."""
    monkeypatch.setattr(publisher_module, "REQUEST_TIMEOUT_MS", 3_000)
    other = unique("replies")
    async with opened("kafka", request) as post:
        assert post.broker is not None
        create_topics(post.broker, {other: 1})
        assert await post.deliver(reply(post.topic, 0, b"0"), reply(other, 0, b"0")) == []
        admin = AdminClient({"bootstrap.servers": post.broker.bootstrap_servers, "log_level": 0})
        await asyncio.to_thread(admin.delete_topics([other])[other].result, 30)
        assert await post.deliver(reply(other, 0, b"1"), reply(post.topic, 0, b"1")) == [0]
        assert post.values() == [(0, b"0"), (0, b"1")]
