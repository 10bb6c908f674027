"""`sentence-streams db`: upgrade, backup and restore from a shell."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import cli
from streams.models.database import head
from tests.support.commands import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on a database by the name of a file."""

    def run(database: Path, *arguments: object) -> Outcome:
        monkeypatch.setenv("STREAMS_DATABASE_URL", f"sqlite:///{database}")
        monkeypatch.setattr(sys, "argv", ["sentence-streams", "db", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, *capsys.readouterr())

    return run


def test_upgrade_says_from_where_to_where(run: Run, tmp_path: Path) -> None:
    """A second run changes nothing and says so."""
    assert run(tmp_path / "a.db", "upgrade", "--json").json["before"] is None
    assert run(tmp_path / "a.db", "upgrade", "--json").json == {
        "database": f"sqlite:///{tmp_path}/a.db",
        "before": head(),
        "after": head(),
    }


def test_a_backup_restores_into_another_database(run: Run, tmp_path: Path) -> None:
    """Only its owner can read the file; stdout gives the same; a database with rows is refused with exit code 1."""
    file = tmp_path / "catalog.jsonl"
    assert run(tmp_path / "a.db", "upgrade").code == 0
    assert run(tmp_path / "a.db", "backup", file).code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert run(tmp_path / "a.db", "backup", "-").out == file.read_text()
    assert run(tmp_path / "b.db", "restore", file, "--json").json["rows"] == 0
    assert run(tmp_path / "b.db", "backup", "-").out == file.read_text()


def test_a_file_that_is_no_dump_is_one_line(run: Run, tmp_path: Path) -> None:
    """Exit code 1, and 2 where there is no file."""
    (tmp_path / "x").write_text("{}\n")
    outcome = run(tmp_path / "a.db", "restore", tmp_path / "x")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert run(tmp_path / "a.db", "restore", tmp_path / "none").code == 2
