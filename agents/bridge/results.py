"""`GET /v1/sentences/{id}/results`: what became of a sentence that was sent, now, when it comes, or as an event."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from agents.bridge import fields
from agents.bridge.asking import unavailable
from agents.bridge.calls import Attached, Call
from agents.bridge.endpoints import READING, EmbedCall, IfNoneMatch, conditional, router_of
from agents.bridge.problems import Kind, Problem, documented
from agents.bridge.scores import ScoreItem, score_fields
from agents.bridge.stores import Found, Gone, Looked, Unknown
from schemas.errors import Retry
from schemas.packing import values
from schemas.records import Embedding, Reply

router = router_of("Sentences")

#: Longest wait of one request, in seconds: less than what proxies allow.
LONGEST = 50.0
#: Seconds between two signs of life on a stream of events.
ALIVE = 5.0


class EmbeddingFields(BaseModel):
    """The vector of a sentence."""

    model: str
    revision: fields.Revision
    dimensions: int
    tokens: int = Field(description="Tokens that the model read.")
    truncated: fields.Truncated
    values: list[float] = Field(description="The vector.")


class ErrorFields(BaseModel):
    """Why a sentence was refused."""

    reason: str
    stage: str
    detail: str


class ResultResponse(BaseModel):
    """What became of a sentence."""

    object: Literal["sentence.result"]
    id: str
    status: Literal["pending", "done", "refused"]
    embedding: EmbeddingFields | None = Field(None, description="Where it is done.")
    scores: list[ScoreItem] = Field(default_factory=list, description="Of the scorers that the sentence named.")
    error: ErrorFields | None = Field(None, description="Where it was refused; it is a dead letter, too.")


EVENTS = {"text/event-stream": {"schema": {"type": "string"}, "example": 'event: result\ndata: {"status": "done"}\n\n'}}


@router.get(
    "/v1/sentences/{id}/results",
    response_model=ResultResponse,
    responses={
        200: {"description": "Done, or refused.", "content": EVENTS},
        202: {"model": ResultResponse, "description": "Still pending."},
        304: {"description": "Still the result that the caller knows."},
        **documented(*READING, Kind.NOT_FOUND, Kind.GONE, Kind.UNAVAILABLE),
    },
)
async def get_results(
    id: UUID,
    call: EmbedCall,
    wait: Annotated[float, Query(ge=0, le=LONGEST, description="Seconds to wait for the result.")] = 0.0,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Tell what became of a sentence; with `Accept: text/event-stream` as an event, as soon as it is there."""
    if "text/event-stream" in accept:
        await _looked(call, str(id), 0.0)
        return StreamingResponse(_events(call, str(id)), media_type="text/event-stream", headers=NOT_KEPT)
    async with Attached(call.request):
        looked = await _looked(call, str(id), wait)
    if not isinstance(looked, Found):
        pending = {"object": "sentence.result", "id": str(id), "status": "pending"}
        return Response(orjson.dumps(pending), 202, {**NOT_KEPT, "Retry-After": "1"}, "application/json")
    content = await _content(call, str(id), looked.result)
    return conditional(content, hashlib.sha256(looked.result).hexdigest()[:32], if_none_match)


#: An answer that the next moment may change.
NOT_KEPT = {"Cache-Control": "no-store"}


async def _looked(call: Call, sentence_id: str, wait: float) -> Looked:
    """Returns the result, or Pending; raises Problem where there is none, and will be none."""
    looked = await call.bridge.stores.results.wait(call.caller.name, sentence_id, wait)
    match looked:
        case Unknown():
            raise Problem(Kind.NOT_FOUND, "this client has not sent a sentence with this id lately")
        case Gone():
            raise Problem(Kind.GONE, "the result of this sentence is not kept any more")
    return looked


async def _events(call: Call, sentence_id: str) -> AsyncIterator[bytes]:
    """Yields signs of life until the result is there, then that, and ends; ends early where the bridge leaves."""
    while not call.bridge.leaving:
        try:
            looked = await _looked(call, sentence_id, ALIVE)
        except Problem as problem:  # it was there when this began
            yield b"event: gone\ndata: %b\n\n" % orjson.dumps({"id": sentence_id, "detail": problem.detail})
            return
        if isinstance(looked, Found):
            yield b"event: result\ndata: %b\n\n" % await _content(call, sentence_id, looked.result)
            return
        yield b": still pending\n\n"


async def _content(call: Call, sentence_id: str, result: bytes) -> bytes:
    try:  # not on the event loop: it may have to ask the registry
        reply = await asyncio.to_thread(call.bridge.codec.decode, Reply, result)
    except Retry as problem:
        raise unavailable(str(problem)) from None
    error = reply.error
    body = {
        "object": "sentence.result",
        "id": sentence_id,
        "status": "done" if error is None else "refused",
        "embedding": None if reply.embedding is None else _embedding(reply.embedding),
        "scores": [score_fields(score) for score in reply.scores],
        "error": error and {"reason": error.reason, "stage": error.stage, "detail": error.message},
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _embedding(made: Embedding) -> dict[str, Any]:
    return {
        "model": made.model,
        "revision": made.revision,
        "dimensions": made.dimensions,
        "tokens": made.token_count,
        "truncated": made.truncated,
        "values": values(made),
    }
