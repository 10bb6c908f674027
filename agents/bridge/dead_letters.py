"""`/v1/dead-letters` and `/v1/redrives`: what `sentence-streams dead-letters` does, for whoever may."""

from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from agents import dead_letters, redrive, transfers
from agents.bridge import fields
from agents.bridge.calls import Call
from agents.bridge.endpoints import READING, DeadLettersCall, router_of
from agents.bridge.operations import Operation, OperationResponse, answered, blocking, silent
from agents.bridge.problems import Kind, Problem, documented
from agents.bridge.replays import (
    ANSWERS,
    ASKED,
    LOOKING,
    BoundText,
    Execute,
    OperationId,
    PlanResponse,
    Rate,
    Superseded,
    accepted,
    planned,
)
from agents.clients import broker, connection
from streams.dead_letters import opened
from streams.ranges import Bound, Ranges, scan
from streams.records import Record
from streams.redrive import Place, Selection

router = router_of("Dead letters")


PlaceText = Annotated[str, Field(pattern=r"^[0-9]{1,9}@[0-9]{1,18}$", examples=["3@17"])]
Reason = Annotated[str | None, Field(description="Only with this reason, as in bad-bytes.")]
Stage = Annotated[str | None, Field(description="Only from this stage: decode, validate, embed, score or publish.")]
Original = Annotated[str | None, Field(description="Only of records read from, or first sent to, this topic.")]
LetterKey = Annotated[str | None, Field(description="Only with this key.")]


class LetterItem(BaseModel):
    """A dead letter; members that nobody knows are left out or null."""

    model_config = ConfigDict(extra="allow")

    place: str = Field(description="Where it is, PARTITION@OFFSET.", examples=["3@17"])
    topic: str
    partition: int
    offset: int
    time: str | None = Field(description="When it became one.")
    reason: str | None = None
    stage: str | None = None
    message: str | None = None
    read_at: str | None = Field(None, description="Where its record was read.")
    first_read_at: str | None = Field(None, description="Where that was first read, before any replay.")
    redriven: int | None = Field(None, description="How often it was sent again.")
    key: str | None = None
    bytes: int | None = Field(None, description="Size of its value.")
    record: dict[str, Any] | None = Field(None, description="Its record, where the value decodes.")
    value: str | None = Field(None, description="The beginning of a value that does not decode.")
    headers: list[Annotated[list[str | None], Field(min_length=2, max_length=2)]] = Field(
        description="All headers in order, a name and a value each."
    )


class LettersResponse(BaseModel):
    """Dead letters, oldest first in each partition."""

    object: Literal["list"]
    data: list[LetterItem]
    has_more: bool = Field(description="Whether the limit left some out.")


class RedriveRequest(fields.Question):
    """Which dead letters to send once more, through the replay lane."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "embedding-failed"}]})

    places: list[PlaceText] = Field(default_factory=list, max_length=10_000, description="Only these.")
    reason: Reason = None
    stage: Stage = None
    topic: Original = None
    key: LetterKey = None
    start: BoundText = Field("beginning", alias="from")
    end: BoundText = Field("end", alias="to")
    limit: int | None = Field(None, ge=1, description="Most to send in this run, oldest first.")
    text: fields.Text | None = Field(None, description="Text that the one selected record gets; its id stays.")
    rate: Rate = transfers.RATE
    max_attempts: int = Field(3, ge=1, description="A record that was redriven so often is left.")
    include_superseded: Superseded = False
    execute: Execute = False


# -- redrives -------------------------------------------------------------------------------------------------


@router.post("/v1/redrives", response_model=PlanResponse, responses=ANSWERS)
async def create_redrive(question: RedriveRequest, call: DeadLettersCall) -> Response:
    """Tell what a redrive would send, or begin it. The same redrive begun again goes on where it ended."""
    settings, coder, job = call.bridge.settings, call.bridge.codec, _job(question)
    prepared = await blocking(partial(redrive.prepare, settings, job, coder), call.left)
    plan = redrive.as_json_of(prepared.plan, None)
    if not job.execute:
        return planned(plan)
    await blocking(partial(transfers.require, prepared.admin, settings.topic_replay, silent()), call.left)
    operation = Operation(f"redrive-{job.selection.checkpoint(job.text)}", plan)
    begun = await call.bridge.operations.begin(
        operation,
        lambda running, stop: redrive.execute(settings, job, prepared, coder, stop, running.voice),
    )
    return accepted(begun, f"/v1/redrives/{operation.id}")


@router.get("/v1/redrives/{id}", response_model=OperationResponse, responses=LOOKING)
async def get_redrive(id: OperationId, call: DeadLettersCall) -> Response:
    """Tell how far a redrive is."""
    return Response(await call.bridge.operations.look(id), media_type="application/json")


@router.delete("/v1/redrives/{id}", status_code=202, response_model=OperationResponse, responses=LOOKING)
async def stop_redrive(id: OperationId, call: DeadLettersCall) -> Response:
    """Stop a redrive soon; begun again, it goes on where it ended."""
    return Response(await call.bridge.operations.stop(id), 202, media_type="application/json")


def _job(question: RedriveRequest) -> redrive.Job:
    selection = Selection(
        reason=question.reason,
        stage=question.stage,
        topic=question.topic,
        key=question.key,
        start=Bound.parse(question.start),
        end=Bound.parse(question.end),
        places=tuple(map(Place.parse, question.places)),
    )
    return redrive.Job(
        selection=selection,
        text=question.text,
        limit=question.limit,
        rate=question.rate,
        max_attempts=question.max_attempts,
        include_superseded=question.include_superseded,
        execute=question.execute,
    )


# -- dead letters ---------------------------------------------------------------------------------------------


@router.get("/v1/dead-letters", response_model=LettersResponse, responses=documented(*READING, *ASKED))
async def list_dead_letters(
    call: DeadLettersCall,
    reason: Annotated[Reason, Query()] = None,
    stage: Annotated[Stage, Query()] = None,
    topic: Annotated[Original, Query()] = None,
    key: Annotated[LetterKey, Query()] = None,
    start: Annotated[BoundText, Query(alias="from")] = "beginning",
    end: Annotated[BoundText, Query(alias="to")] = "end",
    limit: Annotated[int, Query(ge=1, le=1000, description="Most to list.")] = 100,
) -> Response:
    """List dead letters: why each is one, where its record was read, and the record itself if that decodes."""
    bounds = Bound.parse(start), Bound.parse(end)
    selection = Selection(reason=reason, stage=stage, topic=topic, key=key, start=bounds[0], end=bounds[1])
    found = await _found(call, selection, limit + 1)
    body = {"object": "list", "data": await _told(call, found[:limit]), "has_more": len(found) > limit}
    return Response(orjson.dumps(body), media_type="application/json")


@router.get(
    "/v1/dead-letters/{place}",
    response_model=LetterItem,
    responses=documented(*READING, *ASKED),
)
async def get_dead_letter(
    place: Annotated[PlaceText, Path(description="PARTITION@OFFSET, as the list has it.")], call: DeadLettersCall
) -> Response:
    """Tell all there is to one dead letter."""
    found = await _found(call, Selection(places=(Place.parse(place),)), 1)
    if not found:
        raise Problem(Kind.NOT_FOUND, f"there is no dead letter at {place}; retention may have removed it")
    return Response(orjson.dumps((await _told(call, found))[0]), media_type="application/json")


async def _found(call: Call, selection: Selection, limit: int) -> list[Record]:
    settings = call.bridge.settings

    def ranges() -> Ranges:
        return dead_letters.ranges_of(broker(settings), settings, selection)

    return await answered(_read(call, selection, await blocking(ranges, call.left), limit), call.left)


async def _read(call: Call, selection: Selection, ranges: Ranges, limit: int) -> list[Record]:
    found: list[Record] = []
    async with aclosing(scan(connection(call.bridge.settings), ranges)) as batches:
        async for batch in batches:
            found += [record for record in batch.records if selection.has(record, opened(record.headers))]
            if len(found) >= limit:
                return found[:limit]
    return found


async def _told(call: Call, records: list[Record]) -> list[dict[str, Any]]:
    decode = dead_letters.Decoder(call.bridge.codec)

    def tell() -> list[dict[str, Any]]:
        return [
            {"place": f"{each.partition}@{each.offset}", **dead_letters.content_of(each, decode(each))}
            for each in records
        ]

    return await blocking(tell, call.left)
