"""The scorer: reads embeddings and publishes what each scorer says of them."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import structlog

from agents.app import Worker
from agents.clients import codec, connection
from agents.control import Control
from agents.embed import configured_fallbacks, configured_scorers, labels
from agents.quality import Watch
from agents.scorers import followed
from schemas.records import Target
from streams.embedding.loader import own, targeted
from streams.lanes import Lane, LaneName
from streams.models.routing import Routing
from streams.observe.metrics import Metrics
from streams.scoring.by_model import Made, ScorersByModel
from streams.scoring.guard import Fallback, no_previous
from streams.scoring.scorer import Scorer
from streams.scoring.stage import ScoreStage
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Embeddings in a micro-batch: one matrix product, small beside decoding them.
BATCH = 256


def score(settings: Settings) -> None:
    """Scores until it is told to leave; raises StreamsError where it cannot start."""
    asyncio.run(_following(settings, made(settings, own(settings)), configured_fallbacks(settings)))


async def _following(settings: Settings, ours: Made, fallbacks: Mapping[str, Fallback]) -> None:
    async with followed(settings, ours[1]) as pool:
        await serve(settings, (ours[0], pool), fallbacks, pool.previous)


def configured(settings: Settings) -> Mapping[str, Scorer]:
    """Loads the scorers of the settings' model."""
    return made(settings, own(settings))[1]


def made(settings: Settings, target: Target) -> Made:
    """Loads the scorers of a model; it is only needed for their example sentences and is let go afterwards."""
    embedder = targeted(settings, target)
    log.info("model", **labels(embedder))
    return embedder.identity.digest, configured_scorers(settings, embedder)


async def serve(
    settings: Settings,
    scorers: Made,
    fallbacks: Mapping[str, Fallback] = MappingProxyType({}),
    previous: Callable[[str], Scorer | None] = no_previous,
) -> None:
    """Joins its own group on the embeddings and scores until SIGTERM, with `scorers` of the settings' model.

    What is quarantined, and which other models have to have their scorers, sentence.models says.
    """
    lane = Lane(LaneName.BULK, settings.topic_embeddings, patience=0.0)
    metrics = Metrics()
    watch = Watch(settings, metrics, fallbacks, previous)
    with codec(settings) as records:
        control = Control(settings, connection(settings), records)
        every = ScorersByModel(scorers, partial(made, settings))

        def follow(routing: Routing) -> None:
            watch.follow(routing)
            every.follow(routing)

        async with control.following(follow) as routing:
            follow(routing)
            stage = ScoreStage(
                scorers[1],
                records,
                settings.topic_scores,
                settings.topic_quarantine,
                watch.guard,
                by_model=partial(_of, every, scorers[1]),
            )
            worker = Worker(settings, f"{settings.group}-score", [lane], stage, records, metrics, BATCH)
            watch.to(worker.alerts.tell, control, records, worker.publish)
            await worker.run()


def _of(every: ScorersByModel, ours: Mapping[str, Scorer], digest: str) -> Mapping[str, Scorer]:
    """The scorers of a model: its own of the settings' file, and those of commands that understand its vectors."""
    found = every.of(digest)
    if found is ours:
        return ours
    return {**found, **{name: scorer for name, scorer in ours.items() if scorer.model in {None, digest}}}
