"""Answers the health questions of a running worker, and keeps its gauges."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from streams.lanes import Lane
from streams.observe.health import Check, HealthServer
from streams.observe.metrics import Metrics
from streams.pipeline import Pipeline
from streams.publisher import KafkaPublisher
from streams.settings import Settings
from streams.transactions import TransactionalPublisher


class Health:
    """Live: work that waits makes progress. Ready: partitions assigned, model checked, outputs reachable."""

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
        """False where records wait and nothing was finished, retried or assigned for too long."""
        idle = time.monotonic() - self._pipeline.progressed
        waiting = self._pipeline.pending() + sum(self.lag().values())
        if waiting and idle > self._settings.stall_seconds:
            return Check(False, f"{waiting} records wait and nothing moved for {idle:.0f} s")
        return Check(True, f"{waiting} records wait, last progress {idle:.1f} s ago")

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

    def lag(self) -> dict[tuple[str, int], int]:
        """Returns for each assigned partition how many offsets are not finished."""
        return {
            (tp.topic, tp.partition): max(0, end - position)
            for tp, position in self._pipeline.positions().items()
            if (end := self._app.consumer.end_offset(tp)) is not None
        }

    async def _watch(self) -> None:
        while True:
            self._observe()
            await asyncio.sleep(1.0)

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
