"""`/v1/batches`, in OpenAI's shape: a file of requests through the replay lane, its answers as a file."""

import asyncio
import hashlib
from typing import Annotated, Any, Literal

import orjson
from fastapi import Path, Response
from pydantic import BaseModel, ConfigDict, Field

from agents.bridge import fields
from agents.bridge.batch_lines import ENDPOINT
from agents.bridge.batch_work import WINDOW
from agents.bridge.calls import Call
from agents.bridge.endpoints import COMMON, READING, EmbedCall, router_of
from agents.bridge.files import STORED, After, Limit, known, page
from agents.bridge.problems import Kind, Problem, documented
from streams.models.catalog import now
from streams.models.ledger import Row

router = router_of("Batches")

BatchId = Annotated[str, Path(pattern=r"^[a-zA-Z0-9_-]{1,200}$", description="As it was told when it was made.")]
#: When a batch came to each of its states; null where it did not.
TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class BatchRequest(fields.Question):
    """Which file to work through."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input_file_id": "file-1", "endpoint": ENDPOINT, "completion_window": "24h"}]}
    )

    input_file_id: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,200}$")
    endpoint: Literal["/v1/embeddings"]
    completion_window: Literal["24h"] = "24h"
    metadata: Metadata | None = None


class Counts(BaseModel):
    """Lines of the file; completed and failed grow while it is worked on."""

    total: int
    completed: int
    failed: int


class BatchResponse(BaseModel):
    """A batch, and how far it is."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="The same for the same file and metadata: making it again is this one.")
    object: Literal["batch"]
    endpoint: str
    input_file_id: str
    completion_window: Literal["24h"]
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None = Field(description="Answers, in the format of the input.")
    error_file_id: str | None = Field(description="Lines that failed and why, as JSON Lines; null: none did.")
    request_counts: Counts
    errors: dict[str, Any] | None = Field(description="Why the whole file could not be read.")
    metadata: dict[str, str] | None
    created_at: int = Field(description="Seconds since 1970 UTC, as all times here.")
    expires_at: int


class BatchesResponse(BaseModel):
    """Batches, the latest first."""

    object: Literal["list"]
    data: list[BatchResponse]
    has_more: bool
    first_id: str | None
    last_id: str | None


@router.post("/v1/batches", response_model=BatchResponse, responses=documented(*COMMON, *STORED, Kind.CONFLICT))
async def create_batch(question: BatchRequest, call: EmbedCall) -> Response:
    """Begin a batch. The same again is the batch that is there; one that came to nothing begins anew."""
    file = await known(call, question.input_file_id)
    if file["status"] != "processed":
        raise Problem(Kind.CONFLICT, "the file was not uploaded to its URL yet")
    batches = call.bridge.batches
    row = await asyncio.to_thread(batches.ledger.add_batch, _row(call, question))
    batches.wake()
    return _json(as_json(row))


def _row(call: Call, question: BatchRequest) -> Row:
    owner, metadata = call.caller.name, question.metadata or {}
    said = orjson.dumps([owner, question.input_file_id, question.endpoint, metadata], option=orjson.OPT_SORT_KEYS)
    fixed = {"id": f"batch-{hashlib.sha256(said).hexdigest()[:32]}", "owner": owner, "endpoint": question.endpoint}
    counts = {"total": 0, "completed": 0, "failed": 0, "errors": None, "metadata": question.metadata}
    files = {"input_file_id": question.input_file_id, "output_file_id": None, "error_file_id": None}
    held: Row = {"held_until": 0, "holder": None, "times": {}, "created_at": now()}
    return {**fixed, **files, "status": "validating", **counts, **held}


@router.get("/v1/batches", response_model=BatchesResponse, responses=documented(*READING, *STORED))
async def list_batches(call: EmbedCall, after: After = None, limit: Limit = 20) -> Response:
    """List your batches, the latest first."""
    call.bridge.batches.wake()
    rows = await asyncio.to_thread(call.bridge.batches.ledger.batches, call.caller.name, after, limit + 1)
    return page([as_json(row) for row in rows], limit)


@router.get("/v1/batches/{batch_id}", response_model=BatchResponse, responses=documented(*READING, *STORED))
async def get_batch(batch_id: BatchId, call: EmbedCall) -> Response:
    """Tell how far a batch is."""
    return _json(as_json(await _known(call, batch_id)))


@router.post("/v1/batches/{batch_id}/cancel", response_model=BatchResponse, responses=documented(*COMMON, *STORED))
async def cancel_batch(batch_id: BatchId, call: EmbedCall) -> Response:
    """Stop a batch soon; what was answered until then is in its files."""
    await _known(call, batch_id)
    await asyncio.to_thread(call.bridge.batches.ledger.cancel, call.caller.name, batch_id)
    return _json(as_json(await _known(call, batch_id)))


async def _known(call: Call, batch_id: str) -> Row:
    call.bridge.batches.wake()
    row = await asyncio.to_thread(call.bridge.batches.ledger.batch, call.caller.name, batch_id)
    if row is None:
        raise Problem(Kind.NOT_FOUND, "you have no such batch")
    return row


def as_json(row: Row) -> dict[str, Any]:
    """A row as a BatchResponse."""
    names = ("id", "endpoint", "input_file_id", "status", "output_file_id", "error_file_id", "metadata")
    times = {f"{state}_at": _seconds(row["times"].get(f"{state}_at")) for state in TIMES}
    errors = None if row["errors"] is None else {"object": "list", "data": row["errors"]}
    return {
        "object": "batch",
        "completion_window": "24h",
        **{name: row[name] for name in names},
        "request_counts": {name: row[name] for name in ("total", "completed", "failed")},
        "errors": errors,
        "created_at": row["created_at"] // 1000,
        "expires_at": (row["created_at"] + WINDOW) // 1000,
        **times,
    }


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // 1000


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
