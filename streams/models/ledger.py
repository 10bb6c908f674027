"""What is known of files and batches, for every bridge that shares the database; their bytes lie elsewhere."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, or_, select

from streams.models import database
from streams.models.catalog import now
from streams.models.database import Database

#: A batch in one of these states is somebody's work.
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
#: Milliseconds that whoever works on a batch has it for itself, from the last sign of life.
LEASE = 30_000

Row = dict[str, Any]


class Ledger:
    """The queries. All block, and raise DatabaseUnavailable and OtherSchema. Rows are those of the tables."""

    def __init__(self, store: Database) -> None:
        self._database = store

    def add_file(self, row: Mapping[str, Any]) -> Row:
        """Notes a file, or the same file again, and returns its row."""
        return self._put(database.files, row, again=("deleted", "pending"))

    def file(self, owner: str, file_id: str) -> Row | None:
        """A file of this owner that is not deleted."""
        found = self._one(database.files, owner, file_id)
        return None if found is None or found["status"] == "deleted" else found

    def files(self, owner: str, purpose: str | None, after: str | None, limit: int) -> list[Row]:
        """The files of an owner, the latest first."""
        table = database.files
        query = self._listed(table, owner, after, limit).where(table.c.status != "deleted")
        if purpose is not None:
            query = query.where(table.c.purpose == purpose)
        return self._all(query)

    def set_file(self, file_id: str, **changes: Any) -> None:
        """Changes columns of a file."""
        self._set(database.files, file_id, changes)

    def in_use(self, file_id: str) -> bool:
        """Whether an unfinished batch reads this file."""
        table = database.batches
        query = select(table.c.id).where(table.c.input_file_id == file_id, table.c.status.in_(UNFINISHED)).limit(1)
        return bool(self._all(query))

    def add_batch(self, row: Mapping[str, Any]) -> Row:
        """Notes a batch and returns its row: the same again is the one that is there, unless that came to nothing."""
        return self._put(database.batches, row, again=("failed", "cancelled", "expired"))

    def batch(self, owner: str, batch_id: str) -> Row | None:
        """A batch of this owner."""
        return self._one(database.batches, owner, batch_id)

    def batches(self, owner: str, after: str | None, limit: int) -> list[Row]:
        """The batches of an owner, the latest first."""
        return self._all(self._listed(database.batches, owner, after, limit))

    def cancel(self, owner: str, batch_id: str) -> None:
        """Has an unfinished batch stop, whoever works on it."""
        table, at = database.batches, now()
        with self._database.begin() as connection:
            found = self._locked(connection, batch_id)
            if found is not None and found["owner"] == owner and found["status"] in UNFINISHED[:2]:
                times = {**found["times"], "cancelling_at": at}
                connection.execute(
                    table.update().where(table.c.id == batch_id).values(status="cancelling", times=times)
                )

    def claim(self, holder: str) -> Row | None:
        """Takes the oldest unfinished batch that nobody works on; None where there is none."""
        table, at = database.batches, now()
        with self._database.begin() as connection:
            query = select(table).where(table.c.status.in_(UNFINISHED), table.c.held_until < at)
            oldest = query.order_by(table.c.created_at).limit(1).with_for_update(skip_locked=True)
            found = connection.execute(oldest).mappings().one_or_none()
            if found is None:
                return None
            held = {"holder": holder, "held_until": at + LEASE}
            connection.execute(table.update().where(table.c.id == found["id"]).values(**held))
            return {**found, **held}

    def advance(self, batch_id: str, holder: str, status: str, **changes: Any) -> str | None:
        """Notes how far a batch is and keeps it for `holder`; returns the status it has now.

        None: somebody else works on it by now. A batch that is being cancelled stays so until it has ended.
        """
        table, at = database.batches, now()
        with self._database.begin() as connection:
            found = self._locked(connection, batch_id)
            if found is None or found["holder"] != holder:
                return None
            if found["status"] == "cancelling" and status in UNFINISHED:
                status = "cancelling"
            times = {f"{status}_at": at, **found["times"]}
            held = {"status": status, "times": times, "held_until": at + LEASE if status in UNFINISHED else 0}
            connection.execute(table.update().where(table.c.id == batch_id).values(**changes, **held))
            return status

    def _locked(self, connection: Connection, batch_id: str) -> Row | None:
        table = database.batches
        found = connection.execute(select(table).where(table.c.id == batch_id).with_for_update()).mappings().first()
        return None if found is None else dict(found)

    def _put(self, table: Table, row: Mapping[str, Any], again: tuple[str, ...]) -> Row:
        with self._database.begin() as connection:
            query = select(table).where(table.c.id == row["id"]).with_for_update()
            found = connection.execute(query).mappings().first()
            if found is None:
                connection.execute(table.insert().values(**row))
            elif found["status"] in again:
                connection.execute(table.update().where(table.c.id == row["id"]).values(**row))
            return dict(connection.execute(select(table).where(table.c.id == row["id"])).mappings().one())

    def _one(self, table: Table, owner: str, key: str) -> Row | None:
        rows = self._all(select(table).where(table.c.id == key, table.c.owner == owner))
        return rows[0] if rows else None

    def _listed(self, table: Table, owner: str, after: str | None, limit: int) -> Any:
        query = select(table).where(table.c.owner == owner)
        if after is not None:
            last = select(table.c.created_at).where(table.c.id == after).scalar_subquery()
            same = (table.c.created_at == last) & (table.c.id > after)
            query = query.where(or_(table.c.created_at < last, same))
        return query.order_by(table.c.created_at.desc(), table.c.id).limit(limit)

    def _set(self, table: Table, key: str, changes: Mapping[str, Any]) -> None:
        with self._database.begin() as connection:
            connection.execute(table.update().where(table.c.id == key).values(**changes))

    def _all(self, query: Any) -> list[Row]:
        with self._database.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
