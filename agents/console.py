"""What the commands show beside their results: progress and remarks on stderr, tables on stdout."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

#: Tells progress: how much of the total is done, and how many records that were.
Advance = Callable[[float, int], None]

#: Columns of a table that goes to a file or a pipe: room enough that nothing is cut.
UNLIMITED = 1_000
#: Seconds between two updates of a progress bar.
REFRESH = 0.1


def remark(line: str) -> None:
    """Writes a line for people on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def plural(count: int, noun: str) -> str:
    """Returns count and noun, as in "1 record" and "1,200 records"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@contextmanager
def progress(title: str, total: float | None, *, shown: bool = True) -> Iterator[Advance]:
    """Shows a bar with count, rate and time left on stderr where that is a terminal; else nothing.

    `total` is in whatever unit the first argument of the yielded function has; None where nobody knows.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda _done, _records: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=total, records=0, rate=0.0)
        started = shown_at = time.monotonic()

        def advance(done: float, records: int) -> None:
            nonlocal shown_at
            now = time.monotonic()
            if now - shown_at >= REFRESH:
                shown_at = now
                bars.update(task, completed=done, records=records, rate=records / (now - started))

        yield advance


@contextmanager
def waiting(title: str) -> Iterator[Callable[[str], None]]:
    """Shows on stderr, where that is a terminal, that something takes a while; what is yielded says what it is at."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bars:
        task = bars.add_task(title, total=None)
        yield lambda step: bars.update(task, description=f"{title}: {step}")


@dataclass(frozen=True, slots=True)
class Voice:
    """How something that takes long tells of itself: lines for people, and how far it is."""

    remark: Callable[[str], None]
    progress: Callable[[str, float], AbstractContextManager[Advance]]


CONSOLE = Voice(remark, progress)


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Prints a table on stdout; cells are taken as they are, none is read as markup."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console = Console(width=None if sys.stdout.isatty() else UNLIMITED, highlight=False)
    with console.capture() as printed:
        console.print(grid)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())


def print_json(value: Any) -> None:
    """Prints a value on stdout as one line of JSON."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE).decode())


def mute() -> None:
    """Ends writing to stdout quietly, after whoever read it has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
