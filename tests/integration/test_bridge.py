"""The bridge with a real worker on a real Kafka: answers, clients that are not ours, outages, shutdown."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from streams.embedding.embedder import Vectors
from streams.testing import DeterministicEmbedder
from tests.support.kafka import HasBrokers, Kafka
from tests.support.stream import PATIENCE, Program, Stream, wait_until


def vector(text: str) -> Vectors:
    """The vector of a text."""
    embedder = DeterministicEmbedder()
    return embedder.embed(embedder.tokenise([text]))[0]


def logged(bridge: Program, request_id: str) -> dict[str, Any]:
    """What a bridge logged of a request, once it has: that comes after the answer."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        lines = [json.loads(line) for line in bridge.log.read_text().split("\n")[:-1]]
        found[:] = [line for line in lines if line.get("request_id") == request_id]
        return bool(found)

    wait_until(there, f"{request_id} is in the log")
    [line] = found
    return line


@dataclass(frozen=True)
class Running:
    """A stream with a worker, and two bridges that read one partition."""

    stream: Stream
    worker: Program
    bridge: Program
    other: Program

    def embed(
        self, given: Any, *, timeout: float = 30.0, bridge: Program | None = None, **more: Any
    ) -> httpx2.Response:
        """Asks a bridge (the first) for vectors."""
        url = f"{(bridge or self.bridge).url}/v1/embeddings"
        headers = {"Request-Timeout": str(timeout)}
        return httpx2.post(url, json={"input": given, **more}, headers=headers, timeout=PATIENCE)


@pytest.fixture(scope="module")
def running(kafka: HasBrokers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All of it, ready, shared: texts are a test's own."""
    with Stream(kafka.bootstrap_servers, tmp_path_factory.mktemp("bridge"), reply_partition=2) as stream:
        worker, bridge, other = stream.start("worker"), stream.start("bridge"), stream.start("bridge")
        yield Running(stream, worker.ready(), bridge.ready(), other.ready())
        for program in (bridge, other, worker):
            program.stop()


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    """OpenAI's client, as it comes."""
    with openai.OpenAI(base_url=f"{running.bridge.url}/v1", api_key="none", max_retries=0) as found:
        yield found


# -- answers --------------------------------------------------------------------------------------------------


def test_openais_client_works_unchanged(client: openai.OpenAI) -> None:
    """Lists and lone texts, both formats, shorter vectors, usage."""
    found = client.embeddings.create(model="deterministic", input=["One two.", "Three."])
    for item, text in zip(found.data, ["One two.", "Three."], strict=True):
        np.testing.assert_array_equal(np.float32(item.embedding), vector(text))
    assert (found.model, found.usage.prompt_tokens, found.usage.total_tokens) == ("deterministic", 3, 3)
    plain = client.embeddings.create(model="deterministic", input="One two.", encoding_format="float")
    np.testing.assert_array_equal(np.float32(plain.data[0].embedding), vector("One two."))
    short = client.embeddings.create(model="deterministic", input="Shorter.", dimensions=10, user="somebody")
    assert len(short.data[0].embedding) == 10


def test_openais_client_shows_our_errors(client: openai.OpenAI) -> None:
    """Message, code and parameter of a problem are where that client looks for them."""
    with pytest.raises(openai.NotFoundError, match="deterministic is") as unknown:
        client.embeddings.create(model="gpt-9", input="a")
    assert (unknown.value.code, unknown.value.param, unknown.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )
    with pytest.raises(openai.UnprocessableEntityError, match="input") as empty:
        client.embeddings.create(model="deterministic", input=["a", ""])
    assert empty.value.param == "input.1"
    assert empty.value.request_id


def test_2048_texts_are_one_answer(running: Running) -> None:
    """Many records, one answer, every vector in its place."""
    texts = [f"Text {n} of many." for n in range(2048)]
    answer = running.embed(texts).json()
    assert answer["usage"]["prompt_tokens"] == 4 * 2048
    for item, text in zip(answer["data"], texts, strict=True):
        np.testing.assert_array_equal(np.float32(item["embedding"]), vector(text))


def test_nobody_else_sees_a_question(running: Running) -> None:
    """What was asked for an answer only is neither an embedding nor a dead letter."""
    assert running.embed("Only for me.").status_code == 200
    assert running.embed("long " * 300, overflow="reject").status_code == 422
    running.stream.finish()
    settings = running.stream.settings
    assert running.stream.read(settings.topic_embeddings) == []
    assert running.stream.dead_letters() == []


async def test_two_bridges_share_a_partition(running: Running) -> None:
    """Both ask at the same time and read the same replies; each caller gets its own."""

    async def ask(http: httpx2.AsyncClient, n: int) -> None:
        bridge = (running.bridge, running.other)[n % 2]
        body = {"input": [f"Caller {n}.", f"Also of caller {n}."]}
        answer = (await http.post(f"{bridge.url}/v1/embeddings", json=body)).json()
        for item, text in zip(answer["data"], body["input"], strict=True):
            np.testing.assert_array_equal(np.float32(item["embedding"]), vector(text))

    async with httpx2.AsyncClient(timeout=PATIENCE) as http:
        await asyncio.gather(*(ask(http, n) for n in range(200)))
    for bridge in (running.bridge, running.other):
        assert bridge.metrics()['streams_replies_total{outcome="unknown"}'] > 0


# -- callers that leave, and what is told ---------------------------------------------------------------------


def test_a_caller_who_hangs_up_frees_its_place(running: Running) -> None:
    """While nobody answers a connection is closed: the bridge waits no longer, and logs it as 499."""
    running.worker.freeze()
    try:
        host, port = running.bridge.url.removeprefix("http://").split(":")
        body = json.dumps({"input": "I will not wait."})
        with socket.create_connection((host, int(port))) as caller:
            head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            caller.sendall(f"{head}X-Request-Id: impatient\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            wait_until(
                lambda: running.bridge.metrics()["streams_http_in_flight"] == 2, "it waits, beside this question"
            )
        wait_until(lambda: running.bridge.metrics()["streams_http_in_flight"] == 1, "nobody waits")
    finally:
        running.worker.thaw()
    assert logged(running.bridge, "impatient")["status"] == 499


def test_a_request_can_be_followed(running: Running) -> None:
    """Its id and trace are in the answer, in the log and on the record; the log has timings, but no text."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-Id": "mine-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    url = f"{running.bridge.url}/v1/embeddings"
    answer = httpx2.post(url, json={"input": "A secret text."}, headers=headers, timeout=PATIENCE)
    assert answer.headers["x-request-id"] == "mine-1"
    steps = [step.partition(";")[0] for step in answer.headers["server-timing"].split(", ")]
    assert steps == ["queue", "tokenise", "embed", "total"]
    line = logged(running.bridge, "mine-1")
    assert (line["trace_id"], line["status"], line["sentences"], line["route"]) == (trace, 200, 1, "/v1/embeddings")
    assert "secret" not in running.bridge.log.read_text()
    asked = running.stream.read(running.stream.settings.topic_interactive)
    assert trace.encode() in b"".join(dict(record.headers).get("traceparent") or b"" for record in asked)


# -- other streams --------------------------------------------------------------------------------------------


def ask(bridge: Program, texts: list[str], **more: Any) -> httpx2.Response:
    """Asks a bridge for vectors."""
    return httpx2.post(f"{bridge.url}/v1/embeddings", json={"input": texts, **more}, timeout=PATIENCE)


def test_one_poisoned_text_of_many(kafka: HasBrokers, tmp_path: Path) -> None:
    """The worker finds it among its neighbours; the caller hears which one it is, and gets the rest without it."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        worker, bridge = stream.start("worker", "tests.faults.poisoned_worker"), stream.start("bridge")
        worker.ready()
        bridge.ready()
        texts = [f"Text {n}." for n in range(200)]
        texts[77] = "I fail ."
        problem = ask(bridge, texts)
        assert problem.status_code == 502
        assert [(each["field"], each["reason"]) for each in problem.json()["errors"]] == [
            ("/input/77", "embedding-failed")
        ]
        assert ask(bridge, texts[:77] + texts[78:]).status_code == 200
        bridge.stop()
        worker.stop()


def test_through_a_registry(kafka: HasBrokers, registry_url: str, tmp_path: Path) -> None:
    """Requests and replies are framed by schema ids, and read like any other."""
    with Stream(kafka.bootstrap_servers, tmp_path, schema_registry_url=registry_url) as stream:
        worker, bridge = stream.start("worker"), stream.start("bridge")
        worker.ready()
        bridge.ready()
        answer = ask(bridge, ["One.", "Two."]).json()
        np.testing.assert_array_equal(np.float32(answer["data"][1]["embedding"]), vector("Two."))
        bridge.stop()
        worker.stop()


def test_a_worker_that_answers_in_transactions(kafka: HasBrokers, tmp_path: Path) -> None:
    """With exactly-once delivery replies are read once they are committed."""
    with Stream(kafka.bootstrap_servers, tmp_path, delivery="exactly_once") as stream:
        worker, bridge = stream.start("worker"), stream.start("bridge")
        worker.ready()
        bridge.ready()
        assert ask(bridge, [f"Text {n}." for n in range(100)]).status_code == 200
        bridge.stop()
        worker.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"http_host": "0.0.0.0"}, "STREAMS_AUTH: expected jwt, api-key or off"),
        ({"http_tls_keyfile": "/nowhere"}, "STREAMS_HTTP_TLS_CERTFILE"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(
    kafka: HasBrokers, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    """Exit code 2, and what to set."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        bridge = stream.start("bridge", **settings)
        assert bridge.exit() == 2
        assert bridge.log.read_text().startswith(message)


# -- outages --------------------------------------------------------------------------------------------------


def test_without_a_worker_it_is_not_ready(kafka: HasBrokers, tmp_path: Path) -> None:
    """No reply path, not ready; a worker that comes makes it so, one that goes ends it."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        bridge = stream.start("bridge")
        wait_until(lambda: bridge.says("startup"), "it hears its replies")
        assert bridge.says("live")
        assert not bridge.says("ready")
        answer = httpx2.post(f"{bridge.url}/v1/embeddings", json={"input": "a"}, timeout=PATIENCE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        worker = stream.start("worker")
        bridge.ready()
        worker.stop()
        wait_until(lambda: not bridge.says("ready"), "it has noticed")
        bridge.stop()


def test_a_broker_that_restarts(kafka: Kafka, tmp_path: Path) -> None:
    """Questions fail while it is away, readiness tells so, and afterwards answers come by themselves."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        worker, bridge = stream.start("worker"), stream.start("bridge")
        worker.ready()
        bridge.ready()

        def ask(text: str) -> int:
            headers = {"Request-Timeout": "3"}
            url = f"{bridge.url}/v1/embeddings"
            return httpx2.post(url, json={"input": text}, headers=headers, timeout=PATIENCE).status_code

        assert ask("Before.") == 200
        kafka.stop()
        assert ask("Meanwhile.") in {503, 504}
        wait_until(lambda: not bridge.says("ready"), "it has noticed")
        started = time.monotonic()
        assert ask("Later.") == 503
        assert time.monotonic() - started < 3, "it answers at once when it knows"
        assert ask("Before.") == 200, "what is known is answered all the same"
        kafka.start()
        bridge.ready()
        assert ask("Afterwards.") == 200
        bridge.stop()
        worker.stop()


# -- shutdown -------------------------------------------------------------------------------------------------


def test_a_bridge_that_leaves_answers_first(kafka: HasBrokers, tmp_path: Path) -> None:
    """On SIGTERM it is not ready any more, answers what it accepted, and ends with 0."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream, httpx2.Client(timeout=PATIENCE) as http:
        worker, bridge = stream.start("worker"), stream.start("bridge")
        worker.ready()
        bridge.ready()
        worker.freeze()
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(http.post, f"{bridge.url}/v1/embeddings", json={"input": "Accepted."})
            wait_until(lambda: bridge.metrics()["streams_http_in_flight"] == 2, "it has been accepted")
            bridge.leave()
            wait_until(lambda: not bridge.says("ready"), "it is not ready any more")
            worker.thaw()
            assert waiting.result().status_code == 200
        assert bridge.exit() == 0
        worker.stop()
