"""`POST /v1/scores` and `POST /v1/similarity`: what scorers say of sentences, and how alike sentences are."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from agents.bridge import fields
from agents.bridge.asking import ask, check_model, served
from agents.bridge.endpoints import ASKING, EmbedCall, ScoreCall, admit, listed, router_of
from agents.bridge.problems import documented, invalid
from agents.bridge.vectors import Found, Wanted, vectors
from schemas.records import Overflow, Reply, Score, Sentence

router = router_of("Scores")

ScorerName = Annotated[str, Field(min_length=1, max_length=64)]
Scorers = Annotated[
    Annotated[list[ScorerName], Field(min_length=1, max_length=64)] | None,
    Field(description="Names of scorers, as /v1/models tells them; null: all of them."),
]


# -- scores ---------------------------------------------------------------------------------------------------


class ScoresRequest(fields.Question):
    """What to score, and by whom."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["I am glad.", "I am not."]}]})

    input: fields.Text | fields.Texts = Field(description="A sentence, or a list of sentences.")
    scorers: Scorers = None
    model: fields.ModelName = None
    overflow: fields.OverflowName = "truncate"


class ScoreItem(BaseModel):
    """What one scorer says of one sentence."""

    scorer: str
    version: str = Field(description="Version of the scorer: another one may say something else.")
    label: str = Field(description="The label with the highest score.")
    score: float
    labels: dict[str, float] = Field(description="Every label with its score.")
    status: Literal["ok", "fallback"] = Field(description="`fallback`: a default answer stands in for the scorer's.")
    reason: str | None = Field(description="Why it is a fallback; null where it is not.")


class ScoredItem(BaseModel):
    """The scores of one sentence."""

    object: Literal["scores"]
    index: int = Field(description="Place of the sentence in the request.")
    scores: list[ScoreItem] = Field(description="One for each scorer, in the order they were asked for.")
    truncated: fields.Truncated


class ScoresResponse(BaseModel):
    """The scores, in the order of the sentences."""

    object: Literal["list"]
    data: list[ScoredItem]
    model: str = Field(description="The model whose vectors were scored.")
    revision: fields.Revision


@router.post("/v1/scores", response_model=ScoresResponse, responses=documented(*ASKING))
async def create_scores(question: ScoresRequest, call: ScoreCall) -> Response:
    """Score sentences: every scorer's verdict on each, or a problem that names the sentences that failed."""
    texts, name = listed(question.input, "/input")
    await admit(call, texts, name)
    model = served(call)
    check_model(call, question.model, model)
    scorers = _known(question.scorers, model.scorers)
    overflow = Overflow(question.overflow)
    sentences = [
        Sentence(id=f"{call.id}/{n}", text=text, model=question.model, scorers=scorers, overflow=overflow)
        for n, text in enumerate(texts)
    ]
    replies = await ask(call, sentences, name)
    call.note.fields.update(model=model.model, sentences=len(texts))
    body = {
        "object": "list",
        "data": [_scored(n, reply) for n, reply in enumerate(replies)],
        "model": replies[0].served.model,
        "revision": replies[0].served.revision,
    }
    return Response(orjson.dumps(body), media_type="application/json")


def _known(wanted: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Returns the scorers to ask, each once; raises Problem where one is not known."""
    names = wanted or known
    expected = f"one of {', '.join(known)}" if known else "no scorer, since none is configured"
    unknown = [n for n, each in enumerate(names) if each not in known]
    if unknown or not names:
        raise invalid([{"field": f"/scorers/{n}", "expected": expected} for n in unknown or [0]])
    return tuple(dict.fromkeys(names))


def _scored(index: int, reply: Reply) -> dict[str, Any]:
    truncated = reply.embedding is not None and reply.embedding.truncated
    return {
        "object": "scores",
        "index": index,
        "scores": [score_fields(score) for score in reply.scores],
        "truncated": truncated,
    }


def score_fields(score: Score) -> dict[str, Any]:
    """Returns a score as a ScoreItem has it."""
    return {
        "scorer": score.scorer,
        "version": score.scorer_version,
        "label": score.label,
        "score": score.score,
        "labels": score.labels,
        "status": score.status,
        "reason": score.reason,
    }


# -- similarity -----------------------------------------------------------------------------------------------


class SimilarityRequest(fields.Question):
    """What to compare, and how to embed it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sentence": "A cat sleeps.", "sentences": ["A kitten naps.", "Rain."]}]}
    )

    sentence: fields.Text = Field(description="The sentence to compare with each of the others.")
    sentences: Annotated[list[fields.Text], Field(min_length=1, max_length=fields.MAX_ITEMS - 1)]
    model: fields.ModelName = None
    dimensions: fields.Dimensions = None
    overflow: fields.OverflowName = "truncate"


class SimilarityItem(BaseModel):
    """How like the sentence another one is."""

    object: Literal["similarity"]
    index: int = Field(description="Place of the other sentence in the request.")
    similarity: float = Field(ge=-1, le=1, description="Cosine of the two vectors.")
    truncated: fields.Truncated


class SimilarityResponse(BaseModel):
    """The similarities, in the order of the sentences."""

    object: Literal["list"]
    data: list[SimilarityItem]
    model: str
    revision: fields.Revision
    usage: fields.Usage


@router.post("/v1/similarity", response_model=SimilarityResponse, responses=documented(*ASKING))
async def create_similarity(question: SimilarityRequest, call: EmbedCall) -> Response:
    """Compare a sentence with many: the cosine of its vector with each of theirs."""
    texts = [question.sentence, *question.sentences]

    def name(index: int) -> str:
        return f"/sentences/{index - 1}" if index else "/sentence"

    await admit(call, texts, name)
    found = await vectors(call, texts, Wanted(question.model, question.dimensions, question.overflow), name)
    body = {
        "object": "list",
        "data": _similarities(found),
        "model": found.served.model,
        "revision": found.served.revision,
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    }
    return Response(orjson.dumps(body), media_type="application/json")


def _similarities(found: Found) -> list[dict[str, Any]]:
    first, *others = found.vectors
    cosines = np.clip(np.stack([each.values for each in others]) @ first.values, -1, 1).tolist()
    return [
        {"object": "similarity", "index": n, "similarity": cosine, "truncated": each.truncated}
        for n, (cosine, each) in enumerate(zip(cosines, others, strict=True))
    ]
