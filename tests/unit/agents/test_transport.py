"""Commits of the transport: in the generation they were meant for, or not at all."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    RebalanceInProgressError,
)
from aiokafka.structs import OffsetAndMetadata

from agents.transport import ConsumerThread
from streams.records import TopicPartition

P0, P1 = TopicPartition("requests", 0), TopicPartition("requests", 1)
NOTES = {P0: OffsetAndMetadata(7, "")}


class Coordinator:
    """Stands for aiokafka's: answers commits with the given errors, one after the other, then takes them."""

    def __init__(self, *errors: KafkaError) -> None:
        self.generation = 5
        self.commits: list[Any] = []
        self._errors = list(errors)
        self._commit_lock = asyncio.Lock()

    async def ensure_coordinator_known(self) -> None:
        """Is where aiokafka waits for the broker: a rebalance may pass meanwhile."""

    async def _do_commit_offsets(self, _: object, offsets: Any) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self.commits.append(offsets)


async def commit(coordinator: Coordinator, notes: Any = NOTES, generation: int = 5) -> bool:
    """Commits as a member that holds partition 0."""
    thread = ConsumerThread.__new__(ConsumerThread)
    consumer = SimpleNamespace(_coordinator=coordinator, assignment=lambda: {P0})
    thread._ensure_consumer = lambda: consumer  # type: ignore[method-assign]
    return await thread.commit_notes(notes, generation)


async def test_commits_what_is_assigned() -> None:
    """Partitions that are not ours any more are left out."""
    coordinator = Coordinator()
    assert await commit(coordinator, {**NOTES, P1: OffsetAndMetadata(9, "")})
    assert coordinator.commits == [NOTES]


async def test_nothing_of_ours_is_no_commit() -> None:
    """aiokafka would raise for an empty commit."""
    coordinator = Coordinator()
    assert not await commit(coordinator, {P1: OffsetAndMetadata(9, "")})
    assert coordinator.commits == []


@pytest.mark.parametrize("generation", [-1, 4, 6])
async def test_another_generation_is_no_commit(generation: int) -> None:
    """An old watermark must not be committed by the member that this process has become since."""
    coordinator = Coordinator()
    assert not await commit(coordinator, generation=generation)
    assert coordinator.commits == []


async def test_a_rebalance_while_the_broker_is_away_ends_the_commit() -> None:
    """The generation counts at the moment of each request, not when the commit was asked for."""
    coordinator = Coordinator()

    async def rejoin() -> None:
        coordinator.generation = 6

    coordinator.ensure_coordinator_known = rejoin  # type: ignore[method-assign]
    assert not await commit(coordinator)
    assert coordinator.commits == []


async def test_a_broker_that_is_not_ready_is_asked_again() -> None:
    """What can be retried is, until it works."""
    coordinator = Coordinator(GroupCoordinatorNotAvailableError(), GroupCoordinatorNotAvailableError())
    assert await commit(coordinator)
    assert coordinator.commits == [NOTES]


async def test_a_rebalance_refuses_the_commit() -> None:
    """The broker's word that the generation is over is an answer, not an error."""
    assert not await commit(Coordinator(RebalanceInProgressError()))


async def test_what_cannot_be_retried_is_raised() -> None:
    """A group that this user may not commit for is an error to be seen."""
    with pytest.raises(GroupAuthorizationFailedError):
        await commit(Coordinator(GroupAuthorizationFailedError()))
