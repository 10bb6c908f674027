"""`/v1/training-runs`: scorers to train, as events on sentence.training; how far each is, as the catalog has it."""

import asyncio
import time
import uuid
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any, Literal

import orjson
from fastapi import Path, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agents.bridge import fields
from agents.bridge.asking import unavailable
from agents.bridge.calls import Call
from agents.bridge.endpoints import COMMON, READING, AdminCall, ModelsCall, router_of
from agents.bridge.problems import Kind, Problem, documented, invalid
from agents.bridge.replays import BoundText
from agents.bridge.sentences import KEY, IdempotencyKey
from agents.runs import summary, unusable
from schemas.errors import Retry
from schemas.records import HeadKind, TrainingRequest
from streams.models.catalog import UnknownRun
from streams.records import Outgoing
from streams.scoring.loader import NAME

router = router_of("Models")

RunId = Annotated[str, Path(pattern=r"^[a-zA-Z0-9._-]{1,200}$", description="As it was told at the beginning.")]
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "sentence-streams/training-runs")


def _readable(source: str) -> str:
    if (expected := unusable(source)) is not None:
        raise ValueError(expected)
    return source


Column = Annotated[str, Field(min_length=1, max_length=200)]


class TrainingRunRequest(fields.Question):
    """What to train, on what, and how."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"scorer": "place", "source": "s3://labels/place.csv"}]})

    scorer: str = Field(pattern=rf"^{NAME.pattern}$", description="Name of the scorer: the version is for this alias.")
    source: Annotated[str, AfterValidator(_readable)] = Field(
        max_length=2000,
        description="Where the labels are: an s3://, gs:// or az:// URL of CSV, JSON Lines or Parquet, or topic:NAME.",
    )
    start: BoundText = Field("beginning", alias="from")
    end: BoundText = Field("end", alias="to")
    text: Column = Field("text", description="Column of the text.")
    label: Column = Field("label", description="Column of the label; of a topic the metadata that has it.")
    head: Literal["logistic", "ridge"] = Field("logistic", description="What is trained on the vectors.")
    regularisation: float | None = Field(
        None, gt=0, lt=1e9, description="L2 penalty; null: what suits vectors of unit length."
    )
    folds: int = Field(5, ge=2, le=1000, description="Parts of the cross-validation.")
    seed: int = Field(0, ge=0, lt=2**32, description="Same data, parameters and seed: same version.")


class ProgressItem(BaseModel):
    """How far a run is."""

    step: str = Field(description="embedding or training.")
    done: int
    of: int


class TrainingRunResponse(BaseModel):
    """A training run, as the catalog has it."""

    object: Literal["training_run"]
    id: str
    scorer: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelling", "cancelled"]
    progress: ProgressItem | None = Field(description="How far it is, or was when it ended without a version.")
    version: str | None = Field(description="Digest of the version it made: a source of POST /v1/models.")
    rows: int | None = Field(description="Sentences it was trained on.")
    labels: dict[str, int] | None = Field(description="How many sentences each label has.")
    metrics: dict[str, float] | None = Field(description="Cross-validated and calibrated.")
    warnings: list[str] | None = Field(description="Rows that were left out, and why.")
    comparison: dict[str, Any] | None = Field(description="With the version in service; empty where none is.")
    detail: str = Field(description="Why it failed.")
    request: dict[str, Any] = Field(description="What was asked for, by whom and when, as on sentence.training.")
    created_at: int = Field(description="Milliseconds since 1970 UTC, as all times here.")
    updated_at: int


class TrainingRunsResponse(BaseModel):
    """Training runs, the latest first."""

    object: Literal["list"]
    data: list[TrainingRunResponse]
    has_more: bool


ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": TrainingRunResponse, "description": "A trainer will take it; `Location` says where to look."},
    **documented(*COMMON, Kind.KEY_REUSED, Kind.UNAVAILABLE),
}
LOOKING = documented(*READING, Kind.NOT_FOUND, Kind.UNAVAILABLE)


@router.post("/v1/training-runs", status_code=202, response_model=TrainingRunResponse, responses=ACCEPTED)
async def create_training_run(
    question: TrainingRunRequest, call: AdminCall, idempotency_key: IdempotencyKey = None
) -> Response:
    """Have a scorer trained. The same Idempotency-Key again is the run that is there."""
    request = _request(call, question, idempotency_key)
    catalog = call.bridge.catalog
    with suppress(UnknownRun):
        return _accepted(await asyncio.to_thread(catalog.run, request.id), request)
    await _publish(call, request)
    # Only now: a run that nobody took is none. A trainer that was faster has noted it already.
    return _accepted(await asyncio.to_thread(catalog.begin_run, request.id, request.scorer, asdict(request)), request)


@router.get("/v1/training-runs", response_model=TrainingRunsResponse, responses=documented(*READING, Kind.UNAVAILABLE))
async def list_training_runs(
    call: ModelsCall,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most entries of the answer.")] = 20,
) -> Response:
    """List the training runs, the latest first."""
    runs = await asyncio.to_thread(call.bridge.catalog.runs, limit + 1)
    return _json({"object": "list", "data": [summary(run) for run in runs[:limit]], "has_more": len(runs) > limit})


@router.get("/v1/training-runs/{id}", response_model=TrainingRunResponse, responses=LOOKING)
async def get_training_run(id: RunId, call: ModelsCall) -> Response:
    """Tell how far a training run is, and what came of it."""
    try:
        return _json(summary(await asyncio.to_thread(call.bridge.catalog.run, id)))
    except UnknownRun as error:
        raise Problem(Kind.NOT_FOUND, str(error)) from None


CANCELLING = documented(*COMMON, Kind.NOT_FOUND, Kind.UNAVAILABLE)


@router.post("/v1/training-runs/{id}/cancel", response_model=TrainingRunResponse, responses=CANCELLING)
async def cancel_training_run(id: RunId, call: AdminCall) -> Response:
    """Cancel a training run: at once, or at its next step where it has begun. One that has ended stays as it is."""
    try:
        return _json(summary(await asyncio.to_thread(call.bridge.catalog.cancel_run, id)))
    except UnknownRun as error:
        raise Problem(Kind.NOT_FOUND, str(error)) from None


def _request(call: Call, question: TrainingRunRequest, key: str | None) -> TrainingRequest:
    """The record; its id is the same for the same caller and key, whichever bridge is asked."""
    if key is not None and not KEY.fullmatch(key):
        raise invalid([{"field": "header:idempotency-key", "expected": "1 to 255 visible ASCII characters"}])
    caller = call.caller.name
    return TrainingRequest(
        id=str(uuid.uuid4() if key is None else uuid.uuid5(_NAMESPACE, f"{caller}\0{key}")),
        **{**question.model_dump(), "head": HeadKind(question.head)},
        by=caller,
        at=int(time.time() * 1000),
    )


async def _publish(call: Call, request: TrainingRequest) -> None:
    """Returns once the brokers have it; raises Problem 503 where they do not take it."""
    bridge, topic = call.bridge, call.bridge.settings.topic_training
    headers = (("content-type", b"application/avro"),)
    try:
        async with asyncio.timeout(call.left):
            value = await asyncio.to_thread(bridge.codec.encode, request, topic)  # it may ask the registry
            refused = await bridge.publisher.publish([Outgoing(topic, request.id.encode(), value, headers)])
    except TimeoutError:
        raise unavailable("no broker took the request in time") from None
    except Retry as error:
        raise unavailable(str(error)) from None
    if refused:
        raise unavailable(str(refused[0]))


def _accepted(run: dict[str, Any], request: TrainingRequest) -> Response:
    """The answer about a run; raises Problem where something else was asked for under its key."""
    if {**run["request"], "at": None} != {**asdict(request), "at": None}:
        raise Problem(Kind.KEY_REUSED, "this Idempotency-Key was used with another body")
    return _json(summary(run), 202, {"Location": f"/v1/training-runs/{request.id}"})


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")
