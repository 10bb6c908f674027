"""`POST /v1/rerank`: documents in the order of their relevance to a query, in the shape of Cohere and others."""

from typing import Annotated, Any

import orjson
from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from agents.bridge import fields
from agents.bridge.asking import ask, served
from agents.bridge.endpoints import ASKING, ScoreCall, admit, router_of
from agents.bridge.problems import Kind, Problem, documented, invalid
from schemas.records import Reply, Sentence

router = router_of("Rerank")


class Document(fields.Question):
    """A document as an object, as some clients send it."""

    text: fields.Text


class RerankRequest(fields.Question):
    """What to judge, and against what."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "Where do cats sleep?", "documents": ["On a sofa.", "It rains."]}]}
    )

    query: fields.Text
    documents: Annotated[list[fields.Text | Document], Field(min_length=1, max_length=fields.MAX_ITEMS)]
    model: str | None = Field(None, max_length=64, description="Name of a cross-encoder; null: the only one.")
    top_n: int | None = Field(None, ge=1, description="How many of the most relevant to return; null: all.")
    return_documents: bool = Field(False, description="Whether each result repeats its document.")


class RerankItem(BaseModel):
    """How relevant one document is."""

    index: int = Field(description="Place of the document in the request.")
    relevance_score: float = Field(description="The greater, the more relevant; from 0 to 1.")
    document: Document | None = Field(description="The document, where it was asked for.")
    status: str = Field(description="`fallback` where a default answer stands in for the model's, else `ok`.")


class RerankResponse(BaseModel):
    """The most relevant documents, best first."""

    id: str
    model: str = Field(description="Name of the cross-encoder.")
    version: str = Field(description="Version of the cross-encoder: another one may say something else.")
    results: list[RerankItem]


@router.post("/v1/rerank", response_model=RerankResponse, responses=documented(*ASKING))
async def create_rerank(question: RerankRequest, call: ScoreCall) -> Response:
    """Order documents by their relevance to a query, as a cross-encoder reads both together."""
    texts = [each if isinstance(each, str) else each.text for each in question.documents]

    def name(index: int) -> str:
        return f"/documents/{index}"

    if len(question.query) > call.bridge.settings.max_text:
        raise invalid([{"field": "/query", "expected": f"at most {call.bridge.settings.max_text} characters"}])
    await admit(call, texts, name)
    scorer = _known(question.model, served(call).rerankers)
    sentences = [
        Sentence(id=f"{call.id}/{n}", text=text, scorers=(scorer,), query=question.query)
        for n, text in enumerate(texts)
    ]
    replies = await ask(call, sentences, name)
    call.note.fields.update(model=scorer, documents=len(texts))
    results = sorted(
        (_result(n, reply) for n, reply in enumerate(replies)), key=lambda found: -found["relevance_score"]
    )
    for result in results:
        result["document"] = {"text": texts[result["index"]]} if question.return_documents else None
    version = replies[0].scores[0].scorer_version
    body = {"id": call.id, "model": scorer, "version": version, "results": results[: question.top_n]}
    return Response(orjson.dumps(body), media_type="application/json")


def _known(wanted: str | None, known: tuple[str, ...]) -> str:
    """Returns the cross-encoder to ask; raises Problem where it is not known, or there is more than one."""
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted is not None and wanted in known:
        return wanted
    expected = f"one of {', '.join(known)}" if known else "no request, since no cross-encoder is configured"
    error = {"field": "/model", "expected": expected, "reason": "model_not_found"}
    raise Problem(Kind.NOT_FOUND, "no such cross-encoder is served", errors=[error])


def _result(index: int, reply: Reply) -> dict[str, Any]:
    [score] = reply.scores
    return {"index": index, "relevance_score": score.score, "status": score.status}
