"""What went wrong, as `application/problem+json` (RFC 9457); every kind of problem is listed here.

    raise Problem(Kind.NOT_FOUND, f"no model is called {name}")
    raise Problem(Kind.INVALID, "2 sentences are too long", errors=[{"field": "/input/3", "expected": "..."}])

`install(app)` turns these and FastAPI's own errors into answers, `unforeseen` all others. A type is a
relative reference that the bridge itself answers: `GET /problems/not-found` says what it means.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from agents.bridge import openai_errors

MEDIA_TYPE = "application/problem+json"
#: Wrong fields that one answer lists; of 2,048 wrong sentences nobody reads them all.
LISTED = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the list: slug (the last part of `type`), HTTP status, title, and what it means to a caller."""

    slug: str
    status: int
    title: str
    meaning: str


class Kind(Enum):
    """Every kind of problem an answer can have."""

    BAD_REQUEST = Entry("bad-request", 400, "The request cannot be understood", "Correct it before trying again.")
    MALFORMED = Entry(
        "malformed-json",
        400,
        "The body is not JSON",
        "It must be UTF-8 JSON: no NaN, no half surrogates, no deep nests.",
    )
    UNAUTHENTICATED = Entry(
        "unauthenticated", 401, "Who are you?", "Send `Authorization: Bearer` with a valid token or API key."
    )
    FORBIDDEN = Entry(
        "forbidden", 403, "You may not do this", "None of the caller's roles has the scope that is named."
    )
    NOT_FOUND = Entry("not-found", 404, "There is no such thing", "The path or the id in it is unknown.")
    METHOD = Entry("method-not-allowed", 405, "Not with this method", "The `Allow` header lists those that work.")
    SLOW = Entry("slow-request", 408, "The request came too slowly", "The whole body must arrive within a few seconds.")
    CONFLICT = Entry(
        "conflict", 409, "It is still running", "A request with this Idempotency-Key has not been answered yet: wait."
    )
    GONE = Entry("gone", 410, "It was here, and is gone", "Results are kept for a set time only.")
    TOO_LARGE = Entry("body-too-large", 413, "The body is too large", "Send fewer sentences at once.")
    MEDIA = Entry("unsupported-media-type", 415, "Not JSON", "Send `Content-Type: application/json`, uncompressed.")
    INVALID = Entry("invalid-request", 422, "Some fields are wrong", "`errors` names each and says what was expected.")
    REFUSED = Entry(
        "refused-sentences", 422, "Some sentences were refused", "`errors` names each and why; none was answered."
    )
    REFUSED_DECISION = Entry(
        "decision-not-possible", 409, "The alias is in no state for this", "`detail` says why; nothing was changed."
    )
    KEY_REUSED = Entry(
        "idempotency-key-reused", 422, "This Idempotency-Key is taken", "It was used for another body: take a new one."
    )
    RATE_LIMITED = Entry(
        "rate-limited", 429, "Too many sentences for this client", "Try again after the seconds in `Retry-After`."
    )
    OVERLOADED = Entry(
        "overloaded", 429, "Too much is under way", "Nothing was started. Try again after the seconds in `Retry-After`."
    )
    INTERNAL = Entry("internal-error", 500, "This is our fault", "The log has more, under the id in `instance`.")
    FAILED = Entry(
        "failed-sentences", 502, "Some sentences failed", "`errors` names each and why. The same text fails again."
    )
    UNAVAILABLE = Entry("unavailable", 503, "The stream cannot answer now", "Try again after `Retry-After`.")
    DEADLINE = Entry(
        "deadline-passed", 504, "No answer in time", "The work was stopped. Allow more time, or send less."
    )


BY_STATUS = {kind.value.status: kind for kind in reversed(Kind)}


class Problem(Exception):
    """An answer that is no success; raise it anywhere below an endpoint.

    `errors` has one mapping for each wrong field: `field` (a JSON pointer into the body as in `/input/3`, otherwise
    `query:limit`, `path:id` or `header:deadline`), `expected`, and what else helps. Neither may repeat a text that
    a caller sent, since details are logged. `headers` go out with the answer.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail
        self.errors, self.headers = tuple(errors), dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.kind.value.status


def respond(problem: Problem, scope: Scope) -> Response:
    """Returns a problem as the answer to the request of `scope`; its `state` may hold a `request_id`."""
    entry = problem.kind.value
    scope.setdefault("state", {})["problem"] = f"{entry.slug}: {problem.detail}"
    body: dict[str, Any] = {"type": f"/problems/{entry.slug}", "title": entry.title}
    if scope["path"].startswith(openai_errors.PATHS):
        body["error"] = openai_errors.member(entry.status, entry.slug, problem.detail, problem.errors)
    return _answer(scope, entry.status, body, problem.detail, problem.errors, problem.headers)


def _answer(
    scope: Scope,
    status: int,
    body: dict[str, Any],
    detail: str,
    errors: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    body |= {"status": status, "detail": detail}
    if request_id := scope.get("state", {}).get("request_id"):
        body["instance"] = quote(request_id, safe="")
    if errors:
        body["errors"] = errors
    return Response(orjson.dumps(body), status, headers=headers, media_type=MEDIA_TYPE)


# -- FastAPI --------------------------------------------------------------------------------------------------


def install(app: FastAPI) -> None:
    """Answers errors of `app` as problems, `/problems/{slug}` with what one means, and documents their shape."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_api_route("/problems/{slug}", _explain, include_in_schema=False)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = SCHEMA
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to add to it


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return respond(error, request.scope)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind, headers = BY_STATUS.get(error.status_code), dict(error.headers or {})
    if kind is Kind.METHOD:
        headers["Allow"] = ", ".join(_methods(request))
    if kind is None:
        body = {"type": "about:blank", "title": HTTPStatus(error.status_code).phrase}
        return _answer(request.scope, error.status_code, body, str(error.detail), headers=headers)
    return respond(Problem(kind, str(error.detail), headers=headers), request.scope)


def _methods(request: Request) -> list[str]:
    # Starlette tells only the methods of the first route with this path. Another path may match as well
    # (`/v1/files/{file_id}` where `/v1/files/uploads` was meant); what that takes is not said of this one.
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    path = getattr(routes[0], "path", None)
    same = [route for route in routes if getattr(route, "path", None) == path]
    return sorted({method for route in same for method in getattr(route, "methods", ["GET", "HEAD"])})


async def _explain(slug: str) -> dict[str, Any]:
    entries = {kind.value.slug: kind.value for kind in Kind}
    if slug not in entries:
        raise Problem(Kind.NOT_FOUND, "there is no such kind of problem")
    entry = entries[slug]
    return {"type": f"/problems/{slug}", "title": entry.title, "status": entry.status, "meaning": entry.meaning}


# -- wrong fields ---------------------------------------------------------------------------------------------


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if any(each["type"] == "json_invalid" for each in error.errors()):
        return respond(Problem(Kind.MALFORMED, "the body is not JSON"), request.scope)
    expected: dict[str, list[str]] = {}
    for each in error.errors():
        expected.setdefault(_field(each["loc"], error.body, each["type"] == "missing"), []).append(
            _expectation(each["msg"])
        )
    # Of a list with one wrong item, the branch of a union that wanted no list at all says nothing new.
    outer = {field[:at] for field in expected for at, letter in enumerate(field) if letter == "/"}
    fields = [
        {"field": field, "expected": " or ".join(dict.fromkeys(all_))}
        for field, all_ in expected.items()
        if field not in outer
    ]
    return respond(invalid(fields), request.scope)


def invalid(fields: Sequence[Mapping[str, Any]]) -> Problem:
    """Returns the problem of wrong fields, as `errors` of `Problem` has them; only the first LISTED are told."""
    names = [str(field["field"]) or "the body" for field in fields[:3]]
    more = f" and {len(fields) - len(names)} more" if len(fields) > len(names) else ""
    return Problem(Kind.INVALID, f"wrong: {', '.join(names)}{more}", errors=fields[:LISTED])


def _field(loc: Sequence[str | int], body: Any, missing: bool) -> str:
    """Returns where an error is: a JSON pointer into the body, or as in `query:limit`."""
    place, *path = loc
    if place != "body":
        return ":".join(map(str, loc))
    pointer = ""
    for n, part in enumerate(path):
        # pydantic names the branch of a union, too (`input`, `list[str]`, 3): what is not in the body is no place in
        # it, but for the last part where that is missing.
        if isinstance(body, Mapping) and (part in body or (missing and n == len(path) - 1)):
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            body = body[part]
        else:
            continue
        pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer


def _expectation(message: str) -> str:
    """Returns what pydantic wanted, in a few words; its messages name no values."""
    for prefix in ("Value error, ", "expected ", "Input should be "):
        message = message.removeprefix(prefix)
    return {"Field required": "a value", "Extra inputs are not permitted": "no such field"}.get(message, message)


# -- OpenAPI --------------------------------------------------------------------------------------------------

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Its kind; GET it for the meaning."},
        "title": {"type": "string", "description": "The kind in a few words."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What was wrong this time."},
        "instance": {"type": "string", "format": "uri-reference", "description": "The id of the request, as logged."},
        "error": openai_errors.SCHEMA,
        "errors": {
            "type": "array",
            "description": f"What is wrong, the first {LISTED} of them.",
            "items": {
                "type": "object",
                "required": ["field", "expected"],
                "properties": {
                    "field": {
                        "type": "string",
                        "description": "JSON pointer into the body, or as in query:limit, path:id, header:deadline.",
                    },
                    "expected": {"type": "string", "description": "What should have been there."},
                    "reason": {"type": "string", "description": "Why, in a word that programs can compare."},
                    "detail": {"type": "string", "description": "Why, in the words of who refused it."},
                },
            },
        },
    },
}


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """Returns FastAPI's `responses=` for an endpoint that may answer with these problems."""
    return {status: _documented([kind.value for kind in kinds if kind.value.status == status]) for status in _of(kinds)}


def _of(kinds: Iterable[Kind]) -> list[int]:
    return sorted({kind.value.status for kind in kinds})


def _documented(entries: Sequence[Entry]) -> dict[str, Any]:
    examples = {
        entry.slug: {
            "summary": entry.title,
            "value": {
                "type": f"/problems/{entry.slug}",
                "title": entry.title,
                "status": entry.status,
                "detail": entry.meaning,
            },
        }
        for entry in entries
    }
    return {
        "description": "; or ".join(entry.title for entry in entries),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}},
    }
