"""The scorer: reads embeddings and publishes what each scorer says of them."""

import asyncio
from collections.abc import Mapping
from functools import partial

import structlog

from agents.app import Worker
from agents.clients import codec, connection
from agents.control import Control
from agents.embed import configured_fallbacks, configured_scorers, labels
from agents.quality import Watch
from agents.scorers import Followed
from schemas.records import Embedding, Target
from streams.embedding.loader import own, targeted
from streams.lanes import Lane, LaneName
from streams.models.routing import Routing
from streams.observe.metrics import Metrics
from streams.scoring.by_model import Made, ScorersByModel
from streams.scoring.guard import Fallback
from streams.scoring.scorer import Scorer
from streams.scoring.shadow import Shadowed
from streams.scoring.stage import ScoreStage
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Embeddings in a micro-batch: one matrix product, small beside decoding them.
BATCH = 256


def score(settings: Settings) -> None:
    """Scores until it is told to leave; raises StreamsError where it cannot start."""
    asyncio.run(serve(settings, made(settings, own(settings)), configured_fallbacks(settings)))


def made(settings: Settings, target: Target) -> Made:
    """Loads the scorers of a model; it is only needed for their example sentences and is let go afterwards."""
    embedder = targeted(settings, target)
    log.info("model", **labels(embedder))
    return embedder.identity.digest, configured_scorers(settings, embedder)


async def serve(settings: Settings, ours: Made, fallbacks: Mapping[str, Fallback]) -> None:
    """Joins its own group on the embeddings and scores until SIGTERM, with `ours`, the scorers of the settings' model.

    What else answers, what is quarantined, and which other models have to have their scorers, sentence.models says.
    """
    lane = Lane(LaneName.BULK, settings.topic_embeddings, patience=0.0)
    metrics = Metrics()
    scorers = Followed(settings, ours[1])
    pool = scorers.pool
    watch = Watch(settings, metrics, fallbacks, pool.previous)
    with codec(settings) as records:
        control = Control(settings, connection(settings), records)
        every = ScorersByModel(ours, partial(made, settings))

        def follow(routing: Routing) -> None:
            watch.follow(routing)
            every.follow(routing)
            scorers.follow(routing)

        def scorers_of(embedding: Embedding) -> Mapping[str, Scorer]:
            digest = embedding.weights_digest
            return pool.of(digest, embedding.sentence_id, every.of(digest))

        async with control.following(follow) as routing, scorers.following(routing):
            watch.follow(routing)
            every.follow(routing)
            stage = ScoreStage(
                pool,
                records,
                settings.topic_scores,
                settings.topic_quarantine,
                Shadowed(watch.guard, pool.shadow, metrics),
                scorers_of=scorers_of,
            )
            worker = Worker(settings, f"{settings.group}-score", [lane], stage, records, metrics, BATCH)
            watch.to(worker.alerts.tell, control, records, worker.publish)
            await worker.run()
