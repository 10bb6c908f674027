"""The scorer: reads embeddings and publishes what each scorer says of them."""

import asyncio

from agents.app import Worker
from agents.clients import codec
from agents.embed import checked_embedder, configured_scorers
from streams.lanes import Lane, LaneName
from streams.observe.metrics import Metrics
from streams.scoring.scorer import Scorer
from streams.scoring.stage import ScoreStage
from streams.settings import Settings

#: Embeddings in a micro-batch: one matrix product, small beside decoding them.
BATCH = 256


def score(settings: Settings) -> None:
    """Scores until it is told to leave; raises StreamsError where it cannot start."""
    scorers = configured(settings)
    asyncio.run(serve(settings, scorers))


def configured(settings: Settings) -> dict[str, Scorer]:
    """Loads the scorers; the model is only needed for their example sentences and is let go afterwards."""
    return configured_scorers(settings, checked_embedder(settings))


async def serve(settings: Settings, scorers: dict[str, Scorer]) -> None:
    """Joins its own group on the embeddings and scores until SIGTERM."""
    lane = Lane(LaneName.BULK, settings.topic_embeddings, patience=0.0)
    with codec(settings) as records:
        stage = ScoreStage(scorers, records, settings.topic_scores)
        await Worker(settings, f"{settings.group}-score", [lane], stage, records, Metrics(), BATCH).run()
