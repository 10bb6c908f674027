"""The catalog and its migrations: one suite for SQLite and for a real PostgreSQL."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from structlog.testing import capture_logs

from schemas.records import ModelCommand, ModelKind
from streams.models import database
from streams.models.catalog import Catalog, UnknownRun, look
from streams.models.database import BadDatabaseUrl, Database, DatabaseUnavailable, OtherSchema, head, migrate, revision
from streams.models.dump import BadDump, NotEmpty, dump, restore
from streams.models.manifest import Manifest

MANIFEST = Manifest.model_validate(
    {
        "head": "logistic",
        "labels": ["travel", "food"],
        "base": {"name": "m", "revision": "r", "digest": "d" * 64, "precision": "float32", "dimensions": 4},
        "data": {"digest": "a" * 64, "rows": 10},
        "parameters": {"c": 1.0},
        "seed": 7,
        "libraries": {},
        "code": "0.1.0",
        "metrics": {"accuracy": 0.9},
        "baseline": {"scores": {"travel": {"edges": [0.5], "counts": [5, 5]}}},
    }
)
CHANGE = ModelCommand(id="c1", kind=ModelKind.SCORER, alias="topic", by="ada", reason="new labels, größer", at=5)


@pytest.fixture
def make_url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Makes the URL of an empty database of a kind."""

    def make(kind: str) -> str:
        name = f"t{uuid4().hex}"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.db"
        return str(request.getfixturevalue("postgres").database(name))

    return make


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, make_url: Any) -> SecretStr:
    """An empty database."""
    return SecretStr(make_url(request.param))


@pytest.fixture
def empty(url: SecretStr) -> Iterator[Database]:
    """A database without a schema."""
    found = Database(url)
    yield found
    found.close()


@pytest.fixture
def catalog(empty: Database) -> Catalog:
    """A catalog at this version's schema."""
    empty.upgrade()
    return Catalog(empty)


def filled(catalog: Catalog) -> Catalog:
    """A catalog with a row in every table."""
    catalog.add_version("scorer", "topic", "f" * 64, MANIFEST)
    catalog.begin_run("run-1", "topic", {"labels": "labels.csv"})
    catalog.add_activation(CHANGE, "activate", {"active": "f" * 64})
    with catalog.database.begin() as connection:
        row = {"owner": "key:ada", "filename": "in.jsonl", "purpose": "batch", "bytes": 9, "status": "processed"}
        connection.execute(database.files.insert(), [{"id": "file-1", "created_at": 1, **row}])
        fixed = {"total": 1, "completed": 1, "failed": 0, "times": {}, "created_at": 1, "held_until": 0}
        place = {"owner": "key:ada", "endpoint": "/v1/embeddings", "input_file_id": "file-1", "status": "completed"}
        connection.execute(database.batches.insert(), [{"id": "batch-1", "errors": None, **fixed, **place}])
    return catalog


def content(store: Database) -> list[str]:
    return list(dump(store))


def test_migrations_make_what_the_code_declares(catalog: Catalog) -> None:
    """The tables of the last revision are those of `database.METADATA`, column by column."""
    with catalog.database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, database.METADATA) == []


def test_up_and_down_keep_the_data_of_before(catalog: Catalog) -> None:
    """Down to the first revision and up again: what that revision knows is untouched, what it does not know is gone."""
    filled(catalog)
    before = [line for line in content(catalog.database) if '"files"' not in line and '"batches"' not in line][:-1]
    with catalog.database.connect() as connection:
        migrate(connection, "0001", down=True)
    with catalog.database.connect() as connection:
        assert revision(connection) == "0001"
        migrate(connection)
    assert content(catalog.database)[:-1] == before
    with catalog.database.connect() as connection:
        migrate(connection, "base", down=True)
        assert revision(connection) is None


def test_an_older_schema_says_what_to_run(catalog: Catalog) -> None:
    """Nothing is read from it; the message has the command, and after it all works."""
    with catalog.database.connect() as connection:
        migrate(connection, "0001", down=True)
    with pytest.raises(OtherSchema, match=r"is 0001, .* needed: run `sentence-streams db upgrade`"):
        catalog.versions()
    assert catalog.database.upgrade() == ("0001", head())
    assert catalog.versions() == []


def test_a_newer_schema_is_left_alone(catalog: Catalog) -> None:
    """An old worker neither uses nor changes what a newer version made."""
    with catalog.database.connect() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(OtherSchema, match="newer version"):
        catalog.versions()
    with pytest.raises(OtherSchema, match="newer version"):
        catalog.database.upgrade()


def test_a_version_is_noted_once_with_its_manifest(catalog: Catalog) -> None:
    """Who trains the same again finds the row of before; the baseline has a place of its own."""
    for _ in range(2):
        catalog.add_version("scorer", "topic", "f" * 64, MANIFEST)
    (row,) = catalog.versions("scorer", "topic")
    assert Manifest.model_validate(row["manifest"]) == MANIFEST
    assert catalog.versions("scorer", "other") == catalog.versions("embedder") == []
    assert catalog.baseline("f" * 64) == MANIFEST.model_dump(mode="json")["baseline"]
    assert catalog.baseline("0" * 64) is None


def test_a_run_is_begun_once_and_followed(catalog: Catalog) -> None:
    """Beginning it again, as after a crash, finds how far it was."""
    catalog.begin_run("run-1", "topic", {"folds": 5})
    catalog.update_run("run-1", status="running", progress={"embedded": 10})
    again = catalog.begin_run("run-1", "topic", {"folds": 5})
    assert (again["status"], again["progress"], again["request"]) == ("running", {"embedded": 10}, {"folds": 5})
    assert [run["id"] for run in catalog.runs()] == ["run-1"]
    with pytest.raises(UnknownRun):
        catalog.run("run-2")
    with pytest.raises(UnknownRun):
        catalog.update_run("run-2", status="failed")


def test_a_run_is_cancelled_at_once_or_at_its_next_step(catalog: Catalog) -> None:
    """A trainer that has not heard of it begins it no more; a run that has ended stays as it is."""
    for run in ("waits", "runs", "done"):
        catalog.begin_run(run, "topic", {})
    catalog.update_run("runs", status="running")
    catalog.update_run("done", status="succeeded")
    said = [catalog.cancel_run(run)["status"] for run in ("waits", "runs", "done")]
    assert said == ["cancelled", "cancelling", "succeeded"]
    for run, late in (("waits", "running"), ("runs", "queued")):
        catalog.update_run(run, status=late)
    assert [catalog.run(run)["status"] for run in ("waits", "runs")] == ["cancelled", "cancelling"]
    catalog.update_run("runs", status="cancelled")
    assert catalog.run("runs")["status"] == "cancelled"
    with pytest.raises(UnknownRun):
        catalog.cancel_run("nothing")


def test_a_change_is_audited_once(catalog: Catalog) -> None:
    """Who, when, why and what; the same command heard by every worker is one row."""
    assert all(catalog.audit(CHANGE, "activate", {"active": "x"}) for _ in range(3))
    (row,) = catalog.activations("topic")
    assert (row["by"], row["why"], row["at"], row["action"]) == ("ada", "new labels, größer", 5, "activate")
    assert catalog.activations("other") == []


def test_two_who_write_at_once_both_succeed(catalog: Catalog) -> None:
    """Each from a thread of its own: nobody sees an error, every row is there."""

    def write(number: int) -> None:
        for n in range(10):
            catalog.begin_run(f"run-{number}-{n}", "topic", {})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalog.runs()) == 40


@pytest.mark.parametrize("to", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_dump_restores_into_any_database(catalog: Catalog, to: str, make_url: Any) -> None:
    """Row by row the same, whatever the two databases are; a second restore is refused."""
    filled(catalog)
    lines = content(catalog.database)
    other = Database(SecretStr(make_url(to)))
    assert restore(other, lines) == 7
    assert content(other) == lines
    with pytest.raises(NotEmpty):
        restore(other, lines)
    other.close()


def test_a_dump_of_an_older_schema_restores_into_the_new_one(catalog: Catalog, make_url: Any) -> None:
    """It goes in at its own revision, and is brought up from there."""
    filled(catalog)
    with catalog.database.connect() as connection:
        migrate(connection, "0001", down=True)
    lines = ['{"format": "sentence-streams-catalog", "revision": "0001"}\n']
    lines += ['{"table": "models", "row": {"kind": "scorer", "alias": "a", "created_at": 1}}\n', '{"rows": 1}\n']
    other = Database(SecretStr(make_url("sqlite")))
    assert restore(other, lines) == 1
    assert '"revision": "0002"' in content(other)[0]
    other.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[:-1], "cut off"),
        (lambda lines: lines[:2] + lines[3:], "rows"),
        (lambda lines: ["{}\n", *lines[1:]], "first line"),
        (lambda lines: [lines[0], '{"table": "nobody", "row": {}}\n'], "row 1"),
        (lambda lines: [lines[0], "no json\n"], "JSON"),
    ],
)
def test_a_spoiled_dump_changes_nothing(catalog: Catalog, spoil: Any, message: str, make_url: Any) -> None:
    """All of it or nothing: after the error the database is as empty as before."""
    lines = content(filled(catalog).database)
    other = Database(SecretStr(make_url("sqlite")))
    with pytest.raises(BadDump, match=message):
        restore(other, spoil(lines))
    with other.connect() as connection:
        assert revision(connection) is None
    other.close()


@pytest.mark.parametrize("away", ["postgresql://nobody:secret@127.0.0.1:1/none", "sqlite:////proc/nowhere/catalog.db"])
def test_without_a_database_the_stream_goes_on(away: str) -> None:
    """Those who must have it get an error of one line without the password; audit and look only log."""
    catalog = Catalog.open(SecretStr(away))
    with pytest.raises(DatabaseUnavailable, match=r"^[^\n]*$") as caught:
        catalog.versions()
    assert "secret" not in str(caught.value)
    with capture_logs() as logs:
        assert not catalog.audit(CHANGE, "activate", {})
        look(SecretStr(away))
    assert [entry["event"] for entry in logs] == ["change-not-in-catalog", "catalog-unusable"]


def test_a_worker_that_finds_an_older_schema_says_what_to_run(catalog: Catalog, url: SecretStr) -> None:
    """In its log, at the start; it goes on."""
    with catalog.database.connect() as connection:
        migrate(connection, "0001", down=True)
    with capture_logs() as logs:
        look(url)
    assert "run `sentence-streams db upgrade`" in logs[0]["error"]


def test_an_empty_sqlite_file_needs_no_command(tmp_path: Path) -> None:
    """The default works at once, folder and all; a PostgreSQL is somebody's, and is never changed unasked."""
    catalog = Catalog.open(SecretStr(f"sqlite:///{tmp_path}/new/catalog.db"))
    assert catalog.versions() == []
    catalog.database.close()


@pytest.mark.postgres
def test_an_empty_postgres_says_what_to_run(make_url: Any) -> None:
    """Its schema is made by the command alone."""
    catalog = Catalog.open(SecretStr(make_url("postgresql")))
    with pytest.raises(OtherSchema, match=r"not there yet, .*: run `sentence-streams db upgrade`"):
        catalog.versions()
    catalog.database.close()


@pytest.mark.postgres
def test_the_pool_outlives_a_restart_of_the_server(postgres: Any, make_url: Any) -> None:
    """Connections that broke are noticed and replaced: the next query works."""
    catalog = Catalog.open(SecretStr(make_url("postgresql")))
    catalog.database.upgrade()
    assert catalog.versions() == []
    postgres.stop()
    with pytest.raises(DatabaseUnavailable):
        catalog.versions()
    postgres.run()
    assert catalog.versions() == []
    catalog.database.close()


@pytest.mark.parametrize("wrong", ["mysql://host/x", "nonsense"])
def test_another_database_is_refused(wrong: str) -> None:
    """The message says what is understood and never shows the URL, which may hold a password."""
    with pytest.raises(BadDatabaseUrl, match="postgresql://") as caught:
        Database(SecretStr(wrong))
    assert "host" not in str(caught.value).replace("postgresql://host", "")
