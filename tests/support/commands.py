"""Commands of the product on a stream under test: in this process, or in one of their own to be killed."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from agents import cli
from streams.observe import logs
from tests.support.stream import PATIENCE, ROOT, Stream


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON value."""
        assert self.out, f"it said nothing on stdout, ended with {self.code}, and said on stderr:\n{self.err}"
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Commands:
    """Runs commands with the settings of a stream."""

    def __init__(self, stream: Stream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch
        settings = stream.settings
        for name in settings.model_fields_set:
            value = getattr(settings, name)
            told = value.get_secret_value() if isinstance(value, SecretStr) else value
            monkeypatch.setenv(f"STREAMS_{name.upper()}", str(told))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(logs, "configure", lambda _: None)  # the logs of the tests are pytest's

    def __call__(self, *arguments: object) -> Outcome:
        """Runs a command to its end, in this process."""
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["sentence-streams", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, *self._capsys.readouterr())

    def begin(self, *arguments: object) -> "subprocess.Popen[str]":
        """Starts a command as a process, without waiting."""
        return subprocess.Popen(
            [sys.executable, "-m", "agents.cli", *map(str, arguments)],
            cwd=ROOT,
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def outcome(process: "subprocess.Popen[str]") -> Outcome:
    """Waits for the end of a command's process."""
    out, err = process.communicate(timeout=PATIENCE)
    return Outcome(process.returncode, out, err)
