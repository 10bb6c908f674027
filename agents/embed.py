"""The worker: embeds the sentences of its lanes."""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from importlib.resources import as_file, files
from threading import Thread

import structlog

from agents.app import Worker
from agents.clients import codec, connection
from agents.control import Control
from agents.quality import Watch
from agents.scorers import Followed
from schemas.codec import Codec
from schemas.records import Severity, Target
from streams import topics
from streams.cache import open_cache
from streams.embedding.embedder import Embedder
from streams.embedding.loader import configured, own, targeted
from streams.embedding.model import Model
from streams.embedding.replies import Replies
from streams.embedding.shadow import Shadow
from streams.embedding.stage import EmbedStage
from streams.lanes import LaneName
from streams.models import catalog
from streams.models.pool import Pool
from streams.models.routing import Routing
from streams.observe.metrics import Metrics
from streams.scoring.guard import Fallback
from streams.scoring.loader import load_scorers, read_fallbacks
from streams.scoring.scorer import Scorer
from streams.scoring.shadow import Shadowed
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: The scorers of those who configure none.
BUNDLED = files("agents") / "samples" / "labels.toml"


def worker(settings: Settings) -> None:
    """Embeds until it is told to leave; raises StreamsError where it cannot start."""
    if settings.database_url is not None:  # the log says what is wrong with it; nothing here waits for it
        Thread(target=catalog.look, args=(settings.database_url,), daemon=True).start()
    asyncio.run(serve(settings))


def checked_embedder(settings: Settings) -> Embedder:
    """Loads the model, checked against golden vectors: a worker whose model fails never joins its group."""
    started = time.monotonic()
    embedder = configured(settings)
    log.info("model", **labels(embedder), seconds=round(time.monotonic() - started, 2))
    return embedder


def configured_scorers(settings: Settings, embedder: Embedder) -> dict[str, Scorer]:
    """Loads the scorers; the model embeds their example sentences. Raises ScorerFileError."""
    with as_file(BUNDLED) as bundled:
        return load_scorers(settings.scorers_file or bundled, embedder)


def configured_fallbacks(settings: Settings) -> dict[str, Fallback]:
    """Reads what answers in place of each scorer. Raises ScorerFileError."""
    with as_file(BUNDLED) as bundled:
        return read_fallbacks(settings.scorers_file or bundled)


def labels(embedder: Embedder) -> dict[str, str]:
    """Returns what names a model in logs and metrics."""
    identity = embedder.identity
    return {
        "model": identity.name,
        "revision": identity.revision,
        "digest": identity.digest,
        "precision": identity.precision,
    }


def group(settings: Settings) -> str:
    """Returns the worker's consumer group; a worker of the replay lane alone has one of its own."""
    return f"{settings.group}-replay" if settings.lanes == (LaneName.REPLAY,) else settings.group


def loader(settings: Settings) -> Callable[[Target], Model]:
    """Returns what loads a model, with the scorers that understand it. It raises ModelError or ScorerFileError."""

    def load(target: Target) -> Model:
        embedder = targeted(settings, target)
        return Model(embedder, configured_scorers(settings, embedder))

    return load


class Told:
    """Takes what the pool of models tells, on whatever thread, to the worker on its event loop."""

    def __init__(self, settings: Settings) -> None:
        """Call it on the event loop."""
        self._loop, self._fixed = asyncio.get_running_loop(), settings.token_budget
        self._worker: Worker | None = None

    def to(self, worker: Worker) -> None:
        """From now on there is somebody to tell."""
        self._worker = worker

    def failed(self, target: Target, why: str) -> None:
        """Alerts: a model that commands name is not served here."""
        if self._worker is not None:
            tell, message = self._worker.alerts.tell, f"{target.name} cannot be loaded: {why}"
            self._loop.call_soon_threadsafe(
                tell, "model-not-loaded", f"model:{target.name}", Severity.CRITICAL, message
            )

    def swapped(self, model: Model) -> None:
        """Sizes batches for another default model, unless the settings do."""
        if self._worker is not None and not self._fixed:
            self._loop.call_soon_threadsafe(self._worker.pipeline.resize, model.embedder.token_budget)


async def serve(settings: Settings, embedder: Embedder | None = None) -> None:
    """Joins the group and embeds until SIGTERM, with the models that sentence.models names.

    `embedder` stands for the settings' model. A worker whose model fails its check never joins its group.
    """
    metrics = Metrics()
    followed = Followed(settings, {})
    scorers = followed.pool
    with codec(settings) as records:
        control = Control(settings, connection(settings), records)
        told = Told(settings)
        pool = Pool(
            own(settings), loader(settings), settings.models_bytes, metrics, failed=told.failed, swapped=told.swapped
        )

        def previous(name: str) -> Scorer | None:
            return scorers.previous(name) or pool.default.scorers.get(name)

        watch = Watch(settings, metrics, configured_fallbacks(settings), previous)
        judge = Shadowed(watch.guard, scorers.shadow, metrics)
        replies = Replies(records, topics.for_replies(settings), pool, judge, scorers.of)

        def follow(routing: Routing) -> None:
            pool.follow(routing)
            watch.follow(routing)
            followed.follow(routing)

        async with control.following(follow) as routing, followed.following(routing):
            watch.follow(routing)
            await asyncio.to_thread(pool.start, routing, Model(embedder) if embedder else None)
            with closing(pool):
                await _serve(settings, records, pool, metrics, told, watch, control, replies)


async def _serve(
    settings: Settings,
    records: Codec,
    pool: Pool,
    metrics: Metrics,
    told: Told,
    watch: Watch,
    control: Control,
    replies: Replies,
) -> None:
    cache = open_cache(settings, metrics)
    with closing(cache) if cache else nullcontext():
        stage = EmbedStage(
            pool,
            records,
            settings.topic_embeddings,
            publish_text=settings.publish_text,
            replies=replies,
            cache=cache,
            shadow=Shadow(metrics),
        )
        budget, lanes = pool.default.embedder.token_budget, topics.lanes(settings)
        worker = Worker(settings, group(settings), lanes, stage, records, metrics, budget, replies)
        watch.to(worker.alerts.tell, control, records, worker.publish)
        told.to(worker)
        await worker.run()
