"""Training scorers: `sentence-streams models train` here and now, `sentence-streams trainer` on request."""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from agents.app import Worker
from agents.clients import broker, codec, connection
from agents.console import CONSOLE, Voice, plural, print_json, remark
from agents.embed import checked_embedder
from agents.runs import TOPIC, unusable
from agents.switching import read as commands
from schemas.errors import StreamsError
from schemas.records import ModelKind, TrainingRequest
from streams.cache import open_cache
from streams.lanes import Lane, LaneName
from streams.models.artifacts import ArtifactStore
from streams.models.catalog import Catalog
from streams.models.datasets import Columns, Dataset, UnusableLabels, read, read_topic
from streams.models.objects import default_place, open_store
from streams.models.runs import Outcome, StoreNotes, Watch, carried_out
from streams.models.stage import TrainStage
from streams.models.training import CannotTrain, Recipe
from streams.models.vectors import Vectoriser
from streams.observe.metrics import Metrics
from streams.ranges import Bound, resolve
from streams.scoring.loader import NAME
from streams.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train, on what, and how."""

    scorer: str
    #: A file, an object URL, or `topic:NAME`.
    source: str
    start: Bound
    end: Bound
    columns: Columns
    recipe: Recipe


def run(settings: Settings, job: Job, *, as_json: bool) -> int:
    """Trains a scorer and prints its version's digest. Raises UnusableLabels, CannotTrain, ModelError, and others."""
    check(job)
    dataset = dataset_of(settings, job)
    for warning in dataset.warnings:
        remark(f"warning: {warning}")
    counted = ", ".join(f"{count:,} {label}" for label, count in dataset.counts.items())
    remark(f"{plural(len(dataset.texts), 'sentence')}: {counted}")
    with vectoriser(settings) as vectors, CONSOLE.progress("training", len(dataset.texts)) as advance:
        watch = Watch(lambda what, done, _total: advance(done, done) if what == "embedding" else None)
        artifacts = ArtifactStore.at(settings.artifacts)
        outcome = carried_out(dataset, job.recipe, vectors, artifacts, in_service(settings, job.scorer), watch)
    note(settings, job.scorer, outcome)
    if as_json:
        print_json(outcome.as_json())
    else:
        tell(outcome)
        sys.stdout.write(f"{outcome.digest}\n")
    return 0


def check(job: Job) -> None:
    """Raises CannotTrain where nothing could be called that."""
    if not NAME.fullmatch(job.scorer):
        raise CannotTrain(f"{job.scorer!r}: a scorer's name is letters, digits and . _ -, at most 64")


def dataset_of(settings: Settings, job: Job) -> Dataset:
    """Reads the labelled sentences. Raises UnusableLabels, UnknownTopic, NothingComes, BrokerUnreachable."""
    if not job.source.startswith(TOPIC):
        return read(job.source, job.columns)
    ranges = resolve(broker(settings), job.source.removeprefix(TOPIC), job.start, job.end)
    with codec(settings) as coder:
        return asyncio.run(read_topic(connection(settings), coder, ranges, job.columns.label))


@contextmanager
def vectoriser(settings: Settings) -> Iterator[Vectoriser]:
    """Yields what embeds data sets: with the settings' model, the cache of the workers, and the artifacts' store."""
    place = settings.artifacts or default_place()
    cache = open_cache(settings, Metrics())
    with closing(cache) if cache else nullcontext():
        yield Vectoriser(checked_embedder(settings), cache, StoreNotes(open_store(place), place))


def in_service(settings: Settings, scorer: str) -> str | None:
    """The digest of a scorer's version in service; None where there is none, or nobody can be asked."""
    try:
        broker(settings)
        with codec(settings) as coder:
            active = asyncio.run(commands(settings, coder)).state(ModelKind.SCORER, scorer).active
    except StreamsError as error:
        remark(f"not compared with the version in service: {error}")
        return None
    return active.source if active else None


def note(settings: Settings, scorer: str, outcome: Outcome) -> None:
    """Notes the version in the catalog, where it can be reached."""
    try:
        with closing(Catalog.open(settings.database_url).database) as database:
            Catalog(database).add_version("scorer", scorer, outcome.digest, outcome.manifest)
    except StreamsError as error:
        remark(f"not in the catalog: {error}")


def tell(outcome: Outcome, voice: Voice = CONSOLE) -> None:
    """Says how good it is, for people."""
    metrics, comparison = outcome.manifest.metrics, outcome.comparison
    figures = ("accuracy", "macro_f1", "log_loss", "ece")
    voice.remark("cross-validated: " + ", ".join(f"{name} {metrics[name]:.3f}" for name in figures))
    if "error" in comparison:
        voice.remark(f"not compared with the version in service: {comparison['error']}")
    elif comparison:
        seen = ", which it has seen all of" if comparison["same_data"] else ""
        voice.remark(
            f"version {comparison['active'][:12]} in service: accuracy {comparison['accuracy']:.3f} "
            f"on these sentences{seen}; the two agree on {comparison['agreement']:.1%}"
        )


# -- the trainer ----------------------------------------------------------------------------------------------


class CatalogRuns:
    """Notes runs in the catalog; where that is away the log says so, and training goes on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._catalog = Catalog.open(settings.database_url)

    def status(self, run: str) -> str | None:
        try:
            return str(self._catalog.run(run)["status"])
        except StreamsError:
            return None

    def note(self, request: TrainingRequest, **changes: Any) -> None:
        try:
            self._catalog.begin_run(request.id, request.scorer, asdict(request))
            self._catalog.update_run(request.id, **changes)
        except StreamsError as error:
            log.warning("run-not-in-catalog", run=request.id, error=str(error), **changes)

    def add(self, request: TrainingRequest, outcome: Outcome) -> None:
        note(self._settings, request.scorer, outcome)


def trainer(settings: Settings) -> None:
    """Trains what `sentence.training` asks for until it is told to leave; raises StreamsError where it cannot start."""
    with vectoriser(settings) as vectors:
        asyncio.run(serve(settings, vectors))


async def serve(settings: Settings, vectors: Vectoriser) -> None:
    """Joins a group of its own on the requests; one run at a time, in a thread."""
    lane = Lane(LaneName.BULK, settings.topic_training, patience=0.0)
    with codec(settings) as records:

        def going_on() -> bool:
            worker.pipeline.progressed = time.monotonic()
            return not worker.health.leaving

        def train(request: TrainingRequest, watch: Watch) -> Outcome:
            return requested(settings, vectors, request, watch)

        stage = TrainStage(records, train, CatalogRuns(settings), going_on)
        worker = Worker(settings, f"{settings.group}-train", [lane], stage, records, Metrics(), budget=1)
        await worker.run()


def requested(settings: Settings, vectors: Vectoriser, request: TrainingRequest, watch: Watch) -> Outcome:
    """Carries out a request. Raises what `run` does, Stopped, and UnusableLabels for a file of this machine."""
    if (expected := unusable(request.source)) is not None:
        raise UnusableLabels(f"{request.source}: {expected}")
    try:
        start, end = Bound.parse(request.start), Bound.parse(request.end)
    except ValueError:
        raise UnusableLabels(f"{request.start} to {request.end}: expected offsets, or times as in 2025-01-31") from None
    job = Job(
        scorer=request.scorer,
        source=request.source,
        start=start,
        end=end,
        columns=Columns(request.text, request.label),
        recipe=Recipe(str(request.head), request.regularisation, request.folds, request.seed),  # type: ignore[arg-type]
    )
    check(job)
    dataset, active = dataset_of(settings, job), in_service(settings, job.scorer)
    return carried_out(dataset, job.recipe, vectors, ArtifactStore.at(settings.artifacts), active, watch)
