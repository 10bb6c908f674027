"""The scorer: reads embeddings and publishes what each scorer says of them."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from agents.app import Worker
from agents.clients import codec, connection
from agents.control import Control
from agents.embed import checked_embedder, configured_fallbacks, configured_scorers
from agents.quality import Watch
from agents.scorers import followed
from streams.lanes import Lane, LaneName
from streams.observe.metrics import Metrics
from streams.scoring.guard import Fallback
from streams.scoring.scorer import Scorer
from streams.scoring.stage import ScoreStage
from streams.settings import Settings

#: Embeddings in a micro-batch: one matrix product, small beside decoding them.
BATCH = 256


def score(settings: Settings) -> None:
    """Scores until it is told to leave; raises StreamsError where it cannot start."""
    scorers, fallbacks = configured(settings), configured_fallbacks(settings)
    asyncio.run(_following(settings, scorers, fallbacks))


async def _following(settings: Settings, scorers: Mapping[str, Scorer], fallbacks: Mapping[str, Fallback]) -> None:
    async with followed(settings, scorers) as pool:
        await serve(settings, pool, fallbacks)


def configured(settings: Settings) -> dict[str, Scorer]:
    """Loads the scorers; the model is only needed for their example sentences and is let go afterwards."""
    return configured_scorers(settings, checked_embedder(settings))


async def serve(
    settings: Settings, scorers: Mapping[str, Scorer], fallbacks: Mapping[str, Fallback] = MappingProxyType({})
) -> None:
    """Joins its own group on the embeddings and scores until SIGTERM; what is quarantined, sentence.models says."""
    lane = Lane(LaneName.BULK, settings.topic_embeddings, patience=0.0)
    metrics = Metrics()
    watch = Watch(settings, metrics, fallbacks)
    with codec(settings) as records:
        control = Control(settings, connection(settings), records)
        async with control.following(watch.follow) as routing:
            watch.follow(routing)
            stage = ScoreStage(scorers, records, settings.topic_scores, settings.topic_quarantine, watch.guard)
            worker = Worker(settings, f"{settings.group}-score", [lane], stage, records, metrics, BATCH)
            watch.to(worker.alerts.tell, control, records, worker.publish)
            await worker.run()
