"""`POST /v1/embeddings`, in OpenAI's shape: their clients work unchanged."""

import base64
import hashlib
from typing import Any, Literal

import orjson
from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from agents.bridge import fields
from agents.bridge.endpoints import ASKING, EmbedCall, admit, listed, router_of
from agents.bridge.problems import documented
from agents.bridge.vectors import Found, Vector, Wanted, vectors

router = router_of("Embeddings")


class EmbeddingRequest(fields.Question):
    """What to embed, and how."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["A sentence.", "Another one."]}]})

    input: fields.Text | fields.Texts = Field(description="A text, or a list of texts; not lists of tokens.")
    model: fields.ModelName = None
    dimensions: fields.Dimensions = None
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="A list of numbers, or base64 of little-endian float32."
    )
    overflow: fields.OverflowName = "truncate"
    user: str | None = Field(None, description="For OpenAI's clients; not used.")

    @field_validator("input", mode="before")
    @classmethod
    def _no_tokens(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
            raise ValueError("expected texts, not tokens: the model has a tokeniser of its own")
        return value


class EmbeddingItem(BaseModel):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int = Field(description="Place of the text in the request.")
    embedding: list[float] | str = Field(description="The vector; base64 of little-endian float32 where asked for.")
    truncated: fields.Truncated


class EmbeddingResponse(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    revision: fields.Revision
    usage: fields.Usage


@router.post("/v1/embeddings", response_model=EmbeddingResponse, responses=documented(*ASKING))
async def create_embeddings(question: EmbeddingRequest, call: EmbedCall) -> Response:
    """Embed texts: one vector each, all of one model, or a problem that names the texts that failed.

    Equal answers have equal ETags. A POST has no state to compare with, so `If-None-Match` is not looked at.
    """
    texts, name = listed(question.input, "/input")
    await admit(call, texts, name)
    found = await vectors(call, texts, Wanted(question.model, question.dimensions, question.overflow), name)
    return _answer(found, question.encoding_format)


def _answer(found: Found, form: Literal["float", "base64"]) -> Response:
    encode = _base64 if form == "base64" else _floats
    data = [
        {"object": "embedding", "index": n, "embedding": encode(vector), "truncated": vector.truncated}
        for n, vector in enumerate(found.vectors)
    ]
    body = {
        "object": "list",
        "data": data,
        "model": found.served.model,
        "revision": found.served.revision,
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    }
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    tag = hashlib.sha256("\0".join([form, *found.keys]).encode()).hexdigest()[:32]
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    return Response(content, media_type="application/json", headers=headers)


def _floats(vector: Vector) -> Any:
    return vector.values


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.values.astype("<f4", copy=False).tobytes()).decode()
