"""What the endpoints have in common: their callers, the texts they take, and the limits on them."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response, Security

from agents.bridge.asking import Name
from agents.bridge.calls import Call
from agents.bridge.guard import JsonRoute
from agents.bridge.identity import Needs, Scope
from agents.bridge.problems import Kind, invalid

#: Problems of every endpoint with a caller, of those with a body, and of those that ask the stream.
READING = (Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.INVALID, Kind.INTERNAL)
COMMON = (*READING, Kind.MALFORMED, Kind.SLOW, Kind.TOO_LARGE, Kind.MEDIA, Kind.RATE_LIMITED)
ASKING = (*COMMON, Kind.NOT_FOUND, Kind.REFUSED, Kind.OVERLOADED, Kind.FAILED, Kind.UNAVAILABLE, Kind.DEADLINE)


RequestTimeout = Annotated[
    float | None,
    Header(gt=0, allow_inf_nan=False, description="Seconds the caller is ready to wait; the bridge may allow less."),
]


class _Calls(Needs):
    # One dependency, not one for each thing that it does: FastAPI takes longer to resolve them than they run.
    async def __call__(self, request: Request, request_timeout: RequestTimeout = None) -> Call:  # type: ignore[override]
        return Call.of(request, self.caller(request), request_timeout)


def _call(scope: Scope) -> Any:
    return Security(_Calls(scope))


#: The call of an endpoint that needs a scope.
EmbedCall = Annotated[Call, _call(Scope.EMBED)]
ScoreCall = Annotated[Call, _call(Scope.SCORE)]
ModelsCall = Annotated[Call, _call(Scope.MODELS)]
ReplayCall = Annotated[Call, _call(Scope.REPLAY)]
AdminCall = Annotated[Call, _call(Scope.ADMIN)]
DeadLettersCall = Annotated[Call, _call(Scope.DEAD_LETTERS)]

IfNoneMatch = Annotated[str | None, Header(description="ETag of an answer that is known already.")]


def conditional(content: bytes, tag: str, known: str | None) -> Response:
    """Returns JSON with an ETag, or 304 where it is among those that the caller knows."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if known is not None and (headers["ETag"] in known or known.strip() == "*"):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type="application/json")


def router_of(tag: str) -> APIRouter:
    """Returns a router for endpoints whose operations go by the names of their functions."""
    return APIRouter(tags=[tag], route_class=JsonRoute, generate_unique_id_function=lambda route: route.name)


def listed(given: str | Sequence[str], root: str) -> tuple[Sequence[str], Name]:
    """Returns one text or several as a list, and what names the place of each in the body."""
    if isinstance(given, str):
        return [given], lambda _: root
    return given, lambda index: f"{root}/{index}"


async def admit(call: Call, texts: Sequence[str], name: Name) -> None:
    """Holds a request to the limits on items, texts and the client's rate; raises Problem."""
    settings = call.bridge.settings
    call.note.texts = texts
    if len(texts) > settings.max_items:
        raise invalid([{"field": name(settings.max_items), "expected": f"at most {settings.max_items} texts"}])
    most = settings.max_text
    long = [n for n, text in enumerate(texts) if len(text) > most]
    if long:
        raise invalid([{"field": name(n), "expected": f"at most {most} characters"} for n in long])
    call.note.headers.update(await call.bridge.limits.spend(call.caller.name, len(texts), field=name(0)))
