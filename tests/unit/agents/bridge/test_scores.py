"""`POST /v1/scores` and `POST /v1/similarity`: verdicts and cosines, and who may not have them."""

from typing import Any

import httpx2
import numpy as np
import pytest

from schemas.records import Sentence
from streams.testing import DeterministicEmbedder
from tests.support.bridge import CODEC, LABELS, SCORER, Loopback, client, looped_back


def cosine(one: str, other: str) -> float:
    """How alike two texts are."""
    embedder = DeterministicEmbedder()
    first, second = embedder.embed(embedder.tokenise([one, other]))
    return float(np.clip(first @ second, -1, 1))


async def score(http: httpx2.AsyncClient, given: Any, **more: Any) -> httpx2.Response:
    """Asks for scores."""
    return await http.post("/v1/scores", json={"input": given, **more})


async def test_every_sentence_gets_every_scorers_verdict(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """Label and score of each label, with what made them; nothing of it is published."""
    answer = (await score(http, ["I am glad.", "Rain."])).json()
    assert (answer["object"], answer["model"], answer["revision"]) == ("list", "deterministic", "1")
    for index, (item, text) in enumerate(zip(answer["data"], ["I am glad.", "Rain."], strict=True)):
        assert (item["object"], item["index"], item["truncated"]) == ("scores", index, False)
        [verdict] = item["scores"]
        expected = {label: pytest.approx(cosine(text, words), abs=1e-6) for label, [words] in LABELS.items()}
        assert verdict["labels"] == expected
        assert verdict["score"] == expected[verdict["label"]]
        assert (verdict["scorer"], verdict["status"], verdict["reason"]) == (SCORER, "ok", None)
        assert verdict["version"]
    assert answer["data"][0]["scores"][0]["label"] == "good"
    assert {headers.results for headers in stream.asked_for()} == {"reply-only"}


async def test_a_lone_sentence_and_a_named_scorer(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """One text is as good as a list; a scorer named twice is asked once."""
    answer = (await score(http, "I am glad.", scorers=[SCORER, SCORER])).json()
    assert len(answer["data"]) == len(answer["data"][0]["scores"]) == 1
    [record] = stream.published
    assert CODEC.decode(Sentence, record.value, record.headers).scorers == (SCORER,)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"input": "a", "scorers": [SCORER, "nobody"]}, 422, "/scorers/1"),
        ({"input": "a", "scorers": []}, 422, "/scorers"),
        ({"input": "a", "model": "other"}, 404, "/model"),
        ({"input": "poison"}, 502, "/input"),
        ({"input": ["a", "b " * 300], "overflow": "reject"}, 422, "/input/1"),
    ],
)
async def test_what_cannot_be_scored_is_named(
    http: httpx2.AsyncClient, body: dict[str, Any], status: int, field: str
) -> None:
    """A problem that points at it."""
    answer = await http.post("/v1/scores", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)


async def test_similarity_is_the_cosine(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """The sentence with each of the others, in their order; the same one is as alike as can be."""
    body = {"sentence": "One two.", "sentences": ["Three.", "One two.", "Four five."]}
    answer = (await http.post("/v1/similarity", json=body)).json()
    found = [item["similarity"] for item in answer["data"]]
    assert found == pytest.approx([cosine("One two.", other) for other in body["sentences"]], abs=1e-6)
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == 7
    assert len(stream.published) == 3


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"sentence": "poison", "sentences": ["a"]}, "/sentence"),
        ({"sentence": "a", "sentences": ["a", "poison"]}, "/sentences/1"),
    ],
)
async def test_what_cannot_be_compared_is_named(http: httpx2.AsyncClient, body: dict[str, Any], field: str) -> None:
    """The one sentence, or one of the others."""
    answer = await http.post("/v1/similarity", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (502, field)


async def test_the_limit_counts_both_sides() -> None:
    """`max_items` holds for the sentence and the others together."""
    async with looped_back(max_items=2) as (bridge, _), client(bridge) as http:
        many = await http.post("/v1/similarity", json={"sentence": "a", "sentences": ["b", "c"]})
        assert (many.status_code, many.json()["errors"][0]["field"]) == (422, "/sentences/1")
