"""Errors as problem+json: one shape for all, nothing of our insides, nothing of anybody's text."""

import json
from typing import Annotated, Any, Literal

import httpx2
import orjson
import pytest
import structlog
from fastapi import Body, FastAPI, HTTPException, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from agents.bridge import problems
from agents.bridge.problems import LISTED, MEDIA_TYPE, Kind, Problem, documented, invalid
from agents.bridge.unforeseen import Broken, Unforeseen

SECRET = "a sentence nobody may see"


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid")

    input: str | list[str] = Field(max_length=30)
    form: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    metadata: dict[str, str] = {}

    @field_validator("dimensions")
    @classmethod
    def _few(cls, value: int | None) -> int | None:
        if value is not None and value > 10:
            raise ValueError("expected at most 10")
        return value


@pytest.fixture
def app() -> FastAPI:
    """An app that fails in every way."""
    app = FastAPI()
    problems.install(app)
    app.add_middleware(Unforeseen)

    @app.post("/ask", responses=documented(Kind.INVALID, Kind.REFUSED, Kind.RATE_LIMITED))
    async def ask(question: Annotated[Question, Body()], limit: Annotated[int, Query(ge=1)] = 1) -> str:
        return "ok"

    @app.get("/ask")
    async def asked() -> str:
        raise Problem(Kind.GONE, "it was answered in May", headers={"Cache-Control": "no-store"})

    @app.delete("/{anything}")
    async def removed(anything: str) -> None:
        """Its path fits all others, and is another one."""

    @app.get("/teapot")
    async def teapot() -> str:
        raise HTTPException(418, "short and stout", headers={"X-Spout": "yes"})

    @app.get("/bug")
    async def bug() -> str:
        raise KeyError(SECRET)

    @app.get("/late-bug")
    async def late_bug() -> StreamingResponse:
        async def body() -> Any:
            yield b"begun"
            raise KeyError(SECRET)

        return StreamingResponse(body())

    return app


@pytest.fixture
def client(app: FastAPI) -> httpx2.AsyncClient:
    """Asks that app; what a server would get to see as an exception is raised."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://bridge")


async def test_a_problem_is_an_answer(client: httpx2.AsyncClient) -> None:
    """Kind, detail and headers are those of the exception."""
    answer = await client.get("/ask")
    assert (answer.status_code, answer.headers["Content-Type"]) == (410, MEDIA_TYPE)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {
        "type": "/problems/gone",
        "title": Kind.GONE.value.title,
        "status": 410,
        "detail": "it was answered in May",
    }


async def test_the_request_id_is_the_instance(app: FastAPI) -> None:
    """Whoever reports a problem quotes what the log has; an id is never more than a path's part."""

    async def with_id(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["request_id"] = "a/b c"
        await app(scope, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(with_id), base_url="http://bridge") as client:
        assert (await client.get("/ask")).json()["instance"] == "a%2Fb%20c"
        assert (await client.get("/bug")).json()["instance"] == "a%2Fb%20c"


async def test_every_type_can_be_looked_up(client: httpx2.AsyncClient) -> None:
    """A type is an address that says what it means; slugs are unique."""
    slugs = [kind.value.slug for kind in Kind]
    assert len(set(slugs)) == len(slugs)
    for kind in Kind:
        found = (await client.get(f"/problems/{kind.value.slug}")).json()
        assert (found["status"], found["meaning"]) == (kind.value.status, kind.value.meaning)
    assert (await client.get("/problems/none")).status_code == 404


# -- FastAPI's own --------------------------------------------------------------------------------------------


async def test_an_unknown_path_is_404(client: httpx2.AsyncClient) -> None:
    """As a problem, like everything."""
    answer = await client.get("/no/where")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


async def test_a_wrong_method_lists_the_right_ones(client: httpx2.AsyncClient) -> None:
    """Of all endpoints with this path, not only of the first; those of another path that fits too are not told."""
    answer = await client.options("/ask")
    assert (answer.status_code, answer.json()["type"]) == (405, "/problems/method-not-allowed")
    assert answer.headers["Allow"] == "GET, POST"


async def test_a_status_without_a_kind_is_a_problem_too(client: httpx2.AsyncClient) -> None:
    """Its title is the status's own (RFC 9457, about:blank)."""
    answer = await client.get("/teapot")
    assert (answer.status_code, answer.headers["Content-Type"]) == (418, MEDIA_TYPE)
    assert answer.headers["X-Spout"] == "yes"
    assert (answer.json()["type"], answer.json()["title"]) == ("about:blank", "I'm a Teapot")


# -- wrong fields ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({}, "/input", "a value"),
        ({"input": 7}, "/input", "a valid string or a valid list"),
        ({"input": {"a": "b"}}, "/input", "a valid string or a valid list"),
        ({"input": ["a", 7]}, "/input/1", "a valid string"),
        ({"input": "a", "form": "hex"}, "/form", "'float' or 'base64'"),
        ({"input": "a", "dimensions": 11}, "/dimensions", "at most 10"),
        ({"input": "a", "metadata": {"a/b~c": 7}}, "/metadata/a~1b~0c", "a valid string"),
        ({"input": "a", "inptu": "b"}, "/inptu", "no such field"),
        ([], "", "a valid dictionary or object to extract fields from"),
        ("text", "", "a valid dictionary or object to extract fields from"),
    ],
)
async def test_a_wrong_field_is_named(client: httpx2.AsyncClient, body: Any, field: str, expected: str) -> None:
    """By a JSON pointer into what was sent, with what was expected; never with what came."""
    answer = await client.post("/ask", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert error["expected"].endswith(expected)
    assert answer.json()["detail"] == f"wrong: {field or 'the body'}"


async def test_a_wrong_parameter_is_named(client: httpx2.AsyncClient) -> None:
    """What is not in the body is named by where it is."""
    answer = await client.post("/ask?limit=0", json={"input": "a"})
    assert answer.json()["errors"] == [{"field": "query:limit", "expected": "greater than or equal to 1"}]


async def test_no_text_comes_back(client: httpx2.AsyncClient) -> None:
    """pydantic would quote the input; a problem must not, since problems end up in logs."""
    answer = await client.post("/ask", json={"input": [SECRET, 7], "form": SECRET, "dimensions": SECRET})
    assert answer.status_code == 422
    assert SECRET not in answer.text


def test_only_some_of_many_wrong_fields_are_listed() -> None:
    """Two thousand wrong sentences make a short answer that says how many there are."""
    problem = invalid([{"field": f"/input/{n}", "expected": "text"} for n in range(2048)])
    assert len(problem.errors) == LISTED
    assert problem.detail == "wrong: /input/0, /input/1, /input/2 and 2045 more"


@pytest.mark.parametrize("body", [b"{", b"", b'{"input": "a"} x'])
async def test_a_body_that_is_no_json(client: httpx2.AsyncClient, body: bytes) -> None:
    """Told apart from JSON with wrong fields, also where no Guard stands before."""
    answer = await client.post("/ask", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == (422 if body == b"" else 400)
    assert answer.headers["Content-Type"] == MEDIA_TYPE


# -- what nobody foresaw --------------------------------------------------------------------------------------


async def test_a_bug_is_500_without_internals(client: httpx2.AsyncClient) -> None:
    """The caller learns nothing of the code; the log has the lines of code, and nobody's text; the server no more."""
    with structlog.testing.capture_logs() as logs:
        answer = await client.get("/bug")
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
    assert not [word for word in ("KeyError", "Traceback", "bug", SECRET) if word in answer.text]
    (entry,) = logs
    assert (entry["event"], entry["error"]) == ("unforeseen-error", "KeyError")
    assert "raise KeyError(SECRET)" in entry["trace"]
    assert SECRET not in str(entry)


async def test_a_bug_in_the_middle_of_an_answer_cuts_it(client: httpx2.AsyncClient) -> None:
    """A client must not take half an answer for all; what the server then logs has nobody's text."""
    with structlog.testing.capture_logs() as logs, pytest.raises(Broken) as caught:
        await client.get("/late-bug")
    assert caught.value.__suppress_context__
    assert SECRET not in str(logs)


# -- OpenAPI --------------------------------------------------------------------------------------------------


def test_the_document_has_the_problems(app: FastAPI) -> None:
    """Endpoints say which they may answer with, several of one status as one; the shape is described once."""
    document = app.openapi()
    assert document["components"]["schemas"]["Problem"]["required"] == ["type", "title", "status", "detail"]
    responses = document["paths"]["/ask"]["post"]["responses"]
    assert set(responses) == {"200", "422", "429"}
    (media,) = responses["422"]["content"]
    assert media == MEDIA_TYPE
    content = responses["422"]["content"][media]
    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert set(content["examples"]) == {"invalid-request", "refused-sentences"}
    assert "HTTPValidationError" not in json.dumps(document["paths"]["/ask"]["post"])


async def test_answers_have_the_documented_shape(app: FastAPI, client: httpx2.AsyncClient) -> None:
    """Whatever is sent is described, and has the described type."""
    described = app.openapi()["components"]["schemas"]["Problem"]
    answer = orjson.loads((await client.post("/ask", json={})).content)
    assert set(described["required"]) <= set(answer) <= set(described["properties"])
    item = described["properties"]["errors"]["items"]
    assert set(item["required"]) <= set(answer["errors"][0]) <= set(item["properties"])
