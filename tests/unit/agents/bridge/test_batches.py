"""Files and batches: formats, progress, errors of single lines, cancelling, going on after a crash."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from agents.bridge import batch_jobs, batch_work
from agents.bridge.app import Bridge
from streams.models.objects import StoreUnavailable
from tests.support.bridge import Loopback, client, looped_back


@pytest.fixture
async def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Bridge, Loopback]]:
    """A bridge with a database and a folder of its own, that works on batches of small chunks at once."""
    monkeypatch.setattr(batch_jobs, "CHUNK", 4)
    monkeypatch.setattr(batch_work, "LOOK", 0.01)
    monkeypatch.setattr(batch_work, "NOTE", 0.0)
    url = SecretStr(f"sqlite:///{tmp_path}/catalog.db")
    limits = {"max_file_bytes": 100_000, "max_batch_lines": 50}
    async with looped_back(database_url=url, artifacts=str(tmp_path / "store"), **limits) as (bridge, loopback):
        bridge.replies.hears.set()
        yield bridge, loopback
        await bridge.batches.close()


@pytest.fixture
async def working(bridge: Bridge) -> AsyncIterator[None]:
    """The bridge works on batches."""
    task = asyncio.get_running_loop().create_task(bridge.batches.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def line(number: int, **body: Any) -> dict[str, Any]:
    """One line of a batch in OpenAI's shape."""
    asked = {"model": "deterministic", "input": f"Sentence {number}.", **body}
    return {"custom_id": f"c-{number}", "method": "POST", "url": "/v1/embeddings", "body": asked}


def lines(*found: Any) -> bytes:
    """JSON Lines of objects, or texts as they are."""
    return b"".join((each if isinstance(each, str) else json.dumps(each)).encode() + b"\n" for each in found)


async def upload(http: httpx2.AsyncClient, content: bytes, name: str = "in.jsonl") -> dict[str, Any]:
    """Uploads a file; returns what is told of it."""
    answer = await http.post("/v1/files", files={"file": (name, content)}, data={"purpose": "batch"})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def begin(http: httpx2.AsyncClient, content: bytes, name: str = "in.jsonl") -> str:
    """Uploads a file and begins a batch of it; returns its id."""
    file = await upload(http, content, name)
    asked = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
    answer = await http.post("/v1/batches", json=asked)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def end(http: httpx2.AsyncClient, batch: str) -> dict[str, Any]:
    """Waits for a batch's end."""
    async with asyncio.timeout(30):
        while True:
            found = (await http.get(f"/v1/batches/{batch}")).json()
            if found["status"] in {"completed", "failed", "cancelled", "expired"}:
                return found
            await asyncio.sleep(0.02)


async def fetch(http: httpx2.AsyncClient, file: str) -> bytes:
    """What is in a file."""
    answer = await http.get(f"/v1/files/{file}/content")
    assert answer.status_code == 200
    return answer.content


async def output(http: httpx2.AsyncClient, found: dict[str, Any], name: str = "output_file_id") -> list[Any]:
    """The lines of one of a batch's files."""
    return [json.loads(each) for each in (await fetch(http, found[name])).splitlines()]


# -- files ----------------------------------------------------------------------------------------------------


async def test_a_file_is_kept_listed_and_deleted(http: httpx2.AsyncClient, bridge: Bridge) -> None:
    """The same file again is the same id; its bytes are in the store and not in the database."""
    first = await upload(http, b"some lines")
    assert await upload(http, b"some lines") == first
    other = await upload(http, b"other lines")
    assert (first["bytes"], first["filename"], first["purpose"]) == (10, "in.jsonl", "batch")
    assert {each["id"] for each in (await http.get("/v1/files")).json()["data"]} == {first["id"], other["id"]}
    pages = (await http.get("/v1/files?limit=1")).json()
    assert pages["has_more"]
    rest = (await http.get(f"/v1/files?limit=1&after={pages['last_id']}")).json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    assert await fetch(http, first["id"]) == b"some lines"
    assert (await http.delete(f"/v1/files/{first['id']}")).json()["deleted"] is True
    assert (await http.get(f"/v1/files/{first['id']}")).status_code == 404
    assert bridge.batches.files.names("files/") == [f"files/{other['id']}"]


@pytest.mark.parametrize(
    ("files", "data", "status"),
    [
        ({"file": ("a.jsonl", b"x" * 200_000)}, {"purpose": "batch"}, 413),
        ({"file": ("a.jsonl", b"x" * 110_000)}, {"purpose": "batch"}, 413),
        ({"file": ("a.jsonl", b"x")}, {"purpose": "fine-tune"}, 422),
        ({"other": ("a.jsonl", b"x")}, {"purpose": "batch"}, 422),
    ],
)
async def test_a_form_that_is_wrong_is_a_problem(http: httpx2.AsyncClient, files: Any, data: Any, status: int) -> None:
    """Too large, another purpose, no file: nothing is kept."""
    answer = await http.post("/v1/files", files=files, data=data)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (await http.get("/v1/files")).json()["data"] == []


async def test_a_page_of_another_origin_cannot_send_files(http: httpx2.AsyncClient) -> None:
    """A browser would let it, since a form needs no permission."""
    asked = {"files": {"file": ("a.jsonl", b"x")}, "data": {"purpose": "batch"}}
    assert (await http.post("/v1/files", headers={"Origin": "https://evil.example"}, **asked)).status_code == 403


async def test_a_folder_signs_nothing(http: httpx2.AsyncClient) -> None:
    """The answer says what to do instead."""
    answer = await http.post("/v1/files/uploads", json={"filename": "in.jsonl", "purpose": "batch"})
    assert answer.status_code == 409
    assert "through the bridge" in answer.json()["detail"]


async def test_nobody_sees_the_files_of_others(bridge: Bridge, http: httpx2.AsyncClient) -> None:
    """Not even that they are there."""
    file = await upload(http, b"mine")
    assert await asyncio.to_thread(bridge.batches.ledger.file, "key:other", file["id"]) is None
    assert (await http.get("/v1/files/file-0")).status_code == 404


# -- batches --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("working")
async def test_each_line_has_its_answer_or_its_error(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """Bad lines never harm their neighbours; all goes through the replay lane, for its caller only."""
    bad = ["no json", {"custom_id": "x"}, line(3, input=[]), line(4, input="poison"), line(5, dimensions=999)]
    batch = await begin(http, lines(line(1), *bad, line(2, input=["One.", "Two."], dimensions=3)))
    found = await end(http, batch)
    assert found["status"] == "completed"
    assert found["request_counts"] == {"total": 7, "completed": 2, "failed": 5}
    first, second = await output(http, found)
    assert (first["custom_id"], first["response"]["status_code"], first["error"]) == ("c-1", 200, None)
    assert len(first["response"]["body"]["data"][0]["embedding"]) == 384
    assert [len(each["embedding"]) for each in second["response"]["body"]["data"]] == [3, 3]
    errors = await output(http, found, "error_file_id")
    assert [(each["error"]["line"], each["error"]["code"]) for each in errors] == [
        (2, "invalid-line"),
        (3, "invalid-line"),
        (4, "invalid-line"),
        (5, "embedding-failed"),
        (6, "invalid-field"),
    ]
    assert {record.topic for record in stream.published} == {"sentence.requests.replay"}
    assert "sentence.embeddings" not in stream.came


@pytest.mark.usefixtures("working")
async def test_the_same_batch_again_is_the_one_that_is_there(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """Nothing is asked twice."""
    batch = await begin(http, lines(line(1)))
    done = await end(http, batch)
    asked = len(stream.published)
    assert await begin(http, lines(line(1))) == batch
    assert await end(http, batch) == done
    assert len(stream.published) == asked
    assert [each["id"] for each in (await http.get("/v1/batches")).json()["data"]] == [batch]


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_tables_come_back_as_tables(http: httpx2.AsyncClient, form: str) -> None:
    """A row of input is a row of output, with its id and its vector; rows without a text are errors."""
    rows = [{"custom_id": f"r{n}", "text": f"Größe {n}." if n != 3 else "", "dimensions": 4} for n in range(9)]
    if form == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        content = buffer.getvalue().encode()
    else:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        content = sink.getvalue()
    found = await end(http, await begin(http, content, f"in.{form}"))
    assert found["request_counts"] == {"total": 9, "completed": 8, "failed": 1}
    result = await fetch(http, found["output_file_id"])
    if form == "csv":
        table = [
            {**row, "embedding": json.loads(row["embedding"])} for row in csv.DictReader(io.StringIO(result.decode()))
        ]
    else:
        table = pq.read_table(io.BytesIO(result)).to_pylist()
    assert [row["custom_id"] for row in table] == [f"r{n}" for n in range(9) if n != 3]
    assert {len(row["embedding"]) for row in table} == {4}


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize(
    ("content", "name", "why"),
    [
        (b"", "in.jsonl", "at least one line"),
        (lines(*(line(n) for n in range(51))), "in.jsonl", "at most 50 lines, it has 51"),
        (b"a,b\n1,2\n", "in.csv", "column text"),
        (b"not parquet", "in.parquet", "not Parquet"),
    ],
)
async def test_a_file_that_cannot_be_read_fails_as_a_whole(
    http: httpx2.AsyncClient, content: bytes, name: str, why: str
) -> None:
    """The batch says why; nothing was asked."""
    found = await end(http, await begin(http, content, name))
    assert found["status"] == "failed"
    assert why in found["errors"]["data"][0]["message"]


@pytest.mark.usefixtures("working")
async def test_a_cancelled_batch_keeps_what_was_answered(http: httpx2.AsyncClient, stream: Loopback) -> None:
    """It stops while answers are missing, also while nobody answers at all."""
    stream.working.clear()
    batch = await begin(http, lines(*(line(n) for n in range(12))))
    async with asyncio.timeout(10):
        while not stream.published:
            await asyncio.sleep(0.01)
    assert (await http.post(f"/v1/batches/{batch}/cancel", json={})).json()["status"] == "cancelling"
    found = await end(http, batch)
    assert found["status"] == "cancelled"
    assert found["request_counts"]["total"] == 12
    assert found["request_counts"]["completed"] < 12


async def test_a_batch_goes_on_after_a_crash(
    http: httpx2.AsyncClient, bridge: Bridge, stream: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that were answered are not asked again; the ids of the others are the same as before."""
    monkeypatch.setattr("streams.models.ledger.LEASE", 0)
    put, parts = bridge.batches.files.put, []

    def dying(name: str, chunks: Any) -> None:
        if name.startswith("batches/"):
            parts.append(name)
            if len(parts) == 3:
                raise SystemError("killed")
        put(name, chunks)

    monkeypatch.setattr(bridge.batches.files, "put", dying)
    batch = await begin(http, lines(*(line(n) for n in range(16))))
    with pytest.raises(SystemError):
        await bridge.batches.run()
    before = [record.value for record in stream.published]
    assert len(before) == 12
    again = asyncio.get_running_loop().create_task(bridge.batches.run())
    found = await end(http, batch)
    again.cancel()
    assert found["request_counts"] == {"total": 16, "completed": 16, "failed": 0}
    assert [each["custom_id"] for each in await output(http, found)] == [f"c-{n}" for n in range(16)]
    after = [record.value for record in stream.published]
    assert after[12:16] == before[8:12]
    assert len(after) == 20
    assert bridge.batches.files.names("batches/") == []


async def test_two_bridges_never_work_on_one_batch(http: httpx2.AsyncClient, bridge: Bridge) -> None:
    """Who claims it has it until it shows no more signs of life; a late one notes nothing."""
    batch = await begin(http, lines(line(1)))
    ledger = bridge.batches.ledger
    assert (await asyncio.to_thread(ledger.claim, "one") or {})["id"] == batch
    assert await asyncio.to_thread(ledger.claim, "two") is None
    assert await asyncio.to_thread(ledger.advance, batch, "two", "completed") is None
    assert await asyncio.to_thread(ledger.advance, batch, "one", "in_progress") == "in_progress"


async def test_without_a_database_or_store_the_rest_works(http: httpx2.AsyncClient, bridge: Bridge) -> None:
    """Batches answer 503; embeddings go on."""

    def away(*_: Any) -> None:
        raise StoreUnavailable("the bucket is away")

    bridge.batches.files.put = away  # type: ignore[method-assign]
    answer = await http.post("/v1/files", files={"file": ("a.jsonl", b"x")}, data={"purpose": "batch"})
    assert answer.status_code == 503
    assert (await http.post("/v1/embeddings", json={"input": "A sentence."})).status_code == 200


async def test_a_file_in_use_is_not_deleted(http: httpx2.AsyncClient) -> None:
    """Cancel the batch first."""
    file = await upload(http, lines(line(1)))
    await begin(http, lines(line(1)))
    assert (await http.delete(f"/v1/files/{file['id']}")).status_code == 409


async def test_files_and_batches_need_the_scope(tmp_path: Path) -> None:
    """A caller without a key gets a 401 from each of them."""
    (tmp_path / "keys").write_text("")
    async with looped_back(auth="api-key", api_keys_file=tmp_path / "keys") as (bridge, _), client(bridge) as http:
        for path in ("/v1/files", "/v1/files/file-1/content", "/v1/batches", "/v1/batches/batch-1"):
            assert (await http.get(path)).status_code == 401
