"""`POST /v1/embeddings`: what comes back, what is asked for, and how failures are told."""

import asyncio
import base64
import dataclasses
from collections.abc import Sequence
from typing import Any

import httpx2
import numpy as np
import pytest

from agents.bridge.app import Bridge
from schemas.headers import Results
from schemas.packing import pack
from schemas.records import Encoding, Sentence
from streams.embedding.embedder import Vectors
from streams.testing import DeterministicEmbedder
from tests.support.bridge import CODEC, Loopback, client, looped_back

MODEL = DeterministicEmbedder.identity


def vector(text: str) -> Vectors:
    """The vector of a text."""
    embedder = DeterministicEmbedder()
    return embedder.embed(embedder.tokenise([text]))[0]


async def embed(http: httpx2.AsyncClient, given: Any, headers: dict[str, str] | None = None, **more: Any) -> Any:
    """Asks for vectors."""
    return await http.post("/v1/embeddings", json={"input": given, **more}, headers=headers or {})


# -- answers --------------------------------------------------------------------------------------------------


async def test_a_text_gets_its_vector_in_openais_shape(http: httpx2.AsyncClient) -> None:
    """One text, one item with the model's vector, and how many tokens were read."""
    answer = (await embed(http, "One two three.")).json()
    [item] = answer.pop("data")
    np.testing.assert_array_equal(np.float32(item.pop("embedding")), vector("One two three."))
    assert item == {"object": "embedding", "index": 0, "truncated": False}
    assert answer == {
        "object": "list",
        "model": MODEL.name,
        "revision": MODEL.revision,
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


async def test_a_list_gets_a_vector_each_in_its_order(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """Items stand in the order of their texts; equal texts are asked for once and answered each."""
    texts = ["a", "b c", "a", "d"]
    answer = (await embed(http, texts)).json()
    assert [item["index"] for item in answer["data"]] == [0, 1, 2, 3]
    for item, text in zip(answer["data"], texts, strict=True):
        np.testing.assert_array_equal(np.float32(item["embedding"]), vector(text))
    assert answer["usage"]["prompt_tokens"] == 5
    assert len(stream.published) == 3


async def test_base64_is_little_endian_float32(http: httpx2.AsyncClient) -> None:
    """The same numbers, as OpenAI's own client asks for them."""
    answer = (await embed(http, "a", encoding_format="base64")).json()
    found = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(found, vector("a"))


@pytest.mark.parametrize(("kind", "dtype"), [("int8", np.int8), ("binary", np.uint8)])
async def test_smaller_numbers_on_request(http: httpx2.AsyncClient, stream: Loopback, kind: str, dtype: Any) -> None:
    """Packed from the one vector that is asked for and kept: as numbers, as base64, with the scale of int8."""
    _, data, scale = pack(vector("a"), Encoding(kind))
    listed, coded, whole = [
        await embed(http, "a", **more)
        for more in ({"output_dtype": kind}, {"output_dtype": kind, "encoding_format": "base64"}, {})
    ]
    [item], [code] = listed.json()["data"], coded.json()["data"]
    assert np.array(item["embedding"], dtype).tobytes() == base64.b64decode(code["embedding"]) == data
    assert item.get("scale") == code.get("scale") == scale
    assert len(stream.published) == 1
    assert len({each.headers["etag"] for each in (listed, coded, whole)}) == 3


async def test_dimensions_shorten_and_rescale(http: httpx2.AsyncClient) -> None:
    """As many values as asked for, of unit length."""
    found = np.float32((await embed(http, "a", dimensions=50)).json()["data"][0]["embedding"])
    head = vector("a")[:50]
    np.testing.assert_allclose(found, head / np.linalg.norm(head), rtol=1e-6)


async def test_a_cut_text_is_flagged(http: httpx2.AsyncClient) -> None:
    """A text longer than the model reads says so, also when it is known already."""
    for _ in range(2):
        answer = (await embed(http, ["short", "long " * 300])).json()
        assert [item["truncated"] for item in answer["data"]] == [False, True]
        assert answer["usage"]["prompt_tokens"] == 1 + 256


# -- what is asked --------------------------------------------------------------------------------------------


async def test_questions_are_for_the_caller_only(http: httpx2.AsyncClient, bridge: Bridge, stream: Loopback) -> None:
    """A synchronous question goes to the interactive lane, reply-only, and with the deadline of its caller."""
    await embed(http, "a", {"Request-Timeout": "3", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"})
    [record] = stream.published
    [headers] = stream.asked_for()
    settings = bridge.settings
    assert (record.topic, record.key) == (settings.topic_interactive, None)
    assert (headers.results, headers.reply_topic, headers.reply_partition) == (
        Results.REPLY_ONLY,
        settings.topic_replies,
        0,
    )
    assert headers.traceparent.startswith(b"00-" + b"ab" * 16)
    assert CODEC.decode(Sentence, record.value, record.headers).text == "a"
    later = await embed(http, "b", {"Request-Timeout": "20"})
    assert later.status_code == 200
    assert 16_000 < stream.asked_for()[1].deadline - headers.deadline < 18_000


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon"])
async def test_a_timeout_is_a_positive_number(http: httpx2.AsyncClient, timeout: str) -> None:
    """Any other `Request-Timeout` is refused, and named."""
    answer = await embed(http, "a", {"Request-Timeout": timeout})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "header:request-timeout")


# -- what is known already ------------------------------------------------------------------------------------


async def test_what_is_known_is_not_asked_again(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """A repeat is the same answer, with the same ETag, and asks for what is new only; sizes are told apart."""
    first = await embed(http, ["a", "b"])
    again = await embed(http, ["a", "b"])
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
    assert "private" in again.headers["cache-control"]
    await embed(http, ["b", "c"])
    assert len(stream.published) == 3
    shorter = await embed(http, ["a", "b"], dimensions=5)
    assert len(shorter.json()["data"][0]["embedding"]) == 5
    assert shorter.headers["etag"] != first.headers["etag"]


async def test_nothing_is_kept_without_a_cache() -> None:
    """`cache_bytes` 0 asks every time."""
    async with looped_back(cache_bytes=0) as (bridge, stream), client(bridge) as http:
        for _ in range(2):
            assert (await embed(http, "a")).status_code == 200
        assert len(stream.published) == 2


class Switched(DeterministicEmbedder):
    """Another model: the opposite vectors."""

    identity = dataclasses.replace(MODEL, revision="2", digest="0" * 64)

    def embed(self, batch: Sequence[Any]) -> Vectors:
        """Unit vectors, shape (len(batch), 384)."""
        return -super().embed(batch)


async def test_a_switch_of_the_model_never_mixes_vectors(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """Where the answer to one text comes from another model, the vectors known of the first are asked for again."""
    await embed(http, "a")
    stream.serve(Switched())
    answer = (await embed(http, ["a", "b"])).json()
    assert answer["revision"] == "2"
    for item, text in zip(answer["data"], "ab", strict=True):
        np.testing.assert_array_equal(np.float32(item["embedding"]), -vector(text))


class Flipping(Loopback):
    """A stream whose workers serve two models in turn."""

    async def post(self, records: Any) -> Any:
        self.turn = not getattr(self, "turn", False)
        self.serve(Switched() if self.turn else DeterministicEmbedder())
        return await super().post(records)


async def test_models_that_go_on_changing_are_unavailable(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """Vectors of two models are no answer: the caller is told to come back."""
    stream.__class__ = Flipping
    await embed(http, "a")
    answer = await embed(http, ["a", "b"])
    if answer.status_code == 200:  # what was known came from the model of this turn
        answer = await embed(http, ["a", "c"])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# -- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "/input"),
        ({"input": ""}, "/input"),
        ({"input": " \n"}, "/input"),
        ({"input": []}, "/input"),
        ({"input": ["a", ""]}, "/input/1"),
        ({"input": ["a"] * 2049}, "/input"),
        ({"input": 5}, "/input"),
        ({"input": "a", "dimensions": 0}, "/dimensions"),
        ({"input": "a", "dimensions": "5"}, "/dimensions"),
        ({"input": "a", "dimensions": 385}, "/dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "/encoding_format"),
        ({"input": "a", "dimension": 5}, "/dimension"),
    ],
)
async def test_wrong_fields_are_named(http: httpx2.AsyncClient, body: Any, field: str) -> None:
    """422, and a pointer to what is wrong."""
    answer = await http.post("/v1/embeddings", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert field in [error["field"] for error in answer.json()["errors"]]


@pytest.mark.parametrize("tokens", [[1, 2], [[1, 2], [3]]])
async def test_tokens_are_refused_clearly(http: httpx2.AsyncClient, tokens: Any) -> None:
    """Lists of token ids are of another model's tokeniser."""
    answer = await embed(http, tokens)
    assert answer.status_code == 422
    assert "not tokens" in answer.text


async def test_limits_on_items_and_texts() -> None:
    """Both can be set lower; the answer names the field."""
    async with looped_back(max_items=2, max_text=3) as (bridge, _), client(bridge) as http:
        many, long = await embed(http, ["a", "b", "c"]), await embed(http, ["abc", "abcd"])
        assert (many.status_code, many.json()["errors"][0]["field"]) == (422, "/input/2")
        assert (long.status_code, long.json()["errors"][0]["field"]) == (422, "/input/1")
        assert (await embed(http, ["abc", "b"])).status_code == 200


async def test_an_unknown_model_is_not_found(http: httpx2.AsyncClient) -> None:
    """404 in our terms and OpenAI's."""
    answer = await embed(http, "a", model="gpt-9")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_a_poisoned_text_fails_its_request_and_is_named(http: httpx2.AsyncClient) -> None:
    """All or nothing: the texts that failed are named, with why; nobody should try the same again."""
    answer = await embed(http, ["a", "poison b", "c", "poison d"])
    assert (answer.status_code, answer.headers["x-should-retry"]) == (502, "false")
    problem = answer.json()
    assert [error["field"] for error in problem["errors"]] == ["/input/1", "/input/3"]
    assert {error["reason"] for error in problem["errors"]} == {"embedding-failed"}
    assert "poison" not in answer.text


async def test_the_place_of_a_lone_text_is_its_field(http: httpx2.AsyncClient) -> None:
    """A text that is no list has no index."""
    assert (await embed(http, "poison")).json()["errors"][0]["field"] == "/input"


async def test_long_texts_are_embedded_in_windows_where_asked(http: httpx2.AsyncClient) -> None:
    """`overflow: chunk` gets the mean of all windows, `truncate` the vector of the beginning, whichever came first."""
    long = "A sentence of five words. " * 100
    answers = [await embed(http, long, overflow=wanted) for wanted in ("truncate", "chunk", "truncate", "chunk")]
    [cut, whole, *again] = [answer.json() for answer in answers]
    assert [cut, whole] == again
    assert [each["data"][0]["truncated"] for each in (cut, whole)] == [True, False]
    assert cut["data"][0]["embedding"] != whole["data"][0]["embedding"]
    assert whole["usage"]["prompt_tokens"] > 500
    assert answers[0].headers["etag"] != answers[1].headers["etag"]


async def test_long_texts_are_rejected_where_asked(http: httpx2.AsyncClient) -> None:
    """`overflow: reject` refuses them, known or not."""
    long = "long " * 300
    assert (await embed(http, long)).status_code == 200
    answer = await embed(http, ["a", long], overflow="reject")
    assert (answer.status_code, answer.json()["errors"][0]["reason"]) == (422, "text-too-long")
    assert answer.json()["errors"][0]["field"] == "/input/1"


async def test_no_answer_in_time(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """504 at the deadline, and the place is free again."""
    stream.working.clear()
    answer = await embed(http, "a", {"Request-Timeout": "0.05"})
    assert answer.status_code == 504
    assert stream.bridge.replies.asked == 0


async def test_no_worker_no_answer(bridge: Bridge, http: httpx2.AsyncClient) -> None:
    """503 at once where nothing came back from the stream for a while, but what is known is still answered."""
    await embed(http, "known")
    bridge.replies._heard -= 3600
    answer = await embed(http, "new")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await embed(http, "known")).status_code == 200


async def test_before_the_first_answer(bridge: Bridge, http: httpx2.AsyncClient) -> None:
    """503 while nobody has said what is served."""
    bridge.replies.served = None
    assert (await embed(http, "a")).status_code == 503


async def test_a_broker_that_takes_nothing(
    http: httpx2.AsyncClient, stream: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 at the deadline where no broker took the request."""
    monkeypatch.setattr("agents.bridge.replies.RECEIPT", 0.01)
    stream.up = False
    assert (await embed(http, "a", {"Request-Timeout": "0.05"})).status_code == 503


async def test_many_at_once(http: httpx2.AsyncClient) -> None:
    """Every caller gets its own answer."""
    answers = await asyncio.gather(*(embed(http, [f"text {n}", "shared"]) for n in range(50)))
    for n, answer in enumerate(answers):
        np.testing.assert_array_equal(np.float32(answer.json()["data"][0]["embedding"]), vector(f"text {n}"))
