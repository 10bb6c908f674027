"""The catalog's database: its tables, the engine behind STREAMS_DATABASE_URL, and its migrations.

Times are milliseconds since 1970 UTC. Bytes of files and models are never in here: they lie in the artifact store.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from schemas.errors import Retry, StreamsError

#: Seconds until a server must have taken a connection, and until one of the pool must be free.
PATIENCE = 5
#: Holds back a second `db upgrade` of the same PostgreSQL: any number that nobody else takes.
_LOCK = 7_305_809_118_294_121
_MIGRATIONS = Path(__file__).parent / "migrations"

# It says at every look at the revision what kind of database it is.
logging.getLogger("alembic").setLevel(logging.WARNING)

METADATA = MetaData()

models = Table(
    "models",
    METADATA,
    Column("kind", String(16), primary_key=True),
    Column("alias", String(200), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
)
versions = Table(
    "versions",
    METADATA,
    Column("kind", String(16), primary_key=True),
    Column("alias", String(200), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("manifest", JSON),
    Column("created_at", BigInteger, nullable=False),
)
baselines = Table(
    "baselines",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("baseline", JSON, nullable=False),
)
training_runs = Table(
    "training_runs",
    METADATA,
    Column("id", String(200), primary_key=True),
    Column("alias", String(200), nullable=False, index=True),
    Column("status", String(16), nullable=False),
    Column("request", JSON, nullable=False),
    Column("progress", JSON, nullable=False),
    Column("digest", String(64)),
    Column("detail", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)
activations = Table(
    "activations",
    METADATA,
    Column("id", String(200), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("alias", String(200), nullable=False, index=True),
    Column("action", String(32), nullable=False),
    Column("state", JSON, nullable=False),
    Column("by", String(200), nullable=False),
    Column("why", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
files = Table(
    "files",
    METADATA,
    Column("id", String(200), primary_key=True),
    Column("owner", String(500), nullable=False, index=True),
    Column("filename", String(500), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
batches = Table(
    "batches",
    METADATA,
    Column("id", String(200), primary_key=True),
    Column("owner", String(500), nullable=False, index=True),
    Column("endpoint", String(100), nullable=False),
    Column("input_file_id", String(200), ForeignKey("files.id"), nullable=False),
    Column("output_file_id", String(200)),
    Column("error_file_id", String(200)),
    Column("status", String(16), nullable=False, index=True),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("errors", JSON),
    Column("metadata", JSON),
    Column("times", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    #: Until when whoever works on it has it for itself; another may take it up later.
    Column("held_until", BigInteger, nullable=False),
    Column("holder", String(200)),
)


class DatabaseUnavailable(Retry):
    """The catalog's database cannot be reached; the stream does not need it and goes on."""


class BadDatabaseUrl(StreamsError):
    """STREAMS_DATABASE_URL names no SQLite or PostgreSQL database."""


class OtherSchema(StreamsError):
    """The database's schema is not the one this version works with; the message says what to run."""


class Database:
    """One database. Connects when it is first used; every call may block."""

    def __init__(self, url: SecretStr | None) -> None:
        """`url` as in sqlite:///file.db or postgresql://user:password@host/name; None: a file of the user's own."""
        self._url = _parsed(url)
        self.name = self._url.render_as_string(hide_password=True)
        self.engine = _engine(self._url)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction on a database of the right schema. Raises DatabaseUnavailable, OtherSchema."""
        with self.connect() as connection:
            self.check(connection)
            yield connection

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A transaction whatever the schema. Raises DatabaseUnavailable."""
        try:
            if self._url.get_backend_name() == "sqlite" and self._url.database not in {None, "", ":memory:"}:
                Path(str(self._url.database)).expanduser().parent.mkdir(parents=True, exist_ok=True)
            with self.engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
                raise DatabaseUnavailable(f"{self.name}: {_first_line(error)}") from None
            raise
        except (PoolTimeout, OSError) as error:
            raise DatabaseUnavailable(f"{self.name}: {_first_line(error)}") from None

    def check(self, connection: Connection) -> None:
        """Raises OtherSchema; an empty SQLite file is set up, since it is nobody else's."""
        found, wanted = revision(connection), head()
        if found is None and connection.dialect.name == "sqlite":
            migrate(connection)
        elif found != wanted:
            raise OtherSchema(_advice(self.name, found, wanted))

    def upgrade(self) -> tuple[str | None, str]:
        """Brings the schema to this version's; returns the revisions before and after. Raises DatabaseUnavailable."""
        with self.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            before = revision(connection)
            if before is not None and before not in _known():
                raise OtherSchema(_advice(self.name, before, head()))
            migrate(connection)
        return before, head()

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def default_place() -> Path:
    """The file of the catalog when no setting says otherwise: in the user's data folder."""
    data = os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()
    return Path(data) / "sentence-streams" / "catalog.db"


def revision(connection: Connection) -> str | None:
    """The schema's revision; None where there is none yet."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision that this version works with."""
    return str(ScriptDirectory(str(_MIGRATIONS)).get_current_head())


def migrate(connection: Connection, to: str = "head", *, down: bool = False) -> None:
    """Brings the schema up, or down, to a revision, in the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    (command.downgrade if down else command.upgrade)(config, to)


def _known() -> set[str]:
    return {script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions()}


def _advice(name: str, found: str | None, wanted: str) -> str:
    if found is not None and found not in _known():
        return f"{name}: its schema {found} is of a newer version than this one, which knows up to {wanted}: update"
    return f"{name}: its schema is {found or 'not there yet'}, {wanted} is needed: run `sentence-streams db upgrade`"


def _parsed(url: SecretStr | None) -> URL:
    if url is None:
        return URL.create("sqlite", database=str(default_place()))
    try:
        parsed = make_url(url.get_secret_value())
    except ArgumentError:
        raise BadDatabaseUrl("expected a URL as in sqlite:///catalog.db or postgresql://host/name") from None
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise BadDatabaseUrl(f"expected sqlite:// or postgresql://, got {parsed.drivername}://")
    return parsed


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": PATIENCE})
        event.listen(engine, "connect", _sqlite)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    try:  # connections that a restart of the server broke are noticed before they are used
        limits: dict[str, Any] = {"pool_size": 5, "max_overflow": 5, "pool_timeout": PATIENCE, "pool_pre_ping": True}
        return create_engine(url, connect_args={"connect_timeout": PATIENCE}, **limits)
    except (ImportError, NoSuchModuleError):
        raise BadDatabaseUrl("PostgreSQL needs the extra `postgres`: install sentence-streams[postgres]") from None


def _sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver would end transactions by itself, before a change of the schema
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA journal_mode=WAL")


def _sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # writers queue at the start, instead of failing halfway


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).strip().split("\n", 1)[0]
