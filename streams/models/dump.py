"""A dump of the whole catalog that any of its databases reads: JSON Lines, one row a line.

The first line names the schema's revision, the last one counts the rows: a dump that was cut off is noticed.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, MetaData, Table, func, select

from schemas.errors import StreamsError
from streams.models.database import Database, migrate, revision

FORMAT = "sentence-streams-catalog"
#: Rows of one insert.
AT_ONCE = 500


class BadDump(StreamsError):
    """The file is no whole dump of a catalog."""


class NotEmpty(StreamsError):
    """The database has rows already: a dump goes into an empty one only."""


def dump(database: Database) -> Iterator[str]:
    """Yields the lines of a dump. Raises DatabaseUnavailable, OtherSchema."""
    with database.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE files, batches IN SHARE MODE")  # a batch never without its file
        yield _line({"format": FORMAT, "revision": revision(connection)})
        count = 0
        for table in _tables(connection):
            for row in connection.execute(select(table)).mappings():
                yield _line({"table": table.name, "row": dict(row)})
                count += 1
        yield _line({"rows": count})


def restore(database: Database, lines: Iterable[str]) -> int:
    """Puts a dump into an empty database, all of it or nothing, and brings it to this version's schema.

    Returns the number of rows. Raises BadDump, NotEmpty, DatabaseUnavailable.
    """
    entries = map(_entry, lines)
    first = next(entries, {})
    if first.get("format") != FORMAT:
        raise BadDump("the first line does not say that this is a dump of a catalog")
    with database.connect() as connection:
        _empty(connection, database.name)
        if revision(connection) is None:
            migrate(connection, str(first["revision"]))
        count = _insert(connection, entries)
        migrate(connection)
    return count


def _empty(connection: Connection, name: str) -> None:
    for table in _tables(connection):
        if connection.execute(select(func.count()).select_from(table)).scalar():
            raise NotEmpty(f"{name}: {table.name} has rows; restore into an empty database")


def _insert(connection: Connection, entries: Iterator[dict[str, Any]]) -> int:
    tables = {table.name: table for table in _tables(connection)}
    waiting: list[dict[str, Any]] = []
    current: Table | None = None
    for count, entry in enumerate(entries):
        if "rows" in entry:
            _flush(connection, current, waiting)
            if entry["rows"] != count:
                raise BadDump(f"it has {count} rows and says that there are {entry['rows']}")
            return count
        table = tables.get(entry.get("table", ""))
        if table is None or not isinstance(entry.get("row"), dict):
            raise BadDump(f"row {count + 1}: expected a row of one of {', '.join(tables)}")
        if table is not current or len(waiting) >= AT_ONCE:
            _flush(connection, current, waiting)
        current = table
        waiting.append(entry["row"])
    raise BadDump("it ends without its last line: it was cut off")


def _flush(connection: Connection, table: Table | None, waiting: list[dict[str, Any]]) -> None:
    if table is not None and waiting:
        connection.execute(table.insert(), waiting)
        waiting.clear()


def _tables(connection: Connection) -> list[Table]:
    """The tables as they are there, which may be those of an older version; referenced ones first."""
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n"


def _entry(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        raise BadDump("a line is not JSON") from None
    if not isinstance(found, dict):
        raise BadDump("a line is not an object")
    return found
