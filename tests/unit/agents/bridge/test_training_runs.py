"""`/v1/training-runs`: requests that a trainer takes, how far each is, and what is no request."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from agents.bridge.api_keys import make
from agents.bridge.app import Bridge
from schemas.records import HeadKind, TrainingRequest
from streams.publisher import BrokerUnavailable
from tests.support.bridge import CODEC, Loopback, client, looped_back

RUNS = "/v1/training-runs"
ASKED = {"scorer": "place", "source": "s3://labels/place.csv"}


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Bridge, Loopback]]:
    """A bridge with a catalog of its own."""
    async with looped_back(database_url=SecretStr(f"sqlite:///{tmp_path}/catalog.db")) as found:
        found[1].working.clear()  # what is published here is no sentence
        yield found
        await found[0].batches.close()


async def begin(http: httpx2.AsyncClient, key: str | None = None, **body: Any) -> httpx2.Response:
    """Asks for a run."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return await http.post(RUNS, json={**ASKED, **body}, headers=headers)


async def test_a_run_is_a_record_and_a_row(http: httpx2.AsyncClient, stream: Loopback, bridge: Bridge) -> None:
    """202, queued; the record has all that was asked, under the run's id as its key."""
    said = {"head": "ridge", "regularisation": 0.5, "folds": 3, "seed": 7, "text": "t", "label": "l", "from": "5"}
    answer = await begin(http, source="topic:sentence.requests", **said)
    run = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"{RUNS}/{run['id']}")
    assert (run["status"], run["scorer"], run["version"]) == ("queued", "place", None)
    [record] = stream.published
    assert (record.topic, record.key) == (bridge.settings.topic_training, run["id"].encode())
    request = CODEC.decode(TrainingRequest, record.value or b"", record.headers)
    assert (request.id, request.by, request.source) == (run["id"], "anonymous:127.0.0.1", "topic:sentence.requests")
    assert (request.head, request.regularisation, request.folds, request.seed) == (HeadKind.RIDGE, 0.5, 3, 7)
    assert (request.text, request.label, request.start, request.end) == ("t", "l", "5", "end")
    assert (await http.get(f"{RUNS}/{run['id']}")).json() == run


async def test_a_run_tells_how_far_it_is_and_what_it_made(http: httpx2.AsyncClient, bridge: Bridge) -> None:
    """As the trainer notes it: progress first, then the version and its figures."""
    run = (await begin(http)).json()["id"]
    step = {"step": "embedding", "done": 3, "of": 10}
    await asyncio.to_thread(bridge.catalog.update_run, run, status="running", progress=step)
    found = (await http.get(f"{RUNS}/{run}")).json()
    assert (found["status"], found["progress"], found["metrics"]) == ("running", step, None)
    made = {"metrics": {"accuracy": 0.9}, "rows": 10, "labels": {"a": 5, "b": 5}, "warnings": [], "comparison": {}}
    changes = {"status": "succeeded", "digest": "d" * 64, "progress": made}
    await asyncio.to_thread(lambda: bridge.catalog.update_run(run, **changes))
    found = (await http.get(f"{RUNS}/{run}")).json()
    assert (found["status"], found["version"], found["progress"]) == ("succeeded", "d" * 64, None)
    assert {name: found[name] for name in made} == made


async def test_runs_are_listed_the_latest_first(http: httpx2.AsyncClient) -> None:
    """As many as were asked for, and whether there are more."""
    ids = []
    for _ in range(3):
        ids.append((await begin(http)).json()["id"])
        await asyncio.sleep(0.002)  # they are told apart by the millisecond
    found = (await http.get(f"{RUNS}?limit=2")).json()
    assert ([run["id"] for run in found["data"]], found["has_more"]) == (ids[:0:-1], True)
    assert (await http.get(RUNS)).json()["has_more"] is False


async def test_the_same_key_again_is_the_run_that_is_there(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """Nothing is sent twice; another body under it is refused, and so is a key that is none."""
    first, again = await begin(http, "k"), await begin(http, "k")
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(stream.published) == 1
    assert (await begin(http, "other")).json()["id"] != first.json()["id"]
    other = await begin(http, "k", folds=3)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert (await begin(http, "two words")).json()["errors"][0]["field"] == "header:idempotency-key"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("source", "/etc/passwd.csv", "topic:NAME, or a URL with s3://"),
        ("source", "file:///etc/passwd.csv", "topic:NAME"),
        ("source", "s3://labels/model.pickle", "ends in .csv"),
        ("source", "topic:", "topic:NAME"),
        ("head", "forest", "logistic"),
        ("scorer", "no spaces", ""),
        ("from", "tuesday", "beginning, end, an offset"),
        ("folds", 1, ""),
        ("regularisation", 0.0, ""),
        ("seed", -1, ""),
        ("colour", "red", ""),
    ],
)
async def test_a_wrong_field_is_named(
    http: httpx2.AsyncClient, stream: Loopback, field: str, value: Any, expected: str
) -> None:
    """With what it should be; nothing is sent."""
    answer = await begin(http, **{field: value})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    [error] = answer.json()["errors"]
    assert error["field"] == f"/{field}"
    assert expected in error["expected"]
    assert stream.published == []


async def test_a_run_is_cancelled(http: httpx2.AsyncClient, bridge: Bridge) -> None:
    """At once while it waits, at its next step once it has begun; one that nobody knows is a 404."""
    waits, runs = [(await begin(http)).json()["id"] for _ in range(2)]
    await asyncio.to_thread(lambda: bridge.catalog.update_run(runs, status="running"))
    said = [(await http.post(f"{RUNS}/{run}/cancel", json={})).json()["status"] for run in (waits, runs)]
    assert said == ["cancelled", "cancelling"]
    assert (await http.post(f"{RUNS}/nothing/cancel", json={})).status_code == 404
    assert (await http.get(f"{RUNS}/nothing")).status_code == 404


async def test_who_may_look_may_not_train(tmp_path: Path) -> None:
    """Looking is for models, changing for admin."""
    (reader, line), (embedder, other) = make("reader", ["looks"]), make("embedder", ["embeds"])
    (tmp_path / "keys").write_text(f"{line}\n{other}\n")
    settings = {"auth": "api-key", "api_keys_file": tmp_path / "keys", "roles": "looks=models,embeds=embed"}
    url = SecretStr(f"sqlite:///{tmp_path}/catalog.db")
    async with looped_back(database_url=url, **settings) as (bridge, _), client(bridge) as http:
        http.headers["Authorization"] = f"Bearer {reader}"
        assert (await http.get(RUNS)).status_code == 200
        assert (await begin(http)).status_code == 403
        assert (await http.post(f"{RUNS}/some/cancel", json={})).status_code == 403
        http.headers["Authorization"] = f"Bearer {embedder}"
        assert (await http.get(RUNS)).status_code == 403
        await bridge.batches.close()


async def test_without_a_catalog_nothing_begins(tmp_path: Path) -> None:
    """503 says which; the stream itself goes on."""
    (tmp_path / "file").write_text("")
    url = SecretStr(f"sqlite:///{tmp_path}/file/catalog.db")
    async with looped_back(database_url=url) as (bridge, stream), client(bridge) as http:
        for answer in (await begin(http), await http.get(RUNS), await http.post(f"{RUNS}/some/cancel", json={})):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "catalog.db" in answer.json()["detail"]
        assert stream.published == []
        assert (await http.post("/v1/embeddings", json={"input": "A sentence."})).status_code == 200


async def test_a_run_that_no_broker_took_is_none(
    http: httpx2.AsyncClient, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, no row; the same key once they are back begins it."""

    async def away(*_: Any) -> None:
        raise BrokerUnavailable("no broker answers")

    with monkeypatch.context() as outage:
        outage.setattr(bridge.publisher, "publish", away)
        assert (await begin(http, "k")).status_code == 503
    assert (await http.get(RUNS)).json()["data"] == []
    assert (await begin(http, "k")).json()["status"] == "queued"
