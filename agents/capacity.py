"""`sentence-streams capacity`: what one worker and one scorer do on this machine, and what follows for the autoscaler.

The real pipeline runs with the configured model on sentences from a file; results go nowhere. A broker is not needed:
beside a model, fetching and publishing cost next to nothing.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

from agents.console import print_json, table, waiting
from agents.embed import checked_embedder, configured_scorers
from agents.score import BATCH
from schemas.codec import Codec
from schemas.errors import Reject, StreamsError
from schemas.records import Sentence
from streams.dead_letters import DeadLetters
from streams.embedding.embedder import Embedder
from streams.embedding.model import Model, OneModel
from streams.embedding.stage import EmbedStage
from streams.lanes import Lane, LaneName
from streams.observe.metrics import Metrics
from streams.pipeline import Pipeline
from streams.records import Outgoing, TopicPartition
from streams.refusals import Refusals
from streams.scoring.stage import ScoreStage
from streams.settings import Settings
from streams.stage import Stage
from streams.testing import PublishedRecord

#: Seconds before anything is counted: the first batches are slower than all others.
WARM_UP = 1.0
#: Records of one fetch, as the transport hands them over.
FETCH = 256
#: Embeddings kept of what the worker made, for the scorer to score.
KEPT = 2_000
#: Trigger of a ScaledObject -> seconds that a record may wait before another replica is worth its rebalance.
TARGETS = {"bulk": 60, "interactive": 5, "replay": 300, "embeddings": 30}
#: What of a rate is printed, and how exactly.
DIGITS = {"records_per_second": 0, "tokens_per_second": 0, "processors": 1}
#: The backlog, and the replicas that share it, in the table of drain times.
BACKLOG, REPLICAS = 1_000_000, (1, 4, 8, 24)


class NothingToMeasure(StreamsError):
    """The file holds no sentence."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one process does when it is busy."""

    records_per_second: float
    tokens_per_second: float
    #: It had so many of them on average; fewer than the model's threads where other programs took their share.
    processors: float

    def threshold(self, seconds: float) -> int:
        """Returns the lag that one process drains in so many seconds, to two digits: measuring gives no more."""
        return max(1, int(float(f"{self.records_per_second * seconds:.1e}")))


def run(settings: Settings, sentences: Path | None, *, seconds: float, as_json: bool) -> int:
    """Measures for so many seconds each, and prints what to write into keda/; raises StreamsError."""
    texts = _texts(sentences)
    with waiting("measuring") as say:
        say("loading the model")
        embedder = checked_embedder(settings)
        worker, scorer = asyncio.run(_measure(settings, embedder, texts, seconds, say))
    found = {
        "model": embedder.identity.name,
        "revision": embedder.identity.revision,
        "precision": embedder.identity.precision,
        "model_threads": embedder.concurrency,
        "mean_tokens": round(worker.tokens_per_second / worker.records_per_second, 1),
        "worker": asdict(worker),
        "scorer": asdict(scorer),
        "lag_thresholds": {name: _of(name, worker, scorer).threshold(wait) for name, wait in TARGETS.items()},
        "drain_seconds": {str(n): round(BACKLOG / (n * worker.records_per_second)) for n in REPLICAS},
    }
    print_json(found) if as_json else _print(found)
    return 0


def _of(trigger: str, worker: Rate, scorer: Rate) -> Rate:
    return scorer if trigger == "embeddings" else worker


def _texts(path: Path | None) -> list[str]:
    sample = files("agents") / "samples" / "sentences.txt"
    lines = (path or sample).read_text(encoding="utf-8").splitlines()
    texts = [line for line in dict.fromkeys(lines) if line.strip()]
    if not texts:
        raise NothingToMeasure(f"{path}: expected a sentence a line")
    return texts


async def _measure(
    settings: Settings, embedder: Embedder, texts: Sequence[str], seconds: float, say: Any
) -> tuple[Rate, Rate]:
    codec = Codec()
    values = [codec.encode(Sentence(id=str(n), text=text), settings.topic_requests) for n, text in enumerate(texts)]
    stage = EmbedStage(OneModel(Model(embedder)), codec, settings.topic_embeddings, publish_text=settings.publish_text)
    say("measuring a worker")
    budget = settings.token_budget or embedder.token_budget
    worker, made = await _busy(stage, settings, settings.topic_requests, values, budget, seconds)
    say("measuring a scorer")
    scoring = ScoreStage(
        configured_scorers(settings, embedder), codec, settings.topic_scores, settings.topic_quarantine
    )
    scorer, _ = await _busy(scoring, settings, settings.topic_embeddings, made, BATCH, seconds)
    return worker, scorer


async def _busy(
    stage: Stage[Any], settings: Settings, topic: str, values: Sequence[bytes], budget: int, seconds: float
) -> tuple[Rate, list[bytes]]:
    """Keeps a pipeline busy with these values, again and again; returns its rate and some of what it published."""
    crash: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    metrics, sink = Metrics(), _Sink()

    def crashed(error: BaseException) -> None:
        if not crash.done():
            crash.set_exception(error)

    pipeline = Pipeline(
        stage,
        [Lane(LaneName.BULK, topic, patience=0.0)],
        sink,
        Refusals(DeadLetters(settings.topic_dead_letters, "capacity"), None).make,
        metrics,
        budget=budget,
        max_records=settings.queue_records,
        max_bytes=settings.queue_bytes,
        on_crash=crashed,
    )
    await pipeline.start()
    feeding = asyncio.get_running_loop().create_task(_feed(pipeline, TopicPartition(topic, 0), values))
    try:
        await asyncio.wait({crash, feeding}, timeout=WARM_UP, return_when=asyncio.FIRST_COMPLETED)
        before, started = _done(metrics, stage.name), time.monotonic()
        await asyncio.wait({crash, feeding}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        after, took = _done(metrics, stage.name), time.monotonic() - started
        if crash.done():
            await crash
        if feeding.done():
            await feeding
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        pipeline.suspend()
        await pipeline.drain(settings.drain_timeout)  # else a batch would end after the event loop
        await pipeline.stop()
    return Rate(*(round((late - early) / took, 2) for early, late in zip(before, after, strict=True))), sink.kept


async def _feed(pipeline: Pipeline[Any], tp: TopicPartition, values: Sequence[bytes]) -> None:
    pipeline.assign({tp: 0})
    records = _records(tp, cycle(values))
    for offset in count(FETCH, FETCH):
        await pipeline.room(tp.topic)
        await pipeline.accept(pipeline.epoch, {tp: list(islice(records, FETCH))}, {tp: offset})


def _records(tp: TopicPartition, values: Iterable[bytes]) -> Iterator[PublishedRecord]:
    for offset, value in enumerate(values):
        yield PublishedRecord(*tp, offset, 0, b"%d" % offset, value, ())


def _done(metrics: Metrics, stage: str) -> tuple[float, float, float]:
    """Records and tokens that went through the model so far, and seconds of all processors."""
    value = metrics.registry.get_sample_value
    records = value("streams_batch_rows_sum", {"stage": stage}) or 0.0
    return records, value("streams_batch_tokens_total", {"stage": stage, "kind": "text"}) or 0.0, time.process_time()


class _Sink:
    """A publisher that gives a receipt for everything and keeps next to nothing."""

    atomic = False

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Does nothing."""

    async def deliver(self, records: Sequence[Outgoing], source: TopicPartition, position: int) -> Mapping[int, Reject]:
        """As `publish`."""
        return await self.publish(records)

    async def publish(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]:
        """Refuses nothing."""
        if len(self.kept) < KEPT:
            self.kept += [record.value for record in records if record.value is not None]
        return {}


def _row(name: str, rate: Mapping[str, float]) -> tuple[str, ...]:
    return (name, *(f"{rate[field]:.{digits}f}" for field, digits in DIGITS.items()))


def _print(found: Mapping[str, Any]) -> None:
    worker, scorer = found["worker"], found["scorer"]
    table(
        ("", "records a second", "tokens a second", "processors it had"),
        [_row("one worker", worker), _row("one scorer", scorer)],
    )
    table(
        ("trigger in keda/", "a record waits at most", "lagThreshold"),
        [(name, f"{TARGETS[name]} s", str(lag)) for name, lag in found["lag_thresholds"].items()],
    )
    table(
        ("workers", f"seconds to drain {BACKLOG:,}"),
        [(str(workers), str(seconds)) for workers, seconds in found["drain_seconds"].items()],
    )
