"""ASGI middleware around everything: ids, one log line a request, metrics, and the headers every answer has."""

import re
import time
import uuid
from collections.abc import Sequence
from random import getrandbits, random

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agents.bridge.calls import Note
from agents.bridge.metrics import BridgeMetrics
from schemas.headers import TRACEPARENT, continued, traceparent
from streams.observe.logs import text_fields
from streams.observe.tracing import Tracing
from streams.settings import LogText

log = structlog.get_logger(__name__)

#: What a caller may call a request; anything else gets a name of ours.
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: Requests that come every few seconds and are no news.
QUIET = ("/health/", "/metrics")
#: Steps in the order of `Server-Timing`.
STEPS = ("queue", "tokenise", "embed")


class Observed:
    """Gives each request its id, trace and note, and tells what became of it."""

    def __init__(self, app: ASGIApp, metrics: BridgeMetrics, tracing: Tracing, ratio: float, texts: LogText) -> None:
        """`ratio`: share of the traces begun here that are recorded; `texts`: how much of them the log may hold."""
        self._app, self._metrics, self._texts = app, metrics, texts
        self._tracing, self._ratio = tracing, ratio

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, headers, note, status = time.monotonic(), Headers(scope=scope), Note(), 0
        request_id, caller = _request_id(headers.get("x-request-id")), _caller(headers.get(TRACEPARENT))
        trace = continued(caller) if caller else _new_trace(self._ratio)
        scope.setdefault("state", {}).update(
            request_id=request_id, caller_trace=caller, trace=trace, note=note, started=started
        )

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered.update({"X-Request-Id": request_id, "Server-Timing": _timing(note, started), **note.headers})
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, answer)
        finally:
            self._metrics.in_flight.dec()
            self._tell(scope, note, status, time.monotonic() - started)

    def _tell(self, scope: Scope, note: Note, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        for step, took in note.steps.items():
            self._metrics.steps.labels(step).observe(took)
        state = scope["state"]
        if "problem" in state:
            self._metrics.problems.labels(state["problem"].partition(":")[0]).inc()
        if not scope["path"].startswith(QUIET):
            name = f"{scope['method']} {route}"
            self._tracing.answered(name, status, state["trace"], state["caller_trace"], seconds)
        tell = log.debug if scope["path"].startswith(QUIET) else log.info
        tell(
            "request",
            request_id=state["request_id"],
            trace_id=state["trace"][3:35].decode(),
            client=state["caller"].name if "caller" in state else None,
            address=(scope["client"] or ("",))[0],
            method=scope["method"],
            route=route,
            status=status,
            seconds=round(seconds, 6),
            **({"problem": state["problem"]} if "problem" in state else {}),
            **{step: round(took, 6) for step, took in note.steps.items()},
            **note.fields,
            **self._told(note.texts),
        )

    def _told(self, texts: Sequence[str]) -> dict[str, object]:
        if not texts or self._texts is LogText.NONE:
            return {}
        fields = [text_fields(text, self._texts) for text in texts]
        return {f"{name}s": [each[name] for each in fields] for name in fields[0]}


def _request_id(given: str | None) -> str:
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _caller(given: str | None) -> bytes | None:
    """Returns the caller's trace, where it is valid."""
    return None if given is None else traceparent([(TRACEPARENT, given.encode("latin-1"))])


def _new_trace(ratio: float) -> bytes:
    """Returns a new trace, which is recorded in this share of all cases."""
    return b"00-%032x-%016x-%02x" % (getrandbits(128) or 1, getrandbits(64) or 1, random() < ratio)


def _timing(note: Note, started: float) -> str:
    steps = {step: note.steps[step] for step in STEPS if step in note.steps}
    steps["total"] = time.monotonic() - started
    return ", ".join(f"{step};dur={seconds * 1000:.1f}" for step, seconds in steps.items())
