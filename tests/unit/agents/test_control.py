"""Following commands about models through a missing topic and outages of the brokers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition

from agents import control
from agents.control import Control
from schemas.codec import Codec
from schemas.records import ModelCommand, ModelKind, Target
from streams.models.routing import Routing, Why, activate, initial, key
from streams.publisher import BrokerUnavailable
from streams.settings import load

CODEC = Codec()
PARTITION = TopicPartition("models", 0)


@dataclass
class Record:
    """A record, as far as it is looked at."""

    offset: int
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Topic:
    """A topic of one partition; what is wrong with it is raised by whoever reads it."""

    records: list[Record] = field(default_factory=list)
    wrong: Exception | None = None

    def decide(self, alias: str, name: str) -> None:
        state = activate(initial(ModelKind.EMBEDDER, alias), Target(name=name, source=name), Why("1", "ada", "why", 0))
        self.add(state.kind, alias, CODEC.encode(state, "models"))

    def add(self, kind: ModelKind, alias: str, value: bytes | None) -> None:
        self.records.append(Record(len(self.records), key(kind, alias), value))


class Consumer:
    """As an AIOKafkaConsumer of a topic, from its beginning."""

    def __init__(self, topic: Topic) -> None:
        self._topic, self._position, self._started = topic, 0, False

    async def start(self) -> None:
        self._check()
        self._started = True

    def assignment(self) -> set[TopicPartition]:
        return {PARTITION} if self._started else set()

    async def end_offsets(self, _: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {PARTITION: len(self._topic.records)}

    async def position(self, _: TopicPartition) -> int:
        return self._position

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        await asyncio.sleep(0.001)
        self._check()
        found = self._topic.records[self._position :]
        self._position += len(found)
        return {PARTITION: found} if found else {}

    async def stop(self) -> None:
        self._started = False

    def _check(self) -> None:
        if self._topic.wrong is not None:
            raise self._topic.wrong


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    """What every consumer reads; nobody waits long before it looks again."""
    found = Topic()

    def consumer(*_: Any, **__: Any) -> Consumer:
        return Consumer(found)

    monkeypatch.setattr(control, "AIOKafkaConsumer", consumer)
    monkeypatch.setattr(control, "AGAIN", 0.001)
    return found


@asynccontextmanager
async def followed() -> AsyncIterator[tuple[Routing, "asyncio.Queue[Routing]"]]:
    """What was read first, and what follows."""
    told: asyncio.Queue[Routing] = asyncio.Queue()
    async with Control(load(), {}, CODEC).following(told.put_nowait) as routing:
        yield routing, told


def answers(routing: Routing) -> dict[str, str | None]:
    """Which model answers under each alias."""
    return {alias: _name(state) for (_, alias), state in routing.states.items()}


def _name(state: ModelCommand) -> str | None:
    return state.active and state.active.name


async def test_without_the_topic_the_settings_hold_until_it_is_there(topic: Topic) -> None:
    """Nobody waits for it; once there is one, its commands are followed."""
    topic.wrong = UnknownTopicOrPartitionError()
    async with asyncio.timeout(10), followed() as (routing, told):
        assert routing == Routing()
        topic.decide("default", "one")
        topic.wrong = None
        assert answers(await told.get()) == {"default": "one"}


async def test_what_was_read_last_holds_through_an_outage(topic: Topic) -> None:
    """Afterwards all of it is read anew: compaction may have left nothing else of an alias."""
    topic.decide("default", "one")
    topic.decide("small", "two")
    async with asyncio.timeout(10), followed() as (routing, told):
        assert answers(routing) == {"default": "one", "small": "two"}
        topic.wrong = KafkaConnectionError()
        await asyncio.sleep(0.02)
        assert told.empty()
        topic.records.clear()
        topic.decide("default", "three")
        topic.wrong = None
        assert answers(await told.get()) == {"default": "three"}


async def test_no_broker_at_the_start_is_said() -> None:
    """A process that knows nothing yet does not pretend that nothing was decided."""
    with pytest.raises(BrokerUnavailable):
        async with Control(load(), {"bootstrap_servers": "127.0.0.1:1"}, CODEC).following(lambda _: None):
            raise AssertionError


async def test_a_command_that_cannot_be_read_changes_nothing(topic: Topic) -> None:
    """The last good one holds; a record without a value takes all of an alias back."""
    topic.decide("default", "one")
    topic.add(ModelKind.EMBEDDER, "default", b"no command")
    topic.decide("small", "two")
    async with asyncio.timeout(10), followed() as (routing, told):
        assert answers(routing) == {"default": "one", "small": "two"}
        topic.add(ModelKind.EMBEDDER, "default", None)
        assert answers(await told.get()) == {"small": "two"}
