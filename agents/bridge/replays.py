"""`/v1/replays`: what `sentence-streams replay` does, for whoever may: see what would be sent, send it, stop it."""

from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import Path, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agents import replay, transfers
from agents.bridge import fields
from agents.bridge.calls import Call
from agents.bridge.endpoints import COMMON, READING, ReplayCall, router_of
from agents.bridge.operations import Operation, OperationResponse, blocking, silent
from agents.bridge.problems import Kind, documented
from agents.consume import known
from streams.ranges import Bound
from streams.replay import Selection, copier

router = router_of("Replays")

#: What asking the brokers can end in.
ASKED = (Kind.UNAVAILABLE, Kind.DEADLINE, Kind.NOT_FOUND)


def _bound(text: str) -> str:
    try:
        Bound.parse(text)
    except ValueError:
        raise ValueError("expected beginning, end, an offset, or a time as in 2025-01-31T12:00:00Z") from None
    return text


BoundText = Annotated[
    str,
    AfterValidator(_bound),
    Field(description="beginning, end, an offset, ISO 8601 (UTC where it names no zone), or epoch milliseconds."),
]
Rate = Annotated[float, Field(ge=0.001, le=1_000_000, description="Most records to send a second.")]
Execute = Annotated[bool, Field(description="Do it; otherwise only tell what would be done.")]
Superseded = Annotated[bool, Field(description="Send also what a newer record of the same key replaced or deleted.")]
OperationId = Annotated[str, Path(pattern=r"^[a-zA-Z0-9._-]{1,100}$", description="As it was told at the beginning.")]


class ReplayRequest(fields.Question):
    """Which old requests to send once more, through the replay lane."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"topic": "requests", "from": "2025-01-31T12:00:00Z"}]})

    topic: str = Field(min_length=1, max_length=249, description="requests, interactive, or the name of any topic.")
    start: BoundText = Field("beginning", alias="from")
    end: BoundText = Field("end", alias="to")
    key: str | None = Field(None, description="Only with this key.")
    where: dict[str, str] = Field(default_factory=dict, description="Only with these headers and values.")
    rate: Rate = transfers.RATE
    max_live_lag: int = Field(1_000, ge=0, description="Pause while live traffic lags by more records than this.")
    include_superseded: Superseded = False
    name: str | None = Field(
        None, pattern=rf"^{replay.NAME.pattern}$", description="Names a new run of a replay that was done before."
    )
    execute: Execute = False


class PlanResponse(BaseModel):
    """What would be done."""

    object: Literal["plan"]
    plan: dict[str, Any] = Field(description="As the command's --json has it.")


ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"model": OperationResponse, "description": "It has begun; `Location` says where to look."},
    **documented(*COMMON, *ASKED, Kind.CONFLICT, Kind.OVERLOADED),
}


@router.post("/v1/replays", response_model=PlanResponse, responses=ANSWERS)
async def create_replay(question: ReplayRequest, call: ReplayCall) -> Response:
    """Tell what a replay would send, or begin it. The same replay begun again goes on where it ended."""
    settings, job = call.bridge.settings, _job(call, question)
    prepared = await blocking(partial(replay.prepare, settings, job, silent()), call.left)
    plan = replay.as_json_of(prepared.plan, job, None)
    if not job.execute:
        return planned(plan)
    await blocking(partial(transfers.require, prepared.admin, settings.topic_replay, silent()), call.left)
    convert = copier(settings.topic_replay)
    begun = await call.bridge.operations.begin(
        Operation(f"replay-{job.mark}", plan),
        lambda operation, stop: replay.Replay(settings, job, prepared, convert, operation.voice).run(stop),
    )
    return accepted(begun, f"/v1/replays/replay-{job.mark}")


def _job(call: Call, question: ReplayRequest) -> replay.Job:
    selection = Selection(
        topic=known(call.bridge.settings).get(question.topic, (question.topic, None))[0],
        start=Bound.parse(question.start),
        end=Bound.parse(question.end),
        key=question.key,
        where=tuple(question.where.items()),
        include_superseded=question.include_superseded,
    )
    return replay.Job(
        selection=selection,
        name=question.name,
        rescore=False,  # scorers, and other models, are not loaded here: the command does that
        model=None,
        output=None,
        rate=question.rate,
        max_live_lag=question.max_live_lag,
        execute=question.execute,
    )


def planned(plan: dict[str, Any]) -> Response:
    """Returns the answer that only tells what would be done."""
    return Response(orjson.dumps({"object": "plan", "plan": plan}), media_type="application/json")


def accepted(begun: bytes, location: str) -> Response:
    """Returns the answer of an operation that has begun."""
    return Response(begun, 202, {"Location": location}, "application/json")


LOOKING = documented(*READING, Kind.NOT_FOUND, Kind.UNAVAILABLE)


@router.get("/v1/replays/{id}", response_model=OperationResponse, responses=LOOKING)
async def get_replay(id: OperationId, call: ReplayCall) -> Response:
    """Tell how far a replay is."""
    return Response(await call.bridge.operations.look(id), media_type="application/json")


@router.delete("/v1/replays/{id}", status_code=202, response_model=OperationResponse, responses=LOOKING)
async def stop_replay(id: OperationId, call: ReplayCall) -> Response:
    """Stop a replay soon; begun again, it goes on where it ended."""
    return Response(await call.bridge.operations.stop(id), 202, media_type="application/json")
