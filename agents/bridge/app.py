"""The bridge's composition root: the one place where settings become real things, and those an HTTP application."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI, Request, Response
from starlette.middleware import Middleware

from agents.bridge import (
    batches,
    dead_letters,
    docs,
    embeddings,
    files,
    health,
    models,
    problems,
    replays,
    rerank,
    results,
    scores,
    sentences,
    training_runs,
)
from agents.bridge.admission import Admission
from agents.bridge.asking import unavailable
from agents.bridge.batch_work import Batches
from agents.bridge.calls import HungUp
from agents.bridge.door import Door
from agents.bridge.guard import middleware
from agents.bridge.identity import Authenticator
from agents.bridge.kept import KeptReplies
from agents.bridge.limits import RateLimits
from agents.bridge.metrics import BridgeMetrics
from agents.bridge.observed import Observed
from agents.bridge.operations import Operations
from agents.bridge.replies import Replies
from agents.bridge.stores import StoreUnavailable, open_stores
from agents.bridge.vectors import KnownVectors
from agents.clients import connection
from agents.control import Control
from schemas.codec import Codec
from streams.cache import open_cache
from streams.models import objects
from streams.models.catalog import Catalog
from streams.models.database import DatabaseUnavailable, OtherSchema
from streams.observe.tracing import open_tracing
from streams.publisher import BrokerUnavailable, KafkaPublisher
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Of what is under /v1: the second number grows with additions, the first never.
API_VERSION = "1.0"
#: What a reader of the OpenAPI document should know first.
DESCRIPTION = """\
Errors are `application/problem+json` (RFC 9457); `errors` names each wrong field. Every answer has an `X-Request-Id`
(yours, if you send one) and, where the stream was asked, a `Server-Timing`. `Request-Timeout` says how many seconds
you are ready to wait. A 429 or 503 says in `Retry-After` when to come back."""
#: What nginx, too, calls a request whose caller hung up; nobody receives it.
HUNG_UP = 499


class Bridge:
    """Everything an endpoint works with."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        """Raises SettingsError where settings contradict each other; connects to nothing."""
        link = connection(settings)
        self.settings = settings
        self.codec = codec
        self.metrics = BridgeMetrics()
        self.tracing = open_tracing(settings, "bridge")
        self.publisher = KafkaPublisher(link, self.metrics)
        self.control = Control(settings, link, codec)
        self.replies = Replies(settings, link, codec, self.publisher, self.metrics)
        self.known = KnownVectors(open_cache(settings, self.metrics), shared=settings.redis_url is not None)
        self.stores = open_stores(settings)
        self.kept = KeptReplies(settings, link, self.stores.results, self.publisher, self.metrics)
        self.operations = Operations(self.stores.results)
        self.batches = Batches(settings, self.replies)
        self.limits = RateLimits.from_settings(settings)
        self.admission = Admission(settings.max_inflight_tokens)
        self.metrics.waiting.set_function(lambda: self.admission.in_flight)
        self.door = Door(self.metrics)
        self.authenticator = Authenticator.from_settings(settings)
        #: Whether it was told to leave: it answers what comes, but asks for nothing more to come.
        self.leaving = False
        self._hearing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Connects in the background, for as long as that takes; yields the task that ends only by a bug."""
        self._hearing = asyncio.get_running_loop().create_task(self._hear())
        self.door.lateness.start()
        try:
            yield self._hearing
        finally:
            self.door.lateness.stop()
            self._hearing.cancel()
            await asyncio.gather(self._hearing, return_exceptions=True)
            await self.operations.close()
            await self.batches.close()
            await self.stores.close()
            await self.limits.close()
            await self.known.close()
            self.tracing.close()

    async def _hear(self) -> None:
        while True:
            try:
                await self.publisher.start()
                break
            except BrokerUnavailable as error:
                log.warning("broker-unavailable", error=str(error))
                await asyncio.sleep(1)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.replies.run())
                tasks.create_task(self.kept.run())
                tasks.create_task(self.batches.run())
                tasks.create_task(self.control.follow(lambda _routing: None))
        finally:
            await self.publisher.stop()

    @property
    def catalog(self) -> Catalog:
        """What is known of models and training runs: in the database that batches are in."""
        return Catalog(self.batches.database)

    # -- health: whether, and why -----------------------------------------------------------------------------

    def live(self) -> tuple[bool, str]:
        """Whether what hears the stream still runs."""
        runs = self._hearing is not None and not self._hearing.done()
        return runs, "it hears the stream" if runs else "what hears the stream has ended"

    def ready(self) -> tuple[bool, str]:
        """Whether answers come back."""
        if self.leaving:
            return False, "leaving"
        if not self.replies.alive:
            return False, "no answer came back from the stream lately"
        return True, "answers come back from the stream"

    def started(self) -> tuple[bool, str]:
        """Whether it was connected once."""
        hears = self.replies.hears.is_set()
        return hears, "it hears its replies" if hears else "not connected to the brokers yet"


def create(bridge: Bridge) -> FastAPI:
    """Returns the application around a bridge."""
    observed = Middleware(
        Observed,
        metrics=bridge.metrics,
        tracing=bridge.tracing,
        ratio=bridge.settings.trace_ratio,
        texts=bridge.settings.log_text,
    )
    app = application([observed, *middleware(bridge.settings, bridge.authenticator)])
    app.state.bridge = bridge
    return app


def application(before: Sequence[Middleware] = ()) -> FastAPI:
    """Returns the endpoints with these middlewares before them; they need a `bridge` in the application's state."""
    app = FastAPI(
        title="sentence-streams",
        summary="Sentences in, embeddings and scores out, through a stream on Kafka.",
        description=DESCRIPTION,
        version=API_VERSION,
        middleware=list(before),
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    docs.install(app)
    app.add_exception_handler(HungUp, _hung_up)
    for missing in (StoreUnavailable, objects.StoreUnavailable, DatabaseUnavailable, OtherSchema):
        app.add_exception_handler(missing, _store_unavailable)
    asking = (embeddings, scores, rerank, sentences, results)
    for endpoints in (*asking, models, training_runs, replays, dead_letters, files, batches, health):
        # Not `include_router`: it would match every path twice, and hide the routes in it from whoever asks for them.
        app.router.routes.extend(endpoints.router.routes)
    return app


async def _hung_up(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HUNG_UP)


async def _store_unavailable(request: Request, error: Exception) -> Response:
    return problems.respond(unavailable(str(error)), request.scope)
