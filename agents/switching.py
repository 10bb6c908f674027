"""Decisions about models: the command line and the bridge make them here, on the same commands."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

import structlog

from agents.clients import connection
from agents.control import Control
from schemas.codec import Codec
from schemas.errors import Reject, StreamsError
from schemas.records import ModelCommand, ModelKind, Target
from streams.embedding import loader
from streams.models.catalog import Catalog
from streams.models.routing import DEFAULT, Alias, Routing, Why, key
from streams.observe.metrics import Metrics
from streams.publisher import KafkaPublisher
from streams.records import Outgoing
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Takes the state of an alias, and why, to the next one: those of `streams.models.routing`.
Change = Callable[[ModelCommand, Why], ModelCommand]


class Decision(NamedTuple):
    """What is decided of an alias, by whom and why."""

    #: What the catalog calls it.
    action: str
    change: Change
    by: str
    why: str


class NotTaken(StreamsError):
    """The brokers refuse the command."""


class Publish(Protocol):
    """As `KafkaPublisher.publish`."""

    async def __call__(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]: ...


def place(name: str, routing: Routing) -> Alias:
    """What a name stands for: `scorer:topic`, `embedder:small`, or the kind that has been decided about under it."""
    kind, colon, alias = name.partition(":")
    if colon and alias and kind in set(ModelKind):
        return ModelKind(kind), alias
    if name != DEFAULT and (ModelKind.SCORER, name) in routing.states:
        return ModelKind.SCORER, name
    return ModelKind.EMBEDDER, name


def target(
    at: Alias, source: str, revision: str | None = None, precision: str | None = None, digest: str | None = None
) -> Target:
    """Names what an alias is to stand for: an embedder by its own name, a scorer by that of its alias."""
    kind, alias = at
    if kind is ModelKind.SCORER:
        return Target(name=alias, revision=revision, digest=digest, precision=precision, source=source)
    return loader.target(source, revision, precision, digest)


async def decide(
    settings: Settings, codec: Codec, publish: Publish, routing: Routing, at: Alias, decision: Decision
) -> ModelCommand:
    """Decides about an alias, and returns its new state once the brokers have it. Raises NotPossible, NotTaken.

    The catalog is told where the settings name one; a decision does not depend on that.
    """
    reason = Why(str(uuid.uuid4()), decision.by, decision.why, int(time.time() * 1000))
    command = decision.change(routing.state(*at), reason)
    value = await asyncio.to_thread(codec.encode, command, settings.topic_models)  # it may ask the registry
    headers = (("content-type", b"application/avro"),)
    refused = await publish([Outgoing(settings.topic_models, key(*at), value, headers)])
    if refused:
        raise NotTaken(str(refused[0]))
    await asyncio.to_thread(_audit, settings, command, decision.action)
    return command


def _audit(settings: Settings, command: ModelCommand, action: str) -> None:
    if settings.database_url is None:
        return
    try:
        with closing(Catalog.open(settings.database_url).database) as database:
            Catalog(database).audit(command, action, summary(command))
    except StreamsError as error:  # a driver that is not installed
        log.warning("change-not-in-catalog", id=command.id, error=str(error), meaning="the stream has it")


async def read(settings: Settings, codec: Codec) -> Routing:
    """What all commands so far amount to. Raises BrokerUnavailable."""
    async with Control(settings, connection(settings), codec).following(lambda _routing: None) as routing:
        return routing


async def command(settings: Settings, codec: Codec, name: str, decision: Callable[[Alias], Decision]) -> ModelCommand:
    """As `decide`, for a process that is not connected yet."""
    routing = await read(settings, codec)
    at = place(name, routing)
    publisher = KafkaPublisher(connection(settings), Metrics())
    await publisher.start()
    try:
        return await decide(settings, codec, publisher.publish, routing, at, decision(at))
    finally:
        await publisher.stop()


def summary(state: ModelCommand) -> dict[str, Any]:
    """A state as JSON has it."""
    return {**asdict(state), "kind": str(state.kind)}
