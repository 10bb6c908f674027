"""What stands before the endpoints: bodies that are too large, too slow, or no JSON do not pass."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Body, FastAPI

from agents.bridge import guard, problems
from agents.bridge.guard import LARGEST_BODIES, Guard, JsonRoute
from agents.bridge.identity import Authenticator
from streams.settings import Settings

LIMIT = 1000
JSON = {"Content-Type": "application/json"}


def app_with(**settings: Any) -> FastAPI:
    """Returns an app that answers with what its endpoint got."""
    chosen = Settings(max_body_bytes=LIMIT, **settings)
    app = FastAPI(middleware=guard.middleware(chosen, Authenticator.from_settings(chosen)))
    problems.install(app)
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/echo")
    async def echo(value: Annotated[Any, Body()]) -> Any:
        return value

    @router.get("/v1/echo")
    async def nothing() -> str:
        return "nothing"

    app.include_router(router)
    return app


def client_of(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://bridge")


async def send(body: bytes | AsyncIterator[bytes], headers: dict[str, str] = JSON) -> httpx2.Response:
    async with client_of(app_with()) as client:
        return await client.post("/v1/echo", content=body, headers=headers)


async def parts(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


# -- what passes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/ld+json"])
async def test_json_reaches_its_endpoint(kind: str) -> None:
    """Parsed once, whole or in chunks, up to the very limit."""
    body = b'{"input": ["\xc3\xbcber", 1.5, null]}'
    assert (await send(body, {"Content-Type": kind})).json() == {"input": ["über", 1.5, None]}
    assert (await send(parts(body[:9], body[9:]), {"Content-Type": kind})).json() == {"input": ["über", 1.5, None]}
    largest = b'"' + b"x" * (LIMIT - 2) + b'"'
    assert (await send(largest)).status_code == 200


async def test_a_request_without_a_body_needs_no_json() -> None:
    """A GET has nothing to guard."""
    async with client_of(app_with()) as client:
        assert (await client.get("/v1/echo")).json() == "nothing"


# -- what does not --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"input": "\xff"}',
        b'{"input": "\xed\xa0\x80"}',
        rb'{"input": "\ud800"}',
        b"NaN",
        b'{"input": [Infinity]}',
        b'{"input": [-Infinity]}',
        b"\xef\xbb\xbf{}",
        b'{"input": "a"} {}',
        '{"input": "a"}'.encode("utf-16"),
    ],
)
async def test_what_is_no_json_is_400(body: bytes) -> None:
    """Malformed UTF-8, half surrogates, NaN and the like never reach an endpoint."""
    answer = await send(parts(body))  # in chunks, so that an empty body is a body
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-json")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_deep_json_is_400(opening: bytes) -> None:
    """Ten thousand levels are refused before anybody walks through them."""
    closing = b"]" if opening == b"[" else b"1}"
    app = app_with()
    deep = opening * 10_000 + closing * 10_000
    async with client_of(Guard(app, 1_000_000, 10)) as client:
        answer = await client.post("/v1/echo", content=deep, headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-json")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_413(chunked: bool) -> None:
    """Told by its declared length before it is read, and by its real one where it declares none."""
    body = b'"' + b"x" * LIMIT + b'"'
    taken = []

    async def counted() -> AsyncIterator[bytes]:
        for at in range(0, len(body) * 5, 100):
            taken.append(at)
            yield body[:100]

    declared = JSON if chunked else JSON | {"Content-Length": str(len(body) * 5)}
    answer = await send(counted(), declared)
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body-too-large")
    assert len(taken) <= (12 if chunked else 1)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {},
        JSON | {"Content-Encoding": "gzip"},
    ],
)
async def test_what_does_not_say_that_it_is_json_is_415(headers: dict[str, str]) -> None:
    """A page of another origin may send those without asking, so they must not work."""
    answer = await send(b"{}", headers)
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media-type")


# -- senders that stop ----------------------------------------------------------------------------------------


async def talk(app: Any, receive: Callable[[], Awaitable[Any]], **scope: Any) -> list[Any]:
    """Returns what an app sent to a client of whom `receive` hears."""
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    base = {"type": "http", "method": "POST", "path": "/v1/echo", "headers": headers, "query_string": b""}
    await app(base | scope, receive, send)
    return sent


async def test_a_slow_sender_is_cut_off() -> None:
    """The whole body has the time, not each part of it; the connection ends."""

    async def drip() -> Any:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    start, body = await talk(Guard(app_with(), LIMIT, seconds=0.1), drip)
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert b"/problems/slow-request" in body["body"]


async def test_a_sender_that_hangs_up_gets_no_answer() -> None:
    """There is nobody to answer, and nothing for an endpoint to do."""

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    assert await talk(Guard(app_with(), LIMIT, seconds=1), gone) == []


async def test_a_time_out_of_an_endpoint_is_its_own() -> None:
    """The deadline is for receiving only."""

    async def endpoint(*_: Any) -> None:
        raise TimeoutError

    async def body() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    with pytest.raises(TimeoutError):
        await talk(Guard(endpoint, LIMIT, seconds=1), body)


async def test_an_endpoint_hears_that_its_caller_hung_up() -> None:
    """After the body comes what the connection says next."""
    heard = []
    messages = [{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}]

    async def endpoint(_scope: Any, receive: Any, _send: Any) -> None:
        heard.extend([await receive(), await receive()])

    async def receive() -> Any:
        return messages.pop(0)

    await talk(Guard(endpoint, LIMIT, seconds=1), receive)
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]


async def test_large_bodies_together_are_bounded() -> None:
    """Memory for so many is used by slow or busy ones; the next is told to wait, and works once they are gone."""
    release = asyncio.Event()

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def body() -> Any:
        return {"type": "http.request", "body": b'"' + b"x" * (LIMIT - 2) + b'"', "more_body": False}

    guarded = Guard(endpoint, LIMIT, seconds=1)
    holders = [asyncio.ensure_future(talk(guarded, body)) for _ in range(LARGEST_BODIES)]
    await asyncio.sleep(0)
    start, _ = await talk(guarded, body)
    assert (start["status"], (b"retry-after", b"1") in start["headers"]) == (429, True)
    release.set()
    await asyncio.gather(*holders)
    assert (await talk(guarded, body))[0]["status"] == 200


# -- the whole of it ------------------------------------------------------------------------------------------


async def test_a_strangers_body_is_not_read() -> None:
    """Who one is comes first: the body of somebody unknown costs nothing."""

    async def never() -> Any:
        raise AssertionError("the body was read")

    app = app_with(http_host="127.0.0.1", auth=("api-key",), api_keys_file="/dev/null")
    start, _ = await talk(app, never, client=("127.0.0.1", 1))
    assert start["status"] == 401


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ((), "https://app.example", None),
        (("https://app.example",), "https://app.example", "https://app.example"),
        (("https://app.example",), "https://other.example", None),
    ],
)
async def test_other_origins_are_shut_out_unless_opened(
    origins: tuple[str, ...], origin: str, allowed: str | None, method: str
) -> None:
    """A browser lets a page read an answer only with this header; preflights need no credentials."""
    async with client_of(app_with(cors_origins=origins)) as client:
        answer = await client.get("/v1/echo", headers={"Origin": origin})
        asked = {"Origin": origin, "Access-Control-Request-Method": method}
        preflight = await client.options("/v1/echo", headers=asked)
    assert answer.headers.get("Access-Control-Allow-Origin") == allowed
    assert preflight.headers.get("Access-Control-Allow-Origin") == allowed
    assert preflight.status_code == (200 if allowed else 400 if origins else 405)


async def test_an_unforeseen_error_is_a_problem() -> None:
    """Also one that only the outermost layer sees."""
    app = app_with()

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError

    async with client_of(app) as client:
        assert (await client.get("/bug")).json()["type"] == "/problems/internal-error"
