"""`make chaos`: runs the long form of every fault, prints the table, and writes it as JSON."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.catalogue import ALL, Fault
from tests.faults.scene import Outcome
from tests.support.kafka import Kafka, KafkaCluster, single

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("fault", "records", "lost", "repeated", "longest stall (s)", "recovery (s)", "seconds", "note")

Row = tuple[Fault, Outcome | str, float]


def main() -> int:
    """Parses, runs, prints, writes; returns 1 where a fault was not borne."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end like any other: what was started is ended, too
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of faults (default: all)")
    parser.add_argument("--short", action="store_true", help="the sizes of the test suite")
    parser.add_argument("--list", action="store_true", help="only name them")
    chosen = parser.parse_args()
    faults = [fault for fault in ALL if not chosen.names or any(name in fault.name for name in chosen.names)]
    if chosen.list:
        print("\n".join(fault.name for fault in faults))
        return 0
    rows = [run(fault, short=chosen.short) for fault in faults]
    Console(width=None if sys.stdout.isatty() else 200).print(_table(rows))
    print(f"written to {_write(rows)}")
    return int(any(isinstance(outcome, str) for _, outcome, _ in rows))


def run(fault: Fault, *, short: bool) -> Row:
    """Runs one fault on brokers of its own."""
    folder = Path(tempfile.mkdtemp(prefix="sentence-streams-chaos-"))
    size = fault.short if short else fault.chaos()
    print(f"{fault.name}: {size}, logs in {folder}", file=sys.stderr)
    since = time.monotonic()
    # What a failing test would show of the workers' logs is kept there, too.
    with _brokers(fault, folder) as kafka, (folder / "workers.log").open("w") as log, redirect_stdout(log):
        try:
            outcome: Outcome | str = fault.run(kafka, folder / "stream", size)
        except Exception as error:  # the others still run, and the table says what became of this one
            outcome = f"FAILED: {type(error).__name__}: {str(error)[:300]}"
    print(f"{fault.name}: {outcome}", file=sys.stderr)
    return fault, outcome, round(time.monotonic() - since, 1)


@contextmanager
def _brokers(fault: Fault, folder: Path) -> Iterator[Kafka | KafkaCluster]:
    kafka = KafkaCluster(folder) if fault.cluster else single(folder)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title=f"{os.cpu_count()} processors")
    for column in COLUMNS:
        table.add_column(column)
    for fault, outcome, seconds in rows:
        cells = ["", "", "", "", "", outcome] if isinstance(outcome, str) else list(asdict(outcome).values())
        table.add_row(fault.name, *map(str, cells[:-1]), str(seconds), str(cells[-1]))
    return table


def _write(rows: Sequence[Row]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    found = [
        {
            "fault": fault.name,
            "seconds": seconds,
            **({"failed": outcome} if isinstance(outcome, str) else asdict(outcome)),
        }
        for fault, outcome, seconds in rows
    ]
    path.write_text(json.dumps({"processors": os.cpu_count(), "faults": found}, indent=2))
    return path


if __name__ == "__main__":
    sys.exit(main())
