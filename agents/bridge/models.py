"""`/v1/models`: what is served, as the workers themselves say, in OpenAI's shape; and decisions about it."""

import hashlib
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import Path, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agents import switching
from agents.bridge import fields
from agents.bridge.asking import check_model, served, unavailable
from agents.bridge.endpoints import COMMON, READING, AdminCall, IfNoneMatch, ModelsCall, conditional, router_of
from agents.bridge.problems import Kind, Problem, documented
from schemas.records import ModelCommand, Served
from streams.models import routing
from streams.models.routing import Alias

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


class TargetItem(BaseModel):
    """One model or scorer, of one version."""

    name: str = Field(description="What results call it.")
    revision: str | None = Field(description="Revision; null: the one that the name stands for.")
    digest: str | None = Field(description="SHA-256 that its weights must have; null: not pinned.")
    precision: str | None = Field(description="How exactly it computes; null: as the workers' settings say.")
    source: str = Field(description="Name or folder of a model, or the digest of an artifact.")


class AliasItem(BaseModel):
    """All that was decided of one alias, and by whom."""

    kind: Literal["embedder", "scorer"]
    alias: str
    active: TargetItem | None = Field(description="What answers; null: what the workers' settings say.")
    previous: TargetItem | None = Field(description="What a rollback goes back to.")
    shadow: TargetItem | None = Field(description="What works on a share of the sentences as well, unpublished.")
    shadow_share: float
    trial: TargetItem | None = Field(description="What answers a share of the sentences.")
    share: float
    disabled: bool
    quarantined: bool
    reason: str = Field(description="Why it was decided.")
    by: str = Field(description="Who decided it.")
    at: int = Field(description="When, in milliseconds since 1970 UTC.")
    id: str


class ModelsResponse(BaseModel):
    """The models that answered last: the default one, and those that were asked for by name."""

    object: Literal["list"]
    data: list[ModelItem]
    aliases: list[AliasItem] = Field(description="What was decided of each alias; of others nothing was.")


class Decision(fields.Question):
    """What is decided of which alias, and why."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"action": "activate", "source": "org/model", "why": "Better on our data."}]}
    )

    action: Literal["activate", "shadow", "trial", "rollback", "disable", "resume"]
    alias: str = Field("default", min_length=1, max_length=200, description="An embedder's alias, or scorer:NAME.")
    source: str | None = Field(None, min_length=1, description="Model or artifact, of activate, shadow and trial.")
    revision: str | None = Field(None, min_length=1)
    digest: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 that the weights must have.")
    precision: Literal["float32", "int8", "float16"] | None = None
    share: float = Field(0.1, ge=0, le=1, description="Share of the sentences, of shadow and trial; 0 ends it.")
    why: str = Field(min_length=1, max_length=1000, description="The reason, kept with the decision.")

    @model_validator(mode="after")
    def _has_source(self) -> "Decision":
        if (self.source is None) == (self.action in {"activate", "shadow", "trial"}):
            raise ValueError("expected a source with activate, shadow and trial, and with nothing else")
        return self

    def change(self, at: Alias) -> switching.Change:
        """The function of `streams.models.routing` for it."""
        if self.source is None:
            return {"rollback": routing.rollback, "disable": routing.disable, "resume": routing.resume}[self.action]
        target = switching.target(at, self.source, self.revision, self.precision, self.digest)
        if self.action == "activate":
            return lambda state, why: routing.activate(state, target, why)
        beside = {"shadow": routing.shadow, "trial": routing.trial}[self.action]
        return lambda state, why: beside(state, target if self.share else None, self.share, why)


RESPONSES = {304: {"description": "Still what the caller knows."}, **documented(*READING, Kind.UNAVAILABLE)}


@router.get("/v1/models", response_model=ModelsResponse, responses=RESPONSES)
async def list_models(call: ModelsCall, if_none_match: IfNoneMatch = None) -> Response:
    """Tell what is served, as the last answer from the stream said."""
    models = {found.identity: _item(found) for found in [served(call), *call.bridge.replies.said.values()]}
    states = call.bridge.control.routing.states
    aliases = [switching.summary(states[place]) for place in sorted(states)]
    return _answer({"object": "list", "data": [*models.values()], "aliases": aliases}, if_none_match)


DECIDING = documented(*COMMON, Kind.REFUSED_DECISION, Kind.UNAVAILABLE)


@router.post("/v1/models", response_model=AliasItem, responses=DECIDING)
async def decide_model(decision: Decision, call: AdminCall) -> Response:
    """Decide what an alias stands for, as `sentence-streams models` does; every worker follows at once."""
    bridge = call.bridge
    at = switching.place(decision.alias, bridge.control.routing)
    decide = partial(switching.decide, bridge.settings, bridge.codec, bridge.publisher.publish, bridge.control.routing)
    what = switching.Decision(decision.action, decision.change(at), call.caller.name, decision.why)
    try:
        state: ModelCommand = await decide(at, what)
    except routing.NotPossible as error:
        raise Problem(Kind.REFUSED_DECISION, str(error)) from None
    except switching.NotTaken as error:
        raise unavailable(str(error)) from None
    return Response(orjson.dumps(switching.summary(state)), media_type="application/json")


@router.get("/v1/models/{model:path}", response_model=ModelItem, responses={**RESPONSES, **documented(Kind.NOT_FOUND)})
async def get_model(
    model: Annotated[str, Path(description="Name of the model; it may hold a slash.")],
    call: ModelsCall,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Tell about one model."""
    found = next((each for each in call.bridge.replies.said.values() if each.model == model), None)
    if found is None:
        found = call.bridge.replies.said.get(model, served(call))
        check_model(call, model, found, "path:model")
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
