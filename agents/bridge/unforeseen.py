"""Errors that nobody foresaw: the caller learns nothing of our insides, the log nothing of the caller's text."""

import traceback

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agents.bridge.problems import Kind, Problem, respond

log = structlog.get_logger(__name__)


class Broken(Exception):
    """An answer had begun when something failed: the connection is cut, so that nobody takes it for whole."""


class Unforeseen:
    """ASGI middleware: an exception that nobody handled is a 500 without internals, and a trace in the log.

    The log has the type and the lines of code, not the message: messages of libraries quote what they were given, so
    a caller's text. That is also why the exception ends here, before the server would log it in full.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            if scope["type"] != "http":
                raise
            trace = "".join(traceback.format_tb(error.__traceback__))
            request_id = scope.get("state", {}).get("request_id")
            log.error("unforeseen-error", error=type(error).__name__, request_id=request_id, trace=trace)
            if begun:
                raise Broken from None
            await respond(Problem(Kind.INTERNAL, "an unforeseen error"), scope)(scope, receive, send)
