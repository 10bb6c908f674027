"""What stands before the endpoints: nothing reaches them that is too large, too slow, or no JSON.

app = FastAPI(middleware=[Middleware(RequestLog), *guard.middleware(settings, authenticator)])
router = APIRouter(route_class=JsonRoute)      # its endpoints get the body that was parsed here, not parsed again
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agents.bridge.identity import Authenticator, Identify
from agents.bridge.problems import Kind, Problem, respond
from agents.bridge.unforeseen import Unforeseen
from streams.settings import Settings

#: Bodies of the largest size that one bridge holds in memory; more is refused while they are there.
LARGEST_BODIES = 32
#: Where files are uploaded: their bodies are no JSON and go through as they come.
UPLOADS = "/v1/files"
#: Bytes of an upload besides its file.
AROUND = 64 * 1024
#: What a page of another origin may read and send, where `cors_origins` lets it.
EXPOSED = ["RateLimit", "RateLimit-Policy", "Retry-After", "Server-Timing", "ETag", "X-Request-Id"]
ACCEPTED = [
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Request-Timeout",
    "Traceparent",
    "X-Request-Id",
]


def middleware(settings: Settings, authenticator: Authenticator) -> list[Middleware]:
    """Returns what goes before the endpoints, outermost first; request ids and logs belong before all of it."""
    guards = [
        Middleware(Unforeseen),
        Middleware(Identify, authenticator=authenticator),
        Middleware(
            Guard,
            max_bytes=settings.max_body_bytes,
            seconds=settings.receive_seconds,
            max_file_bytes=settings.max_file_bytes,
        ),
    ]
    if not settings.cors_origins:
        return guards
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=ACCEPTED,
        expose_headers=EXPOSED,
    )
    return [cors, *guards]


class Guard:
    """ASGI middleware: takes in the whole body, within its bounds of bytes and seconds, and parses it as JSON.

    The parser refuses what others let through: NaN, half surrogates, malformed UTF-8, more than 1,024 levels.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, max_file_bytes: int = 0) -> None:
        self._app, self._max, self._seconds, self._max_file = app, max_bytes, seconds, max_file_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(headers := Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        if scope["path"] == UPLOADS and headers.get("content-type", "").startswith("multipart/form-data"):
            await self._app(scope, self._bounded(receive), send)
            return
        body = bytearray()
        try:
            self._check(headers)
            await self._take_in_time(body, receive)
            scope.setdefault("state", {})["json"] = _parse(body)
        except Problem as problem:
            await respond(problem, scope)(scope, receive, send)
        except _HungUp:
            pass
        else:
            await self._app(scope, _replay(bytes(body), receive), send)
        finally:
            self._held -= len(body)

    def _bounded(self, receive: Receive) -> Receive:
        """Returns a `receive` that raises Problem where an upload is too large, or comes too slowly."""
        most, came = self._max_file + AROUND, 0
        # It may take as long for each part of a body's size as a whole body may take.
        ends = asyncio.get_running_loop().time() + self._seconds * (1 + most / self._max)

        async def bounded() -> Message:
            nonlocal came
            try:
                async with asyncio.timeout_at(ends):
                    message = await receive()
            except TimeoutError:
                raise Problem(Kind.SLOW, "the file did not arrive in time", headers={"Connection": "close"}) from None
            came += len(message.get("body", b""))
            if came > most:
                raise Problem(Kind.TOO_LARGE, f"a file may have {self._max_file} bytes")
            return message

        return bounded

    def _check(self, headers: Headers) -> None:
        """Refuses what the headers alone tell to be in vain."""
        if int(headers.get("content-length", "0")) > self._max:
            raise self._too_large()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        # A page of another origin may send any body but JSON without asking, so this also keeps such pages out.
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise Problem(Kind.MEDIA, "expected Content-Type: application/json")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(Kind.MEDIA, "expected no Content-Encoding", headers={"Accept-Encoding": "identity"})

    async def _take_in_time(self, body: bytearray, receive: Receive) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._take(body, receive)
        except TimeoutError:
            detail = f"the body did not arrive within {self._seconds:g} s"
            raise Problem(Kind.SLOW, detail, headers={"Connection": "close"}) from None

    async def _take(self, body: bytearray, receive: Receive) -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _HungUp
            part = message.get("body", b"")
            body += part
            self._held += len(part)
            if len(body) > self._max:
                raise self._too_large()
            if self._held > LARGEST_BODIES * self._max:
                raise Problem(Kind.OVERLOADED, "too many large requests at once", headers={"Retry-After": "1"})
            more = message.get("more_body", False)

    def _too_large(self) -> Problem:
        return Problem(Kind.TOO_LARGE, f"a body may have {self._max} bytes")


class _HungUp(Exception):
    """The caller left while its body was on the way."""


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _parse(body: bytearray) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(Kind.MALFORMED, f"line {error.lineno}, column {error.colno}") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that hands over the body at once, and then waits for the caller to hang up."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


class JsonRequest(Request):
    """A request whose body was parsed by the Guard."""

    async def json(self) -> Any:
        """Returns the parsed body."""
        return self.scope["state"]["json"]


class JsonRoute(APIRoute):
    """A route whose endpoint gets the body as the Guard parsed it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's handler, on a JsonRequest."""
        handle = super().get_route_handler()

        async def with_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return with_json
