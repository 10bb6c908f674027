"""`sentence-streams dead-letters redrive`: dead letters once more, through the replay lane."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from confluent_kafka.admin import AdminClient

from agents import transfers
from agents.clients import broker, codec, connection
from agents.console import CONSOLE, Voice, plural, print_json, remark, waiting
from agents.dead_letters import one, ranges_of
from schemas.codec import Codec
from schemas.errors import Reject, StreamsError
from streams.latest import Latest
from streams.ranges import BEGINNING, END, Range, Ranges, UnknownTopic, resolve, scan, size
from streams.records import TopicPartition
from streams.redrive import Left, Plan, Selection, converter, decide, newest, survey
from streams.settings import Settings
from streams.transfer import Pace, Tally, Transfer, resume

#: What to do about dead letters that a redrive leaves where they are.
ADVICE = {
    Left.PARKED: "redriven as often as --max-attempts allows; name their places and a higher --max-attempts to insist",
    Left.SUPERSEDED: "their key has a newer record or was deleted; --include-superseded sends them all the same",
    Left.REPLY_ONLY: "their results were for a caller who has gone",
    Left.NO_REQUEST: "not requests: `replay --re-score` scores embeddings again",
    Left.FOREIGN: "without the headers that this product writes",
}


class NotOne(StreamsError):
    """A text can be set on one dead letter only; the selection has another number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to redrive, and how."""

    selection: Selection
    #: Text for the one selected record.
    text: str | None
    limit: int | None
    rate: float
    max_attempts: int
    include_superseded: bool
    execute: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A redrive that was planned: what earlier runs left, and what of it to send."""

    admin: AdminClient
    #: Whose committed offsets are its checkpoint.
    group: str
    #: How many offsets earlier runs went through.
    done: int
    plan: Plan


def run(settings: Settings, job: Job, *, as_json: bool) -> int:
    """Says what would be redriven or does it, and returns the exit code. Raises NotOne, TakenOver and others."""
    try:
        with codec(settings) as coder:
            return _run(settings, job, coder, as_json=as_json)
    except KeyboardInterrupt:
        remark("interrupted: the same command goes on where this one ended")
        return 130


def _run(settings: Settings, job: Job, coder: Codec, *, as_json: bool) -> int:
    with waiting("reading the dead letters"):
        prepared = prepare(settings, job, coder)
    plan = prepared.plan
    _tell_plan(plan, job, settings, prepared.done)
    tally = None
    if job.execute and plan.ranges:
        transfers.require(prepared.admin, settings.topic_replay)
        started = time.monotonic()
        tally = transfers.interruptible(lambda stop: execute(settings, job, prepared, coder, stop))
        transfers.tell(tally, what="dead letter", to=settings.topic_replay, seconds=time.monotonic() - started)
    if as_json:
        print_json(as_json_of(plan, tally))
    return transfers.exit_code(tally) if tally else 0


def prepare(settings: Settings, job: Job, coder: Codec) -> Prepared:
    """Reads what a redrive would send; blocks. Raises what `run` does."""
    admin = broker(settings)
    group = f"{settings.group}-redrive-{job.selection.checkpoint(job.text)}"
    ranges, done = transfers.unfinished(admin, group, ranges_of(admin, settings, job.selection))
    plan = asyncio.run(_plan(settings, admin, job, ranges))
    if job.text is not None and not (done and not plan.selected):
        _check_edit(settings, job.text, plan, coder)
    return Prepared(admin=admin, group=group, done=done, plan=plan)


async def _plan(settings: Settings, admin: AdminClient, job: Job, ranges: Ranges) -> Plan:
    link = connection(settings)
    async with aclosing(scan(link, ranges)) as batches:
        candidates = await survey(batches, job.selection, job.max_attempts, settings.topic_embeddings)

    def ends(topic: str) -> Ranges:
        try:
            return resolve(admin, topic, BEGINNING, END)
        except UnknownTopic:
            return {}

    latest: dict[str, Latest] = {} if job.include_superseded else await newest(link, candidates, ends)
    return decide(candidates, latest, ranges, job.limit)


def _check_edit(settings: Settings, text: str, plan: Plan, coder: Codec) -> None:
    if len(plan.selected) != 1:
        raise NotOne(f"--set-text: expected one dead letter that can be redriven, there are {len(plan.selected):,}")
    (place,) = plan.selected
    only = {TopicPartition(settings.topic_dead_letters, place.partition): Range(place.offset, place.offset + 1)}
    (result,) = converter(settings.topic_replay, text, coder)([asyncio.run(one(settings, only, place))])
    if isinstance(result, Reject):
        raise StreamsError(f"--set-text: {place}: {result}")


async def execute(
    settings: Settings, job: Job, prepared: Prepared, coder: Codec, stop: asyncio.Event, voice: Voice = CONSOLE
) -> Tally:
    """Sends what was planned until the end, or until it is to stop. Raises TakenOver."""
    plan, out = prepared.plan, transfers.publisher(settings, prepared.group)
    with voice.progress(settings.topic_replay, size(plan.ranges)) as advance:
        transfer = Transfer(
            out,
            lambda record: (record.partition, record.offset) in plan.selected,
            converter(settings.topic_replay, job.text, coder),
            Pace(job.rate),
            stop,
            advance=advance,
        )
        return await resume(transfer, out, connection(settings), prepared.admin, prepared.group, plan.ranges)


def _tell_plan(plan: Plan, job: Job, settings: Settings, done: int) -> None:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in plan.reasons.most_common())
    verb = "redriving" if job.execute else "would redrive"
    seconds = len(plan.selected) / job.rate
    remark(
        f"{verb} {plural(len(plan.selected), 'dead letter')} to {settings.topic_replay}"
        f"{f': {counts}' if counts else ''}; at {job.rate:g}/s {transfers.duration(seconds)}"
    )
    for why, places in plan.left.items():
        remark(f"left: {len(places):,} {why}: {ADVICE[why]}: {transfers.listed(places)}")
    if done:
        remark("earlier runs of this selection went through the rest; nothing is redriven twice")
    if not job.execute:
        remark("nothing was sent: --execute does it")


def as_json_of(plan: Plan, tally: Tally | None) -> dict[str, Any]:
    """Returns the plan, and what became of it, as `--json` has them."""
    return {
        "selected": len(plan.selected),
        "reasons": plan.reasons,
        "left": {why: [str(place) for place in places] for why, places in plan.left.items()},
        "executed": None if tally is None else transfers.as_json(tally),
    }
