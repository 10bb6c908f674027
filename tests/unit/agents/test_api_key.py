"""`sentence-streams api-key`: a key for a caller, and the line for the bridge."""

import sys
from pathlib import Path

import orjson
import pytest

from agents import cli
from agents.bridge.api_keys import ApiKeys
from streams.settings import Settings


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the command in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["sentence-streams", "api-key", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_the_bridge_knows_a_key_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stdout has the key and the line and nothing else, so that a script can take both."""
    assert run(monkeypatch, "billing", "--roles", "reader, operator") == 0
    key, line = capsys.readouterr().out.splitlines()
    (tmp_path / "keys").write_text(line)
    known = ApiKeys.from_settings(Settings(api_keys_file=tmp_path / "keys"))
    assert known.identify(key) == ("key:billing", ("reader", "operator"))


def test_json_has_both(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For machines, with the role that may only ask where none is named."""
    assert run(monkeypatch, "billing", "--json") == 0
    shown = capsys.readouterr()
    made = orjson.loads(shown.out)
    assert made["key"].startswith("ss_billing_")
    assert made["line"].startswith("billing reader blake2b:")
    assert shown.err == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["Billing"], "expected a name of"), (["billing", "--roles", "reader,root"], "expected roles of STREAMS_ROLES")],
)
def test_wrong_usage(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name or a role that could never work makes no key."""
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert complaint in shown.err
    assert shown.out == ""
