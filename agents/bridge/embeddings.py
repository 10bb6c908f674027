"""`POST /v1/embeddings`, in OpenAI's shape: their clients work unchanged."""

import base64
import hashlib
from typing import Any, Literal

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from agents.bridge import fields
from agents.bridge.endpoints import ASKING, EmbedCall, admit, listed, router_of
from agents.bridge.problems import documented
from agents.bridge.vectors import Found, Wanted, vectors
from schemas.packing import pack
from schemas.records import Encoding
from streams.embedding.embedder import Vectors

router = router_of("Embeddings")


class EmbeddingRequest(fields.Question):
    """What to embed, and how."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["A sentence.", "Another one."]}]})

    input: fields.Text | fields.Texts = Field(description="A text, or a list of texts; not lists of tokens.")
    model: fields.ModelName = None
    dimensions: fields.Dimensions = None
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="A list of numbers, or base64 of their bytes: float32 is little-endian."
    )
    output_dtype: Literal["float", "int8", "binary"] = Field(
        "float",
        description="Numbers as float32 or, smaller, as int8; or bits in bytes of 0 to 255, 1 where a value is over 0.",
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
    embedding: list[float] | list[int] | str = Field(description="The vector; base64 of its bytes where asked for.")
    truncated: fields.Truncated
    scale: float = Field(0.0, description="Only with int8: what to multiply each number by.")


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
    return _answer(found, question)


def _answer(found: Found, question: EmbeddingRequest) -> Response:
    data = [item(n, vector.values, vector.truncated, question) for n, vector in enumerate(found.vectors)]
    body = {
        "object": "list",
        "data": data,
        "model": found.served.model,
        "revision": found.served.revision,
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    }
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    decides = "\0".join([question.encoding_format, question.output_dtype, question.overflow, *found.keys])
    tag = hashlib.sha256(decides.encode()).hexdigest()[:32]
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    return Response(content, media_type="application/json", headers=headers)


def item(index: int, values: Vectors, truncated: bool, question: EmbeddingRequest) -> dict[str, Any]:
    """Returns a vector as the question wants it; numbers are an array of numpy's."""
    numbers, scale = _numbers(values, question.output_dtype)
    embedding = base64.b64encode(numbers.tobytes()).decode() if question.encoding_format == "base64" else numbers
    made = {"object": "embedding", "index": index, "embedding": embedding, "truncated": truncated}
    return made if scale is None else {**made, "scale": scale}


def _numbers(values: Vectors, kind: str) -> tuple[NDArray[Any], float | None]:
    if kind == "float":
        return values.astype("<f4", copy=False), None
    _, data, scale = pack(values, Encoding(kind))
    return np.frombuffer(data, np.int8 if kind == "int8" else np.uint8), scale
