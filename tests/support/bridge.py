"""A bridge without brokers: what it publishes is handled at once by a real stage, and the replies come back."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import numpy as np

from agents.bridge.app import Bridge, create
from agents.bridge.batch_work import Batches
from agents.bridge.replies import Replies
from schemas.codec import Codec
from schemas.errors import Reject
from schemas.headers import parse_request
from streams import topics
from streams.dead_letters import DeadLetters
from streams.embedding.embedder import Embedder
from streams.embedding.model import Model, OneModel
from streams.embedding.replies import Replies as WorkerReplies
from streams.embedding.results import EmbedWork
from streams.embedding.stage import EmbedStage
from streams.publisher import Receipt
from streams.records import Outgoing
from streams.refusals import Refusals
from streams.scoring.similarity import SimilarityScorer
from streams.settings import Settings, load
from streams.testing import DeterministicEmbedder, PublishedRecord

CODEC = Codec()
#: The scorer of `Loopback`, and the labels it knows.
SCORER, LABELS = "mood", {"good": ["I am glad."], "bad": ["I am sad."]}


def broken(row: np.ndarray) -> np.ndarray:
    """What the model makes of a text with the word poison: no numbers."""
    return row * np.nan


class Loopback:
    """Publisher, brokers and worker in one."""

    def __init__(self, settings: Settings, embedder: Embedder | None = None) -> None:
        """`embedder` may be replaced at any time, as a model is switched."""
        self._settings = settings
        self.serve(embedder or DeterministicEmbedder({"poison": broken}))
        #: Everything published, in order; replies are not among it.
        self.published: list[Outgoing] = []
        #: What the worker published, by topic.
        self.came: dict[str, list[PublishedRecord]] = defaultdict(list)
        #: While cleared, records are taken but not answered.
        self.working = asyncio.Event()
        self.working.set()
        #: Whether a broker is there.
        self.up = True
        self.bridge: Bridge
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, embedder: Embedder) -> None:
        """Switches to another model."""
        scorers = {SCORER: SimilarityScorer(SCORER, LABELS, embedder)}
        models = OneModel(Model(embedder, scorers))
        replies = WorkerReplies(CODEC, topics.for_replies(self._settings), models)
        topic = self._settings.topic_embeddings
        self._stage = EmbedStage(models, CODEC, topic, publish_text=True, replies=replies)
        self._refusals = Refusals(DeadLetters(self._settings.topic_dead_letters, "group"), replies)

    async def publish(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]:
        """As KafkaPublisher's."""
        return (await self.post(records))[1]

    async def post(self, records: Sequence[Outgoing]) -> tuple[Mapping[int, Receipt], Mapping[int, Reject]]:
        """As KafkaPublisher's."""
        while not self.up:
            await asyncio.sleep(0.01)
        first = len(self.published)
        self.published += records
        task = asyncio.get_running_loop().create_task(self._work(first, records))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return {n: Receipt(0, first + n) for n in range(len(records))}, {}

    async def partitions(self, topic: str) -> int:
        """One of each topic."""
        return 1

    async def _work(self, first: int, records: Sequence[Outgoing]) -> None:
        await self.working.wait()
        now = int(time.time() * 1000)
        asked = [
            PublishedRecord(each.topic, 0, first + n, now, each.key, each.value, tuple(each.headers))
            for n, each in enumerate(records)
        ]
        done = self._stage.prepare(asked)
        works = [each for each in done if isinstance(each, EmbedWork)]
        ran = dict(zip(map(id, works), self._stage.run(works), strict=True)) if works else {}
        came: dict[str, list[PublishedRecord]] = defaultdict(list)
        for record, each in zip(asked, done, strict=True):
            result = ran.get(id(each), each)
            made = self._refusals.make(record, result, 1) if isinstance(result, Reject) else result
            assert isinstance(made, list)
            for out in made:
                fields = (out.topic, 0, 0, now, out.key, out.value, tuple(out.headers))
                came[out.topic].append(PublishedRecord(*fields))
                self.came[out.topic].append(PublishedRecord(*fields))
        await self.bridge.replies._take(came[self._settings.topic_replies])
        await self.bridge.kept._keep(came[self._settings.topic_kept_replies])

    def asked_for(self) -> list[Any]:
        """The headers of what was published, parsed."""
        return [parse_request(record.headers) for record in self.published]


@asynccontextmanager
async def looped_back(embedder: Embedder | None = None, **settings: Any) -> AsyncIterator[tuple[Bridge, Loopback]]:
    """A bridge over a Loopback that has heard one answer already."""
    bridge = Bridge(load(**settings), CODEC)
    loopback = Loopback(bridge.settings, embedder)
    loopback.bridge = bridge
    bridge.publisher = loopback  # type: ignore[assignment]
    bridge.replies = Replies(bridge.settings, {}, CODEC, loopback, bridge.metrics)  # type: ignore[arg-type]
    bridge.replies._partition = 0
    bridge.batches = Batches(bridge.settings, bridge.replies)
    await bridge.replies.probe()
    loopback.published.clear()
    yield bridge, loopback


@asynccontextmanager
async def client(bridge: Bridge, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a bridge's application, without a server between them."""
    transport = httpx2.ASGITransport(create(bridge), raise_app_exceptions=True)
    async with httpx2.AsyncClient(transport=transport, base_url="http://bridge", **options) as http:
        yield http
