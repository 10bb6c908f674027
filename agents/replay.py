"""`sentence-streams replay`: old records once more, in a lane of their own, as fast as live traffic lets them."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from confluent_kafka.admin import AdminClient

from agents import transfers
from agents.clients import broker, codec, connection, request_topics
from agents.console import CONSOLE, Voice, plural, print_json, remark
from schemas.codec import Codec
from schemas.errors import StreamsError
from schemas.records import Embedding, ModelKind
from streams import topics
from streams.brokers.admin import provision
from streams.embedding.loader import own
from streams.embedding.model import Model, OneModel
from streams.embedding.stage import EmbedStage
from streams.lanes import LaneName
from streams.models.routing import Routing
from streams.ranges import BEGINNING, END, PATIENCE, Range, Ranges, UnknownTopic, lag, resolve, scan, size
from streams.records import Record, TopicPartition
from streams.replay import Counts, InProcess, Plan, Selection, Yielding, copier, following, survey
from streams.scoring.pool import ScorerPool
from streams.scoring.scorer import Scorer
from streams.scoring.stage import ScoreStage
from streams.settings import TOPICS, Settings
from streams.transfer import Convert, Pace, Tally, Transfer, resume

#: What a run may be called.
NAME = re.compile(r"[a-zA-Z0-9._-]{1,64}")


class NotForReplay(StreamsError):
    """These records cannot be replayed like that; the message says what can be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to replay, and how."""

    selection: Selection
    #: Tells apart two replays of the same selection.
    name: str | None
    #: Score embeddings again, here, instead of sending requests to the replay lane.
    rescore: bool
    #: Embed with this model, here, into a topic of its own; both or neither.
    model: str | None
    output: str | None
    rate: float
    max_live_lag: int
    execute: bool

    @property
    def mark(self) -> str:
        """The part of the checkpoint's name that is this replay's own."""
        mark = self.selection.checkpoint("score" if self.rescore else None, self.model, self.output)
        return mark if self.name is None else f"{mark}-{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A replay that was planned: what earlier runs left of its ranges, and what is in there."""

    admin: AdminClient
    #: Whose committed offsets are its checkpoint.
    group: str
    ranges: Ranges
    #: How far the plan has read.
    ends: Mapping[TopicPartition, int]
    #: How many offsets earlier runs went through.
    done: int
    plan: Plan


def run(settings: Settings, job: Job, *, as_json: bool) -> int:
    """Says what would be replayed or does it, and returns the exit code.

    Raises NotForReplay, UnknownTopic, TakenOver, ModelError, BrokerUnreachable or BrokerRefused.
    """
    try:
        return _run(settings, job, as_json=as_json)
    except KeyboardInterrupt:
        remark("interrupted: the same command goes on where this one ended")
        return 130


def target(settings: Settings, job: Job) -> str:
    """Returns the topic that a replay writes to."""
    if job.rescore:
        return settings.topic_scores
    return job.output or settings.topic_replay


def _check(settings: Settings, job: Job) -> None:
    topic = job.selection.topic
    if job.rescore and topic != settings.topic_embeddings:
        raise NotForReplay(f"--re-score reads embeddings: expected the topic {settings.topic_embeddings}, got {topic}")
    results = {settings.topic_embeddings, settings.topic_scores, settings.topic_quarantine}
    results |= topics.for_replies(settings)
    if not job.rescore and topic in results:
        raise NotForReplay(f"{topic} holds results: replay a request topic, or score embeddings again with --re-score")
    if topic == settings.topic_replay:
        raise NotForReplay(f"{topic} is the replay lane itself: replay the topic that the records were first sent to")
    if job.output in {topic, *(getattr(settings, name) for name in TOPICS)}:
        raise NotForReplay(f"--output-topic: expected a topic of its own, {job.output} has another purpose")


def _run(settings: Settings, job: Job, *, as_json: bool) -> int:
    prepared = prepare(settings, job)
    _tell_plan(prepared.plan, job, target(settings, job), prepared.done)
    tally = None
    if job.execute and prepared.ranges:
        transfers.require(prepared.admin, target(settings, job) if job.output is None else None)
        started = time.monotonic()
        with codec(settings) as coder:
            replay = Replay(settings, job, prepared, _converter(settings, prepared.admin, job, coder))
            tally = transfers.interruptible(replay.run)
        transfers.tell(tally, what="record", to=target(settings, job), seconds=time.monotonic() - started)
    if as_json:
        print_json(as_json_of(prepared.plan, job, tally))
    return transfers.exit_code(tally) if tally else 0


def prepare(settings: Settings, job: Job, voice: Voice = CONSOLE) -> Prepared:
    """Reads what a replay would send; blocks. Raises what `run` does."""
    _check(settings, job)
    admin, selection = broker(settings), job.selection
    group = f"{settings.group}-replay-{job.mark}"
    whole = resolve(admin, selection.topic, selection.start, selection.end)
    ranges, done = transfers.unfinished(admin, group, whole)
    ends = {tp: each.end for tp, each in resolve(admin, selection.topic, BEGINNING, END).items()}
    plan = asyncio.run(_survey(settings, selection, ranges, whole, ends, voice))
    return Prepared(admin=admin, group=group, ranges=ranges, ends=ends, done=done, plan=plan)


async def _survey(
    settings: Settings,
    selection: Selection,
    ranges: Ranges,
    whole: Ranges,
    ends: Mapping[TopicPartition, int],
    voice: Voice,
) -> Plan:
    reading = dict(ranges)
    if not selection.include_superseded and ranges:  # what supersedes a record can be anywhere behind it
        reading = {tp: Range(ranges[tp].start if tp in ranges else each.end, ends[tp]) for tp, each in whole.items()}
    with voice.progress(f"reading {selection.topic}", size(reading)) as advance:
        async with aclosing(scan(connection(settings), reading)) as batches:
            return await survey(batches, selection, ranges, advance)


class Replay:
    """Moves what a plan found."""

    def __init__(
        self, settings: Settings, job: Job, prepared: Prepared, convert: Convert, voice: Voice = CONSOLE
    ) -> None:
        self._settings, self._job, self._prepared = settings, job, prepared
        self._convert, self._voice = convert, voice

    async def run(self, stop: asyncio.Event) -> Tally:
        """Moves the records until the end, or until it is to stop. Raises TakenOver."""
        settings, job, link = self._settings, self._job, connection(self._settings)
        prepared = self._prepared
        live = Yielding(self._live_lag, job.max_live_lag, stop, self._paused)
        out = transfers.publisher(settings, prepared.group)
        superseded = job.selection.include_superseded
        news = nullcontext(_nothing) if superseded else following(link, prepared.plan.latest, prepared.ends)
        with self._voice.progress(target(settings, job), size(prepared.ranges)) as advance:
            async with news as check:

                async def gate() -> None:
                    check()
                    await live()

                transfer = Transfer(out, self._pick, self._convert, Pace(job.rate), stop, gate=gate, advance=advance)
                return await resume(transfer, out, link, prepared.admin, prepared.group, prepared.ranges)

    def _pick(self, record: Record) -> bool | str:
        return self._prepared.plan.pick(self._job.selection, record)

    def _live_lag(self) -> int:
        live = request_topics(self._settings)
        return lag(self._prepared.admin, self._settings.group, [live[LaneName.BULK], live[LaneName.INTERACTIVE]])

    def _paused(self, lag: int) -> None:
        most = self._job.max_live_lag
        self._voice.remark(f"paused while live traffic lags: {lag:,} records, --max-live-lag is {most:,}")


def _nothing() -> None:
    """Stands for the check on what is written meanwhile, where that does not matter."""


def _converter(settings: Settings, admin: AdminClient, job: Job, coder: Codec) -> Convert:
    if job.rescore:
        from agents.score import BATCH
        from agents.switching import read

        routing = asyncio.run(read(settings, coder))
        quarantined = asyncio.run(_quarantined(settings, admin))
        return InProcess(scoring(settings, coder, routing, quarantined.__contains__), BATCH)
    if job.model is None or job.output is None:
        return copier(settings.topic_replay)
    from agents.embed import checked_embedder

    revision = settings.model_revision if job.model == settings.model else None
    embedder = checked_embedder(settings.model_copy(update={"model": job.model, "model_revision": revision}))
    _provide(settings, admin, job.output)
    stage = EmbedStage(OneModel(Model(embedder)), coder, job.output, publish_text=settings.publish_text)
    return InProcess(stage, settings.token_budget or embedder.token_budget)


def scoring(settings: Settings, coder: Codec, routing: Routing, settles: Callable[[bytes], bool]) -> ScoreStage:
    """The scorers that answer in the stream now, for each model that is served; `settles` as in `ScoreStage`.

    Raises NotForReplay where one is quarantined or cannot be loaded, ModelError, ScorerFileError.
    """
    from agents.score import made
    from agents.scorers import trained

    digest, ours = made(settings, own(settings))
    others = [made(settings, model) for model in routing.targets(ModelKind.EMBEDDER)]
    by_model = {**dict(others), digest: ours}
    pool = ScorerPool(ours, partial(trained, settings))
    if not pool.follow(routing):
        raise NotForReplay("a version that commands name cannot be loaded here; the log says which, and why")
    _check_trusted(pool, routing)

    def scorers_of(embedding: Embedding) -> Mapping[str, Scorer]:
        model = embedding.weights_digest
        return pool.of(model, embedding.sentence_id, by_model.get(model, ours))

    topics = settings.topic_scores, settings.topic_quarantine
    return ScoreStage(pool, coder, *topics, settles=settles, scorers_of=scorers_of)


def _check_trusted(scorers: Iterable[str], routing: Routing) -> None:
    """Raises NotForReplay where a scorer is quarantined: its scores are for nobody until a person resumes it."""
    for name in scorers:
        if (state := routing.state(ModelKind.SCORER, name)).quarantined:
            how = f"`sentence-streams models resume scorer:{name} --why ...` first, or configure it no more"
            raise NotForReplay(f"scorer {name} is quarantined ({state.reason}): {how}")


async def _quarantined(settings: Settings, admin: AdminClient) -> set[bytes]:
    """Keys of the scores that lie in quarantine."""
    keys: set[bytes] = set()
    try:
        ranges = resolve(admin, settings.topic_quarantine, BEGINNING, END)
    except UnknownTopic:
        return keys
    async with aclosing(scan(connection(settings), ranges)) as batches:
        async for batch in batches:
            for record in batch.records:
                if record.key is not None:
                    (keys.discard if record.value is None else keys.add)(record.key)
    return keys


def _provide(settings: Settings, admin: AdminClient, topic: str) -> None:
    """Makes a topic like that of the embeddings, where there is none."""
    if topic not in admin.list_topics(timeout=PATIENCE).topics:
        (like,) = (spec for spec in topics.specs(settings) if spec.name == settings.topic_embeddings)
        for done in provision(admin, [replace(like, name=topic)]):
            remark(str(done))


# -- what is told ---------------------------------------------------------------------------------------------


def _tell_plan(plan: Plan, job: Job, to: str, done: int) -> None:
    total = plan.total
    remark(f"{job.selection.topic} from {job.selection.start} to {job.selection.end}:")
    for partition, counts in sorted(plan.partitions.items()):
        remark(f"  partition {partition}: {_counted(counts)}")
    verb = "replaying" if job.execute else "would replay"
    took = transfers.duration(total.moving / job.rate)
    remark(f"{verb} {plural(total.moving, 'record')} to {to}; at {job.rate:g}/s {took}")
    if total.superseded:
        remark("superseded: the key has a newer record or was deleted; --include-superseded sends them all the same")
    if done:
        remark("earlier runs of this replay went through the rest; --name starts a new one")
    if not job.execute:
        remark("nothing was sent: --execute does it")


def _counted(counts: Counts) -> str:
    return (
        f"{plural(counts.records, 'record')}, {counts.chosen:,} selected, "
        f"{counts.superseded:,} of them superseded, {counts.reply_only:,} for their caller only"
    )


def as_json_of(plan: Plan, job: Job, tally: Tally | None) -> dict[str, Any]:
    """Returns the plan, and what became of it, as `--json` has them."""
    total = plan.total
    return {
        "partitions": {str(n): {**asdict(counts), "moving": counts.moving} for n, counts in plan.partitions.items()},
        "total": {**asdict(total), "moving": total.moving},
        "seconds": total.moving / job.rate,
        "executed": None if tally is None else transfers.as_json(tally),
    }
