"""The worker: embeds the sentences of its lanes."""

import asyncio
import time

import structlog

from agents.app import Worker
from agents.clients import codec
from streams import topics
from streams.embedding import golden
from streams.embedding.embedder import Embedder
from streams.embedding.loader import load
from streams.embedding.stage import EmbedStage
from streams.lanes import LaneName
from streams.observe.metrics import Metrics
from streams.settings import Settings

log = structlog.get_logger(__name__)


def worker(settings: Settings) -> None:
    """Embeds until it is told to leave; raises StreamsError where it cannot start."""
    embedder = checked_embedder(settings)
    asyncio.run(serve(settings, embedder))


def checked_embedder(settings: Settings) -> Embedder:
    """Loads the model and checks it against golden vectors: a worker whose model fails never joins its group."""
    started = time.monotonic()
    embedder = load(settings.model, settings.model_revision, settings.model_backend, settings.threads)
    golden.check(embedder)
    log.info("model", **labels(embedder), seconds=round(time.monotonic() - started, 2))
    return embedder


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


async def serve(settings: Settings, embedder: Embedder) -> None:
    """Joins the group and embeds until SIGTERM."""
    metrics = Metrics()
    metrics.model.labels(**labels(embedder)).set(1)
    with codec(settings) as records:
        stage = EmbedStage(embedder, records, settings.topic_embeddings, publish_text=settings.publish_text)
        await Worker(settings, group(settings), topics.lanes(settings), stage, metrics, embedder.token_budget).run()
