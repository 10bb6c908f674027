"""`POST /v1/sentences` and the results of what was sent: once for each key, kept for who sent it, told apart."""

import asyncio
import uuid
from typing import Any

import httpx2
import numpy as np
import orjson
import pytest

from agents.bridge import results as module
from agents.bridge.app import Bridge
from agents.bridge.stores import StoreUnavailable
from schemas.headers import Results
from schemas.records import Embedding, Overflow, Sentence
from streams.testing import DeterministicEmbedder, PublishedRecord
from tests.support.bridge import CODEC, SCORER, Loopback, client, looped_back

ONE = {"sentences": [{"text": "One two."}]}


async def send(http: httpx2.AsyncClient, body: Any = ONE, key: str | None = None) -> httpx2.Response:
    """Sends sentences."""
    return await http.post("/v1/sentences", json=body, headers={} if key is None else {"Idempotency-Key": key})


async def result(http: httpx2.AsyncClient, sent: httpx2.Response, index: int = 0, **query: Any) -> httpx2.Response:
    """Asks what became of a sentence that was sent."""
    return await http.get(sent.json()["data"][index]["results"], params={"wait": 5, **query})


# -- sending --------------------------------------------------------------------------------------------------


async def test_sentences_go_into_the_bulk_lane(http: httpx2.AsyncClient, bridge: Bridge, stream: Loopback) -> None:
    """202 with id and coordinates of each; the records ask for published results, and a reply that is kept."""
    items = [
        {"text": "a", "metadata": {"document": "17"}, "scorers": [SCORER], "dimensions": 5, "overflow": "reject"},
        {"text": "b"},
    ]
    answer = await send(http, {"sentences": items, "model": "deterministic"})
    assert answer.status_code == 202
    data = answer.json()["data"]
    assert [(item["index"], item["partition"], item["offset"]) for item in data] == [(0, 0, 0), (1, 0, 1)]
    assert {record.topic for record in stream.published} == {bridge.settings.topic_requests}
    first = CODEC.decode(Sentence, stream.published[0].value)
    assert first == Sentence(data[0]["id"], "a", "deterministic", 5, (SCORER,), Overflow.REJECT, {"document": "17"})
    for headers in stream.asked_for():
        assert headers.results is Results.PUBLISH
        assert headers.reply_topic == bridge.settings.topic_kept_replies
        assert (headers.reply_partition, headers.deadline) == (None, None)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"sentences": []}, 422, "/sentences"),
        ({"sentences": [{"text": "a"}, {"text": " "}]}, 422, "/sentences/1/text"),
        ({"sentences": [{"text": "a", "metadata": {"n": 1}}]}, 422, "/sentences/0/metadata/n"),
        ({"sentences": [{"text": "a", "id": "mine"}]}, 422, "/sentences/0/id"),
        ({"sentences": [{"text": "a"}], "model": "other"}, 404, "/model"),
    ],
)
async def test_wrong_sentences_are_named(http: httpx2.AsyncClient, body: Any, status: int, field: str) -> None:
    """Nothing is sent; the answer points at what is wrong."""
    answer = await send(http, body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)


async def test_records_that_no_broker_would_take_are_named() -> None:
    """All or nothing: one sentence that is too large for a record keeps all from being sent."""
    async with looped_back(max_request_bytes=10_000) as (bridge, stream), client(bridge) as http:
        answer = await send(http, {"sentences": [{"text": "a"}, {"text": "b" * 9_000}]})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "/sentences/1")
        assert stream.published == []


async def test_no_broker_takes_it(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """503 at the deadline, and the key is free for another try."""
    stream.up = False
    headers = {"Request-Timeout": "0.05", "Idempotency-Key": "k"}
    answer = await http.post("/v1/sentences", json=ONE, headers=headers)
    assert answer.status_code == 503
    stream.up = True
    assert (await send(http, key="k")).status_code == 202


# -- once -----------------------------------------------------------------------------------------------------


async def test_a_key_is_executed_once(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """A repeat gets the same answer and sends nothing; the ids follow from caller, key and place."""
    first, again = await send(http, key="k"), await send(http, key="k")
    assert (again.status_code, again.content) == (202, first.content)
    assert len(stream.published) == 1
    other = await send(http, key="k2")
    assert other.json()["data"][0]["id"] != first.json()["data"][0]["id"]


async def test_a_hundred_at_once_are_executed_once(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """One sends, the others hear that it is running, or get its answer."""
    stream.up = False
    asking = [asyncio.create_task(send(http, key="k")) for _ in range(100)]
    await asyncio.sleep(0.05)
    stream.up = True
    answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {202, 409}
    assert [answer.status_code for answer in answers].count(202) == 1
    assert len(stream.published) == 1
    assert (await send(http, key="k")).status_code == 202


async def test_a_key_is_for_one_body(http: httpx2.AsyncClient) -> None:
    """422 for another one; the order of fields makes no other body."""
    await send(http, {"sentences": [{"text": "a", "dimensions": 5}]}, "k")
    assert (await send(http, ONE, "k")).json()["type"] == "/problems/idempotency-key-reused"
    assert (await send(http, {"sentences": [{"dimensions": 5, "text": "a"}]}, "k")).status_code == 202


@pytest.mark.parametrize("key", ["", "with space", "x" * 256])
async def test_keys_have_a_form(http: httpx2.AsyncClient, key: str) -> None:
    """Anything else is refused."""
    answer = await send(http, key=key)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "header:idempotency-key")


async def test_an_answer_that_cannot_be_kept_is_given_all_the_same(
    http: httpx2.AsyncClient, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentences are sent: to say otherwise would be wrong."""

    async def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(bridge.stores.idempotency, "finish", away)
    assert (await send(http, key="k")).status_code == 202


async def test_a_store_that_is_away(
    http: httpx2.AsyncClient, bridge: Bridge, stream: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, and nothing is sent: no promise is made that cannot be kept."""

    async def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(bridge.stores.idempotency, "begin", away)
    assert (await send(http, key="k")).status_code == 503
    assert stream.published == []


# -- results --------------------------------------------------------------------------------------------------


async def test_a_result_has_vector_and_scores(http: httpx2.AsyncClient) -> None:
    """What became of a sentence, once it is there; the same ETag while it is the same."""
    sent = await send(http, {"sentences": [{"text": "I am glad.", "scorers": [SCORER], "dimensions": 384}]})
    answer = await result(http, sent)
    found = answer.json()
    embedder = DeterministicEmbedder()
    vector = embedder.embed(embedder.tokenise(["I am glad."]))[0]
    np.testing.assert_array_equal(np.float32(found["embedding"].pop("values")), vector)
    assert found["embedding"] == {
        "model": "deterministic", "revision": "1", "dimensions": 384, "tokens": 3, "truncated": False
    }  # fmt: skip
    assert (found["status"], found["error"]) == ("done", None)
    assert [score["label"] for score in found["scores"]] == ["good"]
    path, tag = sent.json()["data"][0]["results"], answer.headers["etag"]
    assert (await http.get(path, headers={"If-None-Match": f'"other", {tag}'})).status_code == 304
    assert (await http.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_a_refused_sentence_says_why(http: httpx2.AsyncClient) -> None:
    """A refusal is a result, too."""
    found = (await result(http, await send(http, {"sentences": [{"text": "poison"}]}))).json()
    assert (found["status"], found["embedding"], found["error"]["reason"]) == ("refused", None, "embedding-failed")


async def test_pending_until_it_comes(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """202 while it is not there; a request that waits gets it when it comes."""
    stream.working.clear()
    sent = await send(http)
    pending = await result(http, sent, wait=0)
    assert (pending.status_code, pending.json()["status"], pending.headers["retry-after"]) == (202, "pending", "1")
    waiting = asyncio.create_task(result(http, sent))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    stream.working.set()
    assert (await waiting).json()["status"] == "done"


async def test_unknown_and_gone_are_told_apart(bridge: Bridge, http: httpx2.AsyncClient) -> None:
    """404 for what this client never sent, 410 for what is not kept any more."""
    sent = await send(http)
    await result(http, sent)
    path = sent.json()["data"][0]["results"]
    assert (await http.get(f"/v1/sentences/{uuid.uuid4()}/results")).status_code == 404
    async with client(bridge) as stranger:
        stranger._transport.client = ("10.0.0.1", 1)  # type: ignore[attr-defined]
        assert (await stranger.get(path)).status_code == 404
    bridge.stores.results._results.clear()  # type: ignore[attr-defined]
    assert (await http.get(path)).status_code == 410


@pytest.mark.parametrize("path", ["/v1/sentences/not-an-id/results", f"/v1/sentences/{uuid.uuid4()}/results?wait=51"])
async def test_wrong_questions_for_results(http: httpx2.AsyncClient, path: str) -> None:
    """422, as anywhere."""
    assert (await http.get(path)).status_code == 422


async def events(http: httpx2.AsyncClient, path: str) -> list[tuple[str, Any]]:
    """Every event of a stream: its kind, and what it holds."""
    answer = await http.get(path, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in answer.text.split("\n\n") if block]
    return [(each["event"], orjson.loads(each["data"])) for each in blocks if "event" in each]


async def test_results_come_as_events(
    http: httpx2.AsyncClient, bridge: Bridge, stream: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream of events stays open, with signs of life, until the result is there; then it ends."""
    monkeypatch.setattr(module, "ALIVE", 0.01)
    stream.working.clear()
    sent = await send(http)
    path = sent.json()["data"][0]["results"]
    waiting = asyncio.create_task(events(http, path))
    await asyncio.sleep(0.05)
    stream.working.set()
    [(kind, found)] = await waiting
    assert (kind, found["status"]) == ("result", "done")
    assert (await http.get(f"/v1/sentences/{uuid.uuid4()}/results", headers={"Accept": "text/event-stream"})).is_error
    bridge.leaving = True
    assert await events(http, path) == [], "a bridge that leaves ends them: the caller comes back to another"


async def test_replies_that_nobody_sent_for_are_passed_over(bridge: Bridge, stream: Loopback) -> None:
    """Rubbish on the topic of kept replies is counted, and does no harm."""
    record = PublishedRecord("kept", 0, 0, 2**50, None, b"rubbish", [("correlation-id", b"nobody's")])
    await bridge.kept._keep([record, PublishedRecord("kept", 0, 0, 0, None, b"old", [("correlation-id", b"a/b")])])
    samples = {each.labels["outcome"]: each.value for each in bridge.metrics.replies.collect()[0].samples[::2]}
    assert samples == {"taken": 1, "unknown": 1}


async def test_what_subscribers_get_is_the_same(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """The published embedding is that of the sentence with the id of the answer."""
    sent = await send(http)
    await result(http, sent)
    made = stream.came[stream.bridge.settings.topic_embeddings]
    [embedding] = [CODEC.decode(Embedding, record.value) for record in made]
    assert embedding.sentence_id == sent.json()["data"][0]["id"]
