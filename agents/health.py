"""Answers the health questions of a running worker, and keeps its gauges."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.lanes import Lane
from streams.observe.health import Check, HealthServer
from streams.observe.metrics import Metrics
from streams.pipeline import Pipeline
from streams.publisher import KafkaPublisher
from streams.records import TopicPartition
from streams.settings import Settings
from streams.transactions import TransactionalPublisher

#: Seconds between two looks at the lanes.
LOOK = 1.0


@dataclass(slots=True)
class Standing:
    """A lane as it was at the last look, and at how many looks in a row it had records and did nothing about them."""

    positions: Mapping[TopicPartition, int] = field(default_factory=dict)
    looks: int = 0


class Health:
    """Live: work that waits makes progress, or the world is not ready. Ready: partitions assigned, model checked,
    outputs reachable.
    """

    def __init__(
        self,
        settings: Settings,
        app: Any,
        pipeline: Pipeline[Any],
        lanes: Sequence[Lane],
        metrics: Metrics,
        publisher: KafkaPublisher | TransactionalPublisher,
    ) -> None:
        self._settings, self._app, self._pipeline, self._metrics = settings, app, pipeline, metrics
        self._lanes = {lane.topic: lane.name for lane in lanes}
        self._publisher = publisher
        self._standing = {topic: Standing() for topic in self._lanes}
        self._server = HealthServer(
            settings.health_host,
            settings.health_port,
            metrics.registry,
            live=self.live,
            ready=self.ready,
            startup=self.startup,
        )
        self.leaving = False

    async def start(self) -> None:
        """Listens and keeps the gauges up to date."""
        await self._server.start()
        self._gauges = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Stops listening."""
        self._gauges.cancel()
        await self._server.stop()

    @property
    def address(self) -> str:
        """Where the pages are, host:port."""
        return self._server.address

    async def live(self) -> Check:
        """False where records, or an assignment, wait and nothing moves though the broker is there."""
        idle = time.monotonic() - self._pipeline.progressed
        waiting = self._waiting()
        if (why := self._stall(idle, waiting)) is None:
            return Check(True, f"{waiting} records wait, last progress {idle:.1f} s ago")
        if not await self._publisher.reachable():
            return Check(True, f"{why}, but no broker answers, and that is waited out")
        return Check(False, why)

    def _stall(self, idle: float, waiting: int) -> str | None:
        """What does not move although it should, and for how long."""
        allowed, joining = self._settings.stall_seconds, self._app.conf.broker_rebalance_timeout
        if (since := self._app.consumer.unsettled) is not None:
            idle = min(idle, time.monotonic() - since)
            return f"no assignment for {idle:.0f} s" if idle > allowed + joining else None
        if waiting and idle > allowed:
            return f"{waiting} records wait and nothing moved for {idle:.0f} s"
        for topic, standing in self._standing.items():
            if standing.looks * LOOK > allowed:
                return (
                    f"records of lane {self._lanes[topic]} wait and none was fetched for {standing.looks * LOOK:.0f} s"
                )
        return None

    def _waiting(self, topic: str | None = None) -> int:
        """How many records, of one lane or of all, are not finished, less those behind damage that nobody can pass."""
        damaged = self._app.consumer.damaged
        lag = sum(lag for tp, lag in self.lag().items() if topic in {None, tp.topic} and not damaged(tp))
        return max(lag, self._pipeline.pending(topic))

    async def ready(self) -> Check:
        """True where this worker can take a record and publish its results now."""
        if self.leaving:
            return Check(False, "leaving")
        if not self._pipeline.positions():
            return Check(False, "no partition is assigned yet")
        if not await self._publisher.reachable():
            return Check(False, "no broker answers the publisher")
        return Check(True, f"{len(self._pipeline.positions())} partitions assigned")

    async def startup(self) -> Check:
        """True once the group gave this worker an assignment (which may be empty)."""
        joined = self._app.consumer_generation_id > 0
        return Check(joined, "joined the group" if joined else "not in the group yet")

    def lag(self) -> dict[TopicPartition, int]:
        """Returns for each assigned partition how many offsets are not finished."""
        return {
            tp: max(0, end - position)
            for tp, position in self._pipeline.positions().items()
            if (end := self._app.consumer.end_offset(tp)) is not None
        }

    async def _watch(self) -> None:
        while True:
            self._observe()
            self._look()
            await asyncio.sleep(LOOK)

    def _look(self) -> None:
        """Counts for how long a lane has records that nobody fetches: nothing of it is in hand, nothing moves."""
        positions = self._pipeline.positions()
        for topic, standing in self._standing.items():
            here = {tp: at for tp, at in positions.items() if tp.topic == topic}
            stands = here == standing.positions and self._waiting(topic) and not self._pipeline.pending(topic)
            standing.looks, standing.positions = standing.looks + 1 if stands else 0, here

    def _observe(self) -> None:
        metrics, mean = self._metrics, self._metrics.mean_tokens(self._pipeline.name)
        metrics.lag.clear()
        metrics.token_lag.clear()
        for (topic, partition), lag in self.lag().items():
            metrics.lag.labels(self._lanes[topic], str(partition)).set(lag)
            metrics.token_lag.labels(self._lanes[topic], str(partition)).set(lag * mean)
        for topic, lane in self._lanes.items():
            records, tokens = self._pipeline.queued(topic)
            metrics.queued.labels(lane).set(records)
            metrics.queued_tokens.labels(lane).set(tokens)
