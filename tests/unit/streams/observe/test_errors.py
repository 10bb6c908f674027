"""Errors that Sentry hears of, and what it does not hear with them."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from threading import Thread
from typing import Any

import pytest

from streams.observe.errors import report_errors
from streams.settings import SettingsError, load

#: Tells of an error in the log, and then ends by another; both have a sentence in hand.
PROGRAM = """
import structlog
from streams.observe.errors import report_errors
from streams.observe.logs import configure
from streams.settings import load

settings = load()
configure(settings)
report_errors(settings)


def fail(text, why):
    raise ValueError(why)


try:
    fail("a secret" + " sentence", "first")
except ValueError as error:
    structlog.get_logger("streams").error("poison", offset=42, exc_info=error)
fail("a secret" + " sentence", "second")
"""


class Sentry(ThreadingHTTPServer):
    """Takes Sentry's envelopes on loopback."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Sentry

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "br":  # where somebody else brought the package along
            body = import_module("brotli").decompress(body)
        else:
            body = gzip.decompress(body)
        lines = [json.loads(line) for line in body.splitlines() if line]
        self.server.events += [line for line in lines if "platform" in line]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    """A Sentry that listens."""
    with Sentry() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_errors_are_sent_without_their_texts(sentry: Sentry) -> None:
    """A line in the log keeps its name and fields, what ends the process its stack; no variable goes with them."""
    environment = {**os.environ, "STREAMS_SENTRY_DSN": f"http://key@127.0.0.1:{sentry.server_port}/1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1
    told, ended = sorted(sentry.events, key=lambda event: "exception" in event)
    assert told["logentry"]["message"] == "poison"
    assert told["extra"]["offset"] == 42
    assert "first" in told["extra"]["exception"]
    assert ended["exception"]["values"][-1]["value"] == "second"
    assert ended["release"].startswith("sentence-streams@")
    assert "secret" not in json.dumps(sentry.events)


def test_a_wrong_project_is_one_clear_line() -> None:
    """What is no DSN is named, and not shown: it holds a key."""
    with pytest.raises(SettingsError, match="STREAMS_SENTRY_DSN: expected") as caught:
        report_errors(load(sentry_dsn="nonsense"))
    assert "nonsense" not in str(caught.value)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a project and lacks the package is told which to install."""
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(SettingsError, match=r"sentence-streams\[telemetry\]"):
        report_errors(load(sentry_dsn="https://key@sentry.example/1"))
