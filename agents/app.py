"""The composition root: the one place where settings become real things."""

import asyncio
import faulthandler
import math
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

import faust
import structlog
from faust.app.base import BootStrategy

from agents.clients import connection
from agents.health import Health
from agents.transport import Transport
from schemas.codec import Codec
from streams.brake import Brake
from streams.dead_letters import DeadLetters
from streams.embedding.replies import Replies
from streams.lanes import Lane
from streams.observe.alerts import Alerts
from streams.observe.metrics import Metrics
from streams.observe.tracing import open_tracing
from streams.pipeline import Pipeline, Publisher, Retries
from streams.publisher import KafkaPublisher
from streams.refusals import Refusals
from streams.settings import Settings
from streams.stage import Stage
from streams.transactions import TransactionalPublisher

log = structlog.get_logger(__name__)

#: Fetches that may wait on a lane's channel: while one is prepared, the next is there. It is only counted against the
#: lane's room when it is taken from there.
CHANNEL_FETCHES = 1
#: Seconds beyond the drain timeout after which a process that should leave is ended by force.
LEAVE_SLACK = 5.0
#: How many times the largest request a compressed batch may unpack to. Texts pack to a third or a tenth, and most
#: producers limit what they put into a batch before they pack it: only one that means harm comes near this.
UNPACKED = 10


#: Seconds that a seek may take: it waits for the broker, as long as that takes. Faust would end its recovery task for
#: good where it took longer, and the worker would stand still as a member of its group.
FOREVER = 10 * 365 * 86_400


class _ConsumerOnly(BootStrategy):
    """Faust's own producer is not started: results go out through ours, which waits for receipts."""

    enable_kafka_producer = False
    enable_web = False


class StreamApp(faust.App):
    """A Faust app whose consumer feeds a pipeline; `agents.transport` asks it for what is set here."""

    BootStrategy = _ConsumerOnly

    connection: dict[str, Any]
    pipeline: Pipeline[Any]
    channels: dict[str, Any]
    metrics: Metrics
    publisher: Publisher
    drain_timeout: float
    #: When the drain of a leaving worker must be over (monotonic seconds); infinity while it serves.
    leave_by: float
    unpack_limit: int

    def _create_directories(self) -> None:
        """Nothing is kept on disk: the file system may be read-only."""


class Worker:
    """One process's stream: a Faust app with an agent for each lane, the pipeline behind it, health in front."""

    def __init__(
        self,
        settings: Settings,
        group: str,
        lanes: Iterable[Lane],
        stage: Stage[Any],
        codec: Codec,
        metrics: Metrics,
        budget: int,
        replies: Replies | None = None,
    ) -> None:
        """`codec` writes alerts; `replies`: what tells callers of refusals, where the records are requests."""
        self._crash: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        link = connection(settings)
        self._publisher = (
            TransactionalPublisher(link, metrics, group, waits=lambda: self.pipeline.still_alive())
            if settings.delivery == "exactly_once"
            else KafkaPublisher(link, metrics, waits=lambda: self.pipeline.still_alive())
        )
        self.alerts = Alerts(codec, settings.topic_alerts, self._publisher.publish, _notify(settings))
        self._tracing = open_tracing(settings, stage.name)
        self._drain_timeout = settings.drain_timeout
        self.pipeline: Pipeline[Any] = Pipeline(
            stage,
            lanes := tuple(lanes),
            self._publisher,
            Refusals(DeadLetters(settings.topic_dead_letters, group), replies).make,
            metrics,
            budget=settings.token_budget or budget,
            max_records=settings.queue_records,
            max_bytes=settings.queue_bytes,
            on_crash=self._crashed,
            on_lost=lambda: self.app.consumer.rejoin(),
            remember=lambda *note: self.app.consumer.remember(*note),
            retries=Retries(settings.retry_attempts, settings.retry_seconds),
            brake=Brake(settings.dead_letter_limit, metrics, group, self.alerts.tell),
            tracing=self._tracing,
            tell=self.alerts.tell,
        )
        #: Publishes what is nobody's result.
        self.publish = self._publisher.publish
        self.app = _app(settings, group, self.pipeline, metrics, link)
        self.app.publisher = self._publisher
        for lane in lanes:
            _serve(self.app, stage.name, lane, self.pipeline, self._crashed)
        self.health = Health(settings, self.app, self.pipeline, lanes, metrics, self._publisher)

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serves until SIGTERM or SIGINT, then leaves cleanly; raises what made the stream itself fail.

        `ready` is called once the worker has joined its group. Where leaving takes much longer than the drain
        timeout, or the stream has failed and something else still keeps the process, the process is ended by force
        with status 1: whoever watches it starts it again, and nothing unfinished was committed.
        """
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await self._start()
        ready()
        stopped = loop.create_task(stopping.wait())
        faust_ended = loop.create_task(self.app.wait_until_stopped())
        try:
            await asyncio.wait({stopped, faust_ended, self._crash}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.health.leaving = True
            # A thread in C: neither a blocked event loop nor a library that never returns can stop it.
            faulthandler.dump_traceback_later(self._drain_timeout + LEAVE_SLACK, exit=True)
            await self._stop()
            stopped.cancel()
            faust_ended.cancel()
        if self._crash.done():
            error = self._crash.result()
            if isinstance(error, Exception):
                raise error
            raise RuntimeError("a thread of the stream ended") from error  # a SystemExit would be a clean end
        if not stopping.is_set():
            raise RuntimeError("the Faust app stopped by itself") from self.app.crash_reason
        faulthandler.cancel_dump_traceback_later()

    async def _start(self) -> None:
        await self.health.start()
        await self._publisher.start()
        await self.pipeline.start()
        await self.app.start()

    async def _stop(self) -> None:
        log.info("leaving", pending=self.pipeline.pending())
        self.app.leave_by = time.monotonic() + self._drain_timeout
        await self.app.stop()
        await self.pipeline.stop()
        await self.alerts.stop()
        await self._publisher.stop()
        await self.health.stop()
        self._tracing.close()
        log.info("left", pending=self.pipeline.pending())

    def _crashed(self, error: BaseException) -> None:
        log.critical("crashed", error=repr(error), exc_info=error)
        if not self._crash.done():
            self._crash.set_result(error)


def _notify(settings: Settings) -> Callable[[str, str], bool] | None:
    if settings.notify_urls is None:
        return None
    from streams.observe.notify import Notifier  # only where it is used: it takes seconds to import

    return Notifier(settings.notify_urls.get_secret_value()).send


def _app(settings: Settings, group: str, pipeline: Pipeline[Any], metrics: Metrics, link: dict[str, Any]) -> StreamApp:
    app = StreamApp(
        group,
        broker=[f"kafka://{server}" for server in settings.bootstrap_servers.split(",")],
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=True,
        broker_session_timeout=settings.session_timeout,
        broker_heartbeat_interval=settings.session_timeout / 4,
        broker_commit_interval=settings.commit_interval,
        broker_request_timeout=FOREVER,
        broker_rebalance_timeout=settings.drain_timeout + settings.session_timeout,
        stream_buffer_maxsize=CHANNEL_FETCHES,
    )
    app.transport = Transport(app.conf.broker_consumer, app)
    app.connection, app.pipeline, app.metrics = link, pipeline, metrics
    app.drain_timeout, app.leave_by = settings.drain_timeout, math.inf
    app.unpack_limit = UNPACKED * settings.max_request_bytes
    app.channels = {}
    return app


def _serve(
    app: StreamApp, stage: str, lane: Lane, pipeline: Pipeline[Any], crashed: Callable[[BaseException], None]
) -> None:
    """Adds a lane's agent: it takes whole fetches from the lane's channel and hands them to the pipeline."""
    app.topics.add(app.topic(lane.topic, value_type=bytes, value_serializer="raw"))
    channel = app.channels[lane.topic] = app.channel(maxsize=CHANNEL_FETCHES)

    async def agent(fetches: Any) -> None:
        try:
            async for fetch in fetches.noack():
                await pipeline.accept(*fetch)
        except Exception as error:  # Faust would only log it, and the lane would stand still
            crashed(error)
            raise

    app.agent(channel, name=f"{stage}-{lane.name}", concurrency=1)(agent)
