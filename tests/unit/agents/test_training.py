"""`sentence-streams models runs` and `cancel`: the trainer's runs from a shell."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agents import cli
from streams.models.catalog import Catalog
from tests.support.commands import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty catalog, which the commands use as well."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    monkeypatch.setenv("STREAMS_DATABASE_URL", url)
    catalog = Catalog.open(SecretStr(url))
    with closing(catalog.database):
        yield catalog


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command."""

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sentence-streams", "models", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, *capsys.readouterr())

    return run


def test_runs_are_listed_with_what_came_of_them(catalog: Catalog, run: Run) -> None:
    """A table for people, everything as JSON; an empty list says so beside the results."""
    assert (run("runs").out, run("runs", "--json").json) == ("", [])
    catalog.begin_run("run-1", "place", {"by": "ada"})
    catalog.update_run("run-1", status="running", progress={"step": "embedding", "done": 1000, "of": 2000})
    catalog.begin_run("run-2", "mood", {"by": "key:bridge"})
    catalog.update_run("run-2", status="failed", detail="one label only")
    shown = run("runs")
    assert shown.code == 0
    for expected in ("run-1", "place", "ada", "embedding 1,000 of 2,000", "mood", "one label only"):
        assert expected in shown.out
    found = {each["id"]: each for each in run("runs", "--json").json}
    assert found["run-1"]["progress"] == {"step": "embedding", "done": 1000, "of": 2000}
    assert found["run-2"]["status"] == "failed"
    assert len(run("runs", "--limit", "1", "--json").json) == 1


def test_a_run_is_cancelled(catalog: Catalog, run: Run) -> None:
    """The outcome says what it is now; one that nobody knows is exit code 1."""
    catalog.begin_run("run-1", "place", {})
    assert run("cancel", "run-1", "--json").json["status"] == "cancelled"
    assert catalog.run("run-1")["status"] == "cancelled"
    assert "run run-1: cancelled" in run("cancel", "run-1").err
    unknown = run("cancel", "run-2")
    assert (unknown.code, unknown.out) == (1, "")
    assert "no training run run-2 in the catalog" in unknown.err
