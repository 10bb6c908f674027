"""What is known of models: versions, what they were trained on, training runs, and who switched what and why."""

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import structlog
from pydantic import SecretStr
from sqlalchemy import Connection, RowMapping, Table, case, select
from sqlalchemy.exc import SQLAlchemyError

from schemas.errors import StreamsError
from schemas.records import ModelCommand
from streams.models import database
from streams.models.database import Database
from streams.models.manifest import Manifest

log = structlog.get_logger(__name__)


class UnknownRun(StreamsError):
    """The catalog has no training run of this id."""


class Catalog:
    """The queries. All block; all raise DatabaseUnavailable and OtherSchema but `audit`, which never raises."""

    def __init__(self, store: Database) -> None:
        self.database = store

    @classmethod
    def open(cls, url: SecretStr | None) -> "Catalog":
        """The catalog at STREAMS_DATABASE_URL. Connects to nothing yet; raises BadDatabaseUrl."""
        return cls(Database(url))

    # -- models and versions ----------------------------------------------------------------------------------

    def add_version(self, kind: str, alias: str, digest: str, manifest: Manifest | None = None) -> None:
        """Notes a version of a model, and its baseline; the same again changes nothing."""
        named = {"kind": kind, "alias": alias}
        content = manifest and manifest.model_dump(mode="json")
        with self.database.begin() as connection:
            _once(connection, database.models, named, {"created_at": now()})
            _once(
                connection, database.versions, {**named, "digest": digest}, {"manifest": content, "created_at": now()}
            )
            if content:
                _once(connection, database.baselines, {"digest": digest}, {"baseline": content["baseline"]})

    def versions(self, kind: str | None = None, alias: str | None = None) -> list[dict[str, Any]]:
        """The versions of one alias, a kind, or all, the latest first; rows of the table `versions`."""
        table = database.versions
        query = select(table).order_by(table.c.created_at.desc(), table.c.digest)
        for column, wanted in ((table.c.kind, kind), (table.c.alias, alias)):
            if wanted is not None:
                query = query.where(column == wanted)
        with self.database.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def baseline(self, digest: str) -> dict[str, Any] | None:
        """The baseline of a version, as its manifest has it."""
        with self.database.begin() as connection:
            found = _one(connection, database.baselines, {"digest": digest})
        return None if found is None else dict(found["baseline"])

    # -- who switched what ------------------------------------------------------------------------------------

    def add_activation(self, change: ModelCommand, action: str, state: Mapping[str, Any]) -> None:
        """Notes a change of what an alias stands for: `state` is the command as JSON. Once for each command's id."""
        row = {"kind": change.kind, "alias": change.alias, "action": action, "state": dict(state)}
        said = {"by": change.by, "why": change.reason, "at": change.at}
        with self.database.begin() as connection:
            _once(connection, database.activations, {"id": change.id}, row | said)

    def audit(self, change: ModelCommand, action: str, state: Mapping[str, Any]) -> bool:
        """`add_activation`, where the database can take it; otherwise the log says why not. Never raises."""
        try:
            self.add_activation(change, action, state)
        except (StreamsError, SQLAlchemyError) as error:
            log.warning("change-not-in-catalog", id=change.id, error=str(error), meaning="the stream has it")
            return False
        return True

    def activations(self, alias: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The changes of one alias, or of all, the latest first; rows of the table `activations`."""
        table = database.activations
        query = select(table).order_by(table.c.at.desc(), table.c.id).limit(limit)
        if alias is not None:
            query = query.where(table.c.alias == alias)
        with self.database.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    # -- training runs ----------------------------------------------------------------------------------------

    def begin_run(self, run_id: str, alias: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Notes a training run as `queued`, unless it is known; returns it as it stands."""
        fresh = {"alias": alias, "status": "queued", "request": dict(request), "progress": {}, "detail": ""}
        times = {"created_at": now(), "updated_at": now()}
        with self.database.begin() as connection:
            _once(connection, database.training_runs, {"id": run_id}, fresh | times)
            return dict(_one(connection, database.training_runs, {"id": run_id}) or {})

    def update_run(self, run_id: str, **changes: Any) -> None:
        """Changes columns of a run: status, progress, digest, detail. Raises UnknownRun.

        A run that somebody cancels is never queued or running again, whoever had not seen that yet.
        """
        table = database.training_runs
        if changes.get("status") in {"queued", "running"}:
            cancelled = table.c.status.in_(("cancelling", "cancelled"))
            changes["status"] = case((cancelled, table.c.status), else_=changes["status"])
        with self.database.begin() as connection:
            done = connection.execute(table.update().where(table.c.id == run_id).values(**changes, updated_at=now()))
        if not done.rowcount:
            raise UnknownRun(f"no training run {run_id} in the catalog")

    def cancel_run(self, run_id: str) -> dict[str, Any]:
        """Cancels a run that has not ended: at once, or at its next step where it has begun. Returns it as it stands.

        Raises UnknownRun.
        """
        table = database.training_runs
        status = case((table.c.status == "queued", "cancelled"), else_="cancelling")
        under_way = table.c.status.in_(("queued", "running"))
        with self.database.begin() as connection:
            wanted = table.update().where(table.c.id == run_id, under_way)
            connection.execute(wanted.values(status=status, updated_at=now()))
        return self.run(run_id)

    def run(self, run_id: str) -> dict[str, Any]:
        """A training run: a row of the table `training_runs`. Raises UnknownRun."""
        with self.database.begin() as connection:
            found = _one(connection, database.training_runs, {"id": run_id})
        if found is None:
            raise UnknownRun(f"no training run {run_id} in the catalog")
        return dict(found)

    def runs(self, limit: int = 100) -> list[dict[str, Any]]:
        """The training runs, the latest first."""
        table = database.training_runs
        query = select(table).order_by(table.c.created_at.desc(), table.c.id).limit(limit)
        with self.database.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def look(url: SecretStr | None) -> None:
    """Has the log say whether the catalog can be used, and what to run where not. Never raises: nobody needs it."""
    try:
        with closing(Database(url)) as store, store.begin():
            pass
    except StreamsError as error:
        log.warning("catalog-unusable", error=str(error), meaning="the stream goes on without it")


def now() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def _one(connection: Connection, table: Table, key: Mapping[str, Any]) -> RowMapping | None:
    query = select(table).where(*(table.c[name] == value for name, value in key.items()))
    return connection.execute(query).mappings().one_or_none()


def _once(connection: Connection, table: Table, key: Mapping[str, Any], rest: Mapping[str, Any]) -> None:
    """Inserts a row unless one of this key is there, also when two do it at once."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert

        connection.execute(insert(table).values(**key, **rest).on_conflict_do_nothing())
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_sqlite

        connection.execute(insert_sqlite(table).values(**key, **rest).on_conflict_do_nothing())
