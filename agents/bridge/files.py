"""`/v1/files`, in OpenAI's shape: what batches read and write. The bytes lie in the artifact store.

Where that is a bucket, signed URLs let callers send and fetch large files without going through a bridge.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal

import orjson
from fastapi import Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from agents.bridge import fields
from agents.bridge.calls import Call
from agents.bridge.endpoints import COMMON, READING, EmbedCall, router_of
from agents.bridge.problems import Kind, Problem, documented, invalid
from streams.models.catalog import now
from streams.models.files import CannotSign, NoFile
from streams.models.ledger import Row

router = router_of("Files")

#: Bytes that go to and from the store at once.
PIECE = 1024 * 1024
#: Seconds that a signed URL holds.
SIGNED = 3600

FileId = Annotated[str, Path(pattern=r"^[a-zA-Z0-9_-]{1,200}$", description="As it was told when it was made.")]
After = Annotated[str | None, Query(max_length=200, description="Only what comes behind this one.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Most entries of the answer.")]
Purpose = Literal["batch"]


class FileResponse(BaseModel):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int = Field(description="Seconds since 1970 UTC.")
    filename: str = Field(description="Its ending says the format: .jsonl, .csv or .parquet.")
    purpose: Literal["batch", "batch_output"]
    status: Literal["pending", "processed"] = Field(description="pending: it was not uploaded to its signed URL yet.")


class FilesResponse(BaseModel):
    """Files, the latest first."""

    object: Literal["list"]
    data: list[FileResponse]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedResponse(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class UploadRequest(fields.Question):
    """A file that is going to be uploaded to a signed URL."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"filename": "sentences.jsonl", "purpose": "batch"}]})

    filename: str = Field(min_length=1, max_length=255, pattern=r"^[^/\x00-\x1f]+$")
    purpose: Purpose = "batch"


class SignedResponse(BaseModel):
    """A URL for one file, without any other credential."""

    object: Literal["file.url"]
    file_id: str
    method: Literal["GET", "PUT"]
    url: str
    expires_at: int = Field(description="Seconds since 1970 UTC.")


#: Of whatever works with files: no database or store, no such file.
STORED = (Kind.NOT_FOUND, Kind.UNAVAILABLE)
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                    },
                }
            }
        },
    }
}


@router.post(
    "/v1/files",
    response_model=FileResponse,
    responses=documented(*COMMON, *STORED, Kind.BAD_REQUEST),
    openapi_extra=FORM,
)
async def create_file(request: Request, call: EmbedCall) -> Response:
    """Upload a file for a batch. The same file again is the same file, with the same id."""
    _same_site(call, request)
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            file, purpose = form.get("file"), form.get("purpose")
            wrong = [
                {"field": f"/{name}", "expected": expected}
                for name, expected, right in (
                    ("file", "a file with a name", isinstance(file, UploadFile) and bool(file.filename)),
                    ("purpose", "batch", purpose == "batch"),
                )
                if not right
            ]
            if wrong or not isinstance(file, UploadFile):
                raise invalid(wrong)
            return _file(await asyncio.to_thread(_keep, call, file.filename or "", file.file))
    except HTTPException as error:
        raise Problem(Kind.BAD_REQUEST, f"the form cannot be read: {error.detail}") from None


def _same_site(call: Call, request: Request) -> None:
    """A page of another origin may send a form without asking, unlike JSON."""
    origin, allowed = request.headers.get("origin"), call.bridge.settings.cors_origins
    if origin is not None and "*" not in allowed and origin not in allowed:
        raise Problem(Kind.FORBIDDEN, "a page of this origin may not send files; see STREAMS_CORS_ORIGINS")


def _keep(call: Call, filename: str, stream: IO[bytes]) -> Row:
    """The file's id is made of whose it is, its name and its content: the same again changes nothing."""
    found = hashlib.sha256(f"{call.caller.name}\0{filename[-255:]}\0".encode())
    size = 0
    for piece in iter(lambda: stream.read(PIECE), b""):
        found.update(piece)
        size += len(piece)
    if size > call.bridge.settings.max_file_bytes:
        raise Problem(Kind.TOO_LARGE, f"a file may have {call.bridge.settings.max_file_bytes} bytes")
    stream.seek(0)
    file_id = f"file-{found.hexdigest()[:32]}"
    batches = call.bridge.batches
    batches.files.put(f"files/{file_id}", iter(lambda: stream.read(PIECE), b""))
    return batches.ledger.add_file(_row(call, file_id, filename, size, "processed"))


def _row(call: Call, file_id: str, filename: str, size: int, status: str) -> Row:
    named = {"id": file_id, "owner": call.caller.name, "filename": filename[-255:], "purpose": "batch"}
    return {**named, "bytes": size, "status": status, "created_at": now()}


@router.post("/v1/files/uploads", response_model=SignedResponse, responses=documented(*COMMON, *STORED, Kind.CONFLICT))
async def create_upload(question: UploadRequest, call: EmbedCall) -> Response:
    """Get a URL to PUT a file to, past the bridge. 409 where the store has no URLs: use POST /v1/files."""
    file_id = f"file-{uuid.uuid4().hex}"
    answer = await _signed(call, "PUT", file_id)
    row = _row(call, file_id, question.filename, 0, "pending")
    await asyncio.to_thread(call.bridge.batches.ledger.add_file, row)
    return answer


@router.get(
    "/v1/files/{file_id}/url", response_model=SignedResponse, responses=documented(*READING, *STORED, Kind.CONFLICT)
)
async def get_file_url(file_id: FileId, call: EmbedCall) -> Response:
    """Get a URL to fetch a file from, past the bridge. 409 where the store has no URLs: use its content."""
    await known(call, file_id)
    return await _signed(call, "GET", file_id)


async def _signed(call: Call, method: Literal["GET", "PUT"], file_id: str) -> Response:
    try:
        url = await asyncio.to_thread(call.bridge.batches.files.sign, method, f"files/{file_id}", SIGNED)
    except CannotSign as error:
        raise Problem(Kind.CONFLICT, str(error)) from None
    expires = now() // 1000 + SIGNED
    return _json({"object": "file.url", "file_id": file_id, "method": method, "url": url, "expires_at": expires})


@router.get("/v1/files", response_model=FilesResponse, responses=documented(*READING, *STORED))
async def list_files(
    call: EmbedCall,
    purpose: Annotated[Literal["batch", "batch_output"] | None, Query()] = None,
    after: After = None,
    limit: Limit = 20,
) -> Response:
    """List your files, the latest first."""
    rows = await asyncio.to_thread(call.bridge.batches.ledger.files, call.caller.name, purpose, after, limit + 1)
    return page([as_json(row) for row in rows], limit)


@router.get("/v1/files/{file_id}", response_model=FileResponse, responses=documented(*READING, *STORED))
async def get_file(file_id: FileId, call: EmbedCall) -> Response:
    """Tell about a file."""
    return _file(await known(call, file_id))


@router.get(
    "/v1/files/{file_id}/content",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}, **documented(*READING, *STORED)},
)
async def get_file_content(file_id: FileId, call: EmbedCall) -> Response:
    """Fetch what is in a file."""
    row = await known(call, file_id)
    try:
        stream = await asyncio.to_thread(call.bridge.batches.files.open, f"files/{file_id}")
    except NoFile:
        raise Problem(Kind.NOT_FOUND, "nothing was uploaded yet") from None

    def pieces() -> Iterator[bytes]:
        with stream:
            while piece := stream.read(PIECE):
                yield piece

    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    headers["Content-Length"] = str(row["bytes"])
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)


@router.delete(
    "/v1/files/{file_id}", response_model=DeletedResponse, responses=documented(*READING, *STORED, Kind.CONFLICT)
)
async def delete_file(file_id: FileId, call: EmbedCall) -> Response:
    """Delete a file, unless a batch that has not ended reads it."""
    await known(call, file_id)
    batches = call.bridge.batches
    if await asyncio.to_thread(batches.ledger.in_use, file_id):
        raise Problem(Kind.CONFLICT, "a batch reads this file; cancel it first")
    await asyncio.to_thread(batches.ledger.set_file, file_id, status="deleted")
    await asyncio.to_thread(batches.files.delete, f"files/{file_id}")
    return _json({"id": file_id, "object": "file", "deleted": True})


async def known(call: Call, file_id: str) -> Row:
    """Returns the row of a file of this caller; raises Problem where there is none.

    A file that went to a signed URL is noted as uploaded once it is seen in the store.
    """
    return await asyncio.to_thread(_known, call, file_id)


def _known(call: Call, file_id: str) -> Row:
    batches = call.bridge.batches
    row = batches.ledger.file(call.caller.name, file_id)
    if row is None:
        raise Problem(Kind.NOT_FOUND, "you have no such file")
    if row["status"] != "pending":
        return row
    try:
        size = batches.files.size(f"files/{file_id}")
    except NoFile:
        return row
    if size > call.bridge.settings.max_file_bytes:
        batches.files.delete(f"files/{file_id}")
        raise Problem(Kind.TOO_LARGE, f"a file may have {call.bridge.settings.max_file_bytes} bytes; it was removed")
    batches.ledger.set_file(file_id, bytes=size, status="processed")
    return {**row, "bytes": size, "status": "processed"}


def as_json(row: Row) -> dict[str, Any]:
    """A row as a FileResponse."""
    names = ("id", "bytes", "filename", "purpose", "status")
    return {"object": "file", "created_at": row["created_at"] // 1000, **{name: row[name] for name in names}}


def page(data: list[dict[str, Any]], limit: int) -> Response:
    """A list of at most `limit` of these entries, which are one more where there is more."""
    shown = data[:limit]
    ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
    return _json({"object": "list", "data": shown, "has_more": len(data) > limit, **ends})


def _file(row: Row) -> Response:
    return _json(as_json(row))


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
