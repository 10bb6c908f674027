"""Health of a worker: what counts as a stall, and what is only waiting for the world."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from agents import health as module
from agents.health import Health
from streams.lanes import Lane, LaneName
from streams.observe.metrics import Metrics
from streams.records import TopicPartition

BULK, URGENT = Lane(LaneName.BULK, "requests", 2.0), Lane(LaneName.INTERACTIVE, "urgent", 0.0)
P0, P1 = TopicPartition("requests", 0), TopicPartition("urgent", 0)
STALL, JOINING = 45.0, 35.0


class Scene:
    """A worker whose parts say what a test sets; it has made no progress for longer than it may."""

    def __init__(self) -> None:
        self.ends = {P0: 10, P1: 10}
        self.positions = {P0: 10, P1: 10}
        self.in_hand = {"requests": 0, "urgent": 0}
        self.broker = True
        self.damaged: set[TopicPartition] = set()
        self.consumer = SimpleNamespace(unsettled=None, end_offset=self.ends.get, damaged=lambda tp: tp in self.damaged)
        self.pipeline = SimpleNamespace(
            name="embed",
            progressed=time.monotonic() - STALL - 1,
            positions=lambda: dict(self.positions),
            pending=lambda topic=None: sum(self.in_hand.values()) if topic is None else self.in_hand[topic],
        )
        app: Any = SimpleNamespace(consumer=self.consumer, conf=SimpleNamespace(broker_rebalance_timeout=JOINING))
        settings: Any = SimpleNamespace(health_host="127.0.0.1", health_port=0, stall_seconds=STALL)
        self.health = Health(settings, app, self.pipeline, (URGENT, BULK), Metrics(), self)  # type: ignore[arg-type]

    async def reachable(self) -> bool:
        return self.broker

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.health._look()

    async def live(self) -> bool:
        return (await self.health.live()).ok


@pytest.fixture
def scene() -> Scene:
    """A worker that has nothing to do."""
    return Scene()


async def test_whoever_has_nothing_to_do_is_alive(scene: Scene) -> None:
    """No progress is no stall where nothing waits."""
    assert await scene.live()


@pytest.mark.parametrize("waits", ["in hand", "on the broker"])
async def test_records_that_wait_without_progress_are_a_stall(scene: Scene, waits: str) -> None:
    """In hand or not fetched yet: after the stall time liveness fails, and with progress it holds again."""
    if waits == "in hand":
        scene.in_hand["requests"] = 1
    else:
        scene.positions[P0] = 9
    assert not await scene.live()
    scene.pipeline.progressed = time.monotonic()
    assert await scene.live()


async def test_an_outage_of_the_broker_is_waited_out(scene: Scene) -> None:
    """To start the worker again would help nobody, and it would come back later than the broker."""
    scene.in_hand["requests"] = 1
    scene.broker = False
    assert await scene.live()


async def test_a_member_without_an_assignment_is_not_alive_for_ever(scene: Scene) -> None:
    """It has no partitions, hence no lag: what says that it stands still is the time since it had its place."""
    scene.positions = {}
    scene.consumer.unsettled = time.monotonic() - STALL - JOINING - 1
    scene.pipeline.progressed = scene.consumer.unsettled
    assert not await scene.live()
    scene.consumer.unsettled = time.monotonic() - STALL
    assert await scene.live(), "a rebalance takes as long as its slowest member may take"


async def test_a_takeover_that_waits_for_the_broker_is_no_stall(scene: Scene) -> None:
    """Whoever is to be fenced can only be fenced when the broker answers; each try is a sign of life."""
    scene.positions = {}
    scene.consumer.unsettled = time.monotonic() - 1000
    scene.pipeline.progressed = time.monotonic()
    assert await scene.live()


async def test_a_lane_that_is_not_fetched_is_a_stall_though_another_goes_on(scene: Scene) -> None:
    """Progress of one lane must not hide that the other stands still."""
    scene.positions[P0] = 9
    for _ in range(int(STALL) + 2):
        scene.pipeline.progressed = time.monotonic()
        scene.look()
    assert not await scene.live()
    scene.positions[P0] = 10
    scene.look()
    assert await scene.live()


@pytest.mark.parametrize("excuse", ["slow", "moving", "damaged"])
async def test_a_lane_that_is_slow_or_cannot_go_on_is_none(scene: Scene, excuse: str) -> None:
    """Records in hand, or a position that moves, however slowly; and bytes that nobody can read stop nobody's life."""
    scene.positions[P0] = 0
    for turn in range(int(STALL) + 2):
        scene.pipeline.progressed = time.monotonic()
        scene.in_hand["requests"] = int(excuse == "slow")
        scene.damaged = {P0} if excuse == "damaged" else set()
        scene.positions[P0] = turn // 9 if excuse == "moving" else 0
        scene.look()
    assert await scene.live()


async def test_the_lanes_are_looked_at_while_it_runs(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once started it looks again and again."""
    monkeypatch.setattr(module, "LOOK", 0.001)
    monkeypatch.setattr(Health, "_observe", lambda _: None)
    scene.positions[P0] = 9
    await scene.health.start()
    async with asyncio.timeout(10):
        while scene.health._standing["requests"].looks < 3:
            await asyncio.sleep(0.001)
    await scene.health.stop()
