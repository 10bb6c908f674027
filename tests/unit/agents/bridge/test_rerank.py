"""`POST /v1/rerank`: documents in the order of their relevance, through a stream like every other question."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import pytest

from schemas.records import Sentence
from streams.embedding.model import Model, OneModel
from streams.embedding.replies import Replies
from streams.embedding.stage import EmbedStage
from streams.scoring.scorer import Needs, Verdict
from streams.testing import DeterministicEmbedder
from streams.topics import for_replies
from tests.support.bridge import CODEC, Loopback, client, looped_back

DOCUMENTS = ["rain falls", "the cat sleeps", "a cat and a dog"]


class Overlap:
    """Says that a text is as relevant as the share of the query's words in it."""

    version = "7"
    model = None
    needs: Needs = "pair"
    bounds = (0.0, 1.0)
    reference = None

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, inputs: Sequence[tuple[str, str]]) -> list[Verdict]:
        shares = [len({*q.split()} & {*text.split()}) / len({*q.split()}) for q, text in inputs]
        return [Verdict("relevance", share, {"relevance": share}) for share in shares]


@pytest.fixture
async def served() -> AsyncIterator[tuple[httpx2.AsyncClient, Loopback]]:
    """A bridge whose worker has one cross-encoder."""
    async with looped_back() as (bridge, stream):
        serve(stream, "rerank")
        async with client(bridge) as http:
            await http.post("/v1/embeddings", json={"input": "It learns who answers."})
            yield http, stream


def serve(stream: Loopback, *names: str) -> None:
    models = OneModel(Model(DeterministicEmbedder(), {name: Overlap(name) for name in names}))
    replies = Replies(CODEC, for_replies(stream._settings), models)
    stream._stage = EmbedStage(models, CODEC, "embeddings", publish_text=True, replies=replies)


async def rerank(http: httpx2.AsyncClient, **body: Any) -> httpx2.Response:
    return await http.post("/v1/rerank", json={"query": "a cat", "documents": DOCUMENTS, **body})


async def test_the_most_relevant_comes_first(served: tuple[httpx2.AsyncClient, Loopback]) -> None:
    """With its place in the request; the query travelled beside each document, and nothing is published."""
    http, stream = served
    before = len(stream.published)
    answer = (await rerank(http)).json()
    found = [(result["index"], result["relevance_score"]) for result in answer["results"]]
    assert found == [(2, 1.0), (1, 0.5), (0, 0.0)]
    assert (answer["model"], answer["version"]) == ("rerank", "7")
    assert {result["status"] for result in answer["results"]} == {"ok"}
    sent = [CODEC.decode(Sentence, record.value, record.headers) for record in stream.published[before:]]
    assert [(each.query, each.text) for each in sent] == [("a cat", text) for text in DOCUMENTS]
    assert {headers.results for headers in stream.asked_for()} == {"reply-only"}


async def test_only_as_many_as_wanted_with_their_texts(served: tuple[httpx2.AsyncClient, Loopback]) -> None:
    """Documents may be objects, too."""
    documents = [{"text": text} for text in DOCUMENTS]
    answer = (await rerank(served[0], documents=documents, top_n=1, return_documents=True, model="rerank")).json()
    [best] = answer["results"]
    assert (best["index"], best["document"]) == (2, {"text": "a cat and a dog"})


async def test_a_cross_encoder_is_none_of_the_scorers(served: tuple[httpx2.AsyncClient, Loopback]) -> None:
    """It needs a query, which `/v1/scores` has not: all scorers are all others."""
    answer = await served[0].post("/v1/scores", json={"input": "a cat", "scorers": ["rerank"]})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"query": " "}, 422, "/query"),
        ({"documents": []}, 422, "/documents"),
        ({"documents": ["a", " "]}, 422, "/documents/1"),
        ({"top_n": 0}, 422, "/top_n"),
        ({"model": "other"}, 404, "/model"),
        ({"query": "a" * 100_001}, 422, "/query"),
    ],
)
async def test_what_cannot_be_ranked_is_named(
    served: tuple[httpx2.AsyncClient, Loopback], body: dict[str, Any], status: int, field: str
) -> None:
    """By its place in the body."""
    answer = await rerank(served[0], **body)
    assert answer.status_code == status
    assert answer.json()["errors"][0]["field"].startswith(field)


@pytest.mark.parametrize(("names", "expected"), [((), "no cross-encoder"), (("one", "two"), "one of one, two")])
async def test_without_the_only_one_a_name_is_needed(names: tuple[str, ...], expected: str) -> None:
    """There is none, or there are several."""
    async with looped_back() as (bridge, stream):
        serve(stream, *names)
        async with client(bridge) as http:
            await http.post("/v1/embeddings", json={"input": "It learns who answers."})
            answer = await rerank(http)
    assert answer.status_code == 404
    assert expected in answer.json()["errors"][0]["expected"]
