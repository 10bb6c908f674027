"""`GET /v1/models`: what is served, as the workers themselves say, in OpenAI's shape."""

import hashlib
from typing import Annotated, Any, Literal

import orjson
from fastapi import Path, Response
from pydantic import BaseModel, Field

from agents.bridge import fields
from agents.bridge.asking import check_model, served
from agents.bridge.endpoints import READING, IfNoneMatch, ModelsCall, conditional, router_of
from agents.bridge.problems import Kind, documented
from schemas.records import Served

router = router_of("Models")


class ModelItem(BaseModel):
    """A model that is served, and the scorers with it."""

    id: str = Field(description="Name of the model.")
    object: Literal["model"]
    created: int = Field(description="For OpenAI's clients; 0, since nobody knows.")
    owned_by: str
    revision: fields.Revision
    weights_digest: str = Field(description="SHA-256 of the weights.")
    precision: str = Field(description="Number format it computes in.")
    dimensions: int = Field(description="Values of a full vector.")
    max_tokens: int = Field(description="Most tokens it reads of a text, special tokens included.")
    scorers: list[str]


class ModelsResponse(BaseModel):
    """The models that are served: one."""

    object: Literal["list"]
    data: list[ModelItem]


RESPONSES = {304: {"description": "Still what the caller knows."}, **documented(*READING, Kind.UNAVAILABLE)}


@router.get("/v1/models", response_model=ModelsResponse, responses=RESPONSES)
async def list_models(call: ModelsCall, if_none_match: IfNoneMatch = None) -> Response:
    """Tell what is served, as the last answer from the stream said."""
    return _answer({"object": "list", "data": [_item(served(call))]}, if_none_match)


@router.get("/v1/models/{model:path}", response_model=ModelItem, responses={**RESPONSES, **documented(Kind.NOT_FOUND)})
async def get_model(
    model: Annotated[str, Path(description="Name of the model; it may hold a slash.")],
    call: ModelsCall,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Tell about one model."""
    found = served(call)
    check_model(model, found, "path:model")
    return _answer(_item(found), if_none_match)


def _item(found: Served) -> dict[str, Any]:
    return {
        "id": found.model,
        "object": "model",
        "created": 0,
        "owned_by": "sentence-streams",
        "revision": found.revision,
        "weights_digest": found.weights_digest,
        "precision": found.precision,
        "dimensions": found.dimensions,
        "max_tokens": found.max_tokens,
        "scorers": list(found.scorers),
    }


def _answer(body: dict[str, Any], known: str | None) -> Response:
    content = orjson.dumps(body)
    return conditional(content, hashlib.sha256(content).hexdigest()[:32], known)
