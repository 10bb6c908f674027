"""The worker: embeds the sentences of its lanes."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from importlib.resources import as_file, files
from threading import Thread
from types import MappingProxyType

import structlog

from agents.app import Worker
from agents.clients import codec
from agents.quality import Watch, guard
from streams import topics
from streams.cache import open_cache
from streams.embedding.embedder import Embedder
from streams.embedding.loader import configured
from streams.embedding.replies import Replies
from streams.embedding.stage import EmbedStage
from streams.lanes import LaneName
from streams.models import catalog
from streams.observe.metrics import Metrics
from streams.scoring.guard import Fallback
from streams.scoring.loader import load_scorers, read_fallbacks
from streams.scoring.scorer import Scorer
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: The scorers of those who configure none.
BUNDLED = files("agents") / "samples" / "labels.toml"


def worker(settings: Settings) -> None:
    """Embeds until it is told to leave; raises StreamsError where it cannot start."""
    if settings.database_url is not None:  # the log says what is wrong with it; nothing here waits for it
        Thread(target=catalog.look, args=(settings.database_url,), daemon=True).start()
    embedder = checked_embedder(settings)
    scorers, fallbacks = configured_scorers(settings, embedder), configured_fallbacks(settings)
    asyncio.run(serve(settings, embedder, scorers, fallbacks))


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


async def serve(
    settings: Settings,
    embedder: Embedder,
    scorers: Mapping[str, Scorer] = MappingProxyType({}),
    fallbacks: Mapping[str, Fallback] = MappingProxyType({}),
) -> None:
    """Joins the group and embeds until SIGTERM; a request that waits for a reply may ask for `scorers`, too."""
    metrics, watch = Metrics(), Watch()
    metrics.model.labels(**labels(embedder)).set(1)
    cache = open_cache(settings, metrics)
    with codec(settings) as records, closing(cache) if cache else nullcontext():
        judge = guard(settings, metrics, fallbacks, watch)
        replies = Replies(records, topics.for_replies(settings), embedder.identity, scorers, judge)
        stage = EmbedStage(
            embedder,
            records,
            settings.topic_embeddings,
            publish_text=settings.publish_text,
            replies=replies,
            cache=cache,
        )
        budget, lanes = embedder.token_budget, topics.lanes(settings)
        worker = Worker(settings, group(settings), lanes, stage, records, metrics, budget, replies)
        watch.tell = worker.alerts.tell
        await worker.run()
