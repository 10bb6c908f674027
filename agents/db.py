"""The commands about the catalog's database; parsed as in `agents.cli`, which they belong to."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

if TYPE_CHECKING:
    from streams.models.database import Database

db = typer.Typer(
    help="The catalog of models, training runs, files and batches, at `STREAMS_DATABASE_URL`.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on stdout.")]
Dump = Annotated[Path, typer.Argument(metavar="FILE", help="The dump; - is stdout or stdin.")]


@db.command()
def upgrade(as_json: Json = False) -> None:
    """Bring the database's schema to this version's. A second run changes nothing.

    Workers and bridges of before go on without the catalog until they are this version, too: the stream never
    depends on it. Take a `db backup` first.
    """
    from agents.console import print_json, remark

    with _database() as database:
        before, after = database.upgrade()
        if as_json:
            print_json({"database": database.name, "before": before, "after": after})
        else:
            remark(f"{database.name}: schema {after}, was {before or 'not there'}")


@db.command()
def backup(file: Dump) -> None:
    """Write all of the catalog as JSON Lines: a dump that SQLite and PostgreSQL take alike.

    Bytes of models and files are not in it: they lie in `STREAMS_ARTIFACTS`, which has copies of its own.
    """
    from agents.console import plural, remark
    from streams.models.dump import dump

    with _database() as database:
        if str(file) == "-":
            sys.stdout.writelines(dump(database))
            return
        part = file.with_name(f".{file.name}.part")
        with open(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            lines = _written(stream, dump(database))
        part.replace(file)  # a dump that was cut off never takes a whole one's place
        remark(f"{plural(lines - 2, 'row')} of {database.name} in {file}")


@db.command()
def restore(file: Dump, as_json: Json = False) -> None:
    """Put a dump into an empty database, all of it or nothing; the schema becomes this version's."""
    from agents.console import plural, print_json, remark
    from streams.models.dump import restore

    with _database() as database, _reading(file) as lines:
        rows = restore(database, lines)
        if as_json:
            print_json({"database": database.name, "rows": rows})
        else:
            remark(f"{plural(rows, 'row')} in {database.name}")


def _written(stream: TextIO, lines: Iterator[str]) -> int:
    count = 0
    for line in lines:
        stream.write(line)
        count += 1
    return count


@contextmanager
def _reading(file: Path) -> Iterator[TextIO]:
    if str(file) == "-":
        yield sys.stdin
        return
    try:
        stream = file.open(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from None
    with stream:
        yield stream


@contextmanager
def _database() -> "Iterator[Database]":
    from streams.models.database import Database
    from streams.settings import load

    with closing(Database(load().database_url)) as database:
        yield database
