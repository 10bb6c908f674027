"""The sheet behind docs/cost.md: `python -m benchmarks.cost` writes its tables from what is set here.

Measure your own rate (`sentence-streams capacity --json`), put it and your prices here, and run it again.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "cost.md"
BEGIN, END = "<!-- written by python -m benchmarks.cost -->", "<!-- until here -->"
HOURS = 730  # a month
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Sentences a second of one processor: `capacity`'s records a second, divided by the processors it had."""

    worker: float
    scorer: float


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine to rent: processors, and what an hour costs, promised and on the spot market."""

    name: str
    processors: int
    hour: float
    spot: float


#: all-MiniLM-L6-v2, onnx, float32, sentences of 35 tokens on average, an AMD EPYC with AVX2.
RATES = Rates(worker=110.0, scorer=6_000.0)
#: What a node keeps for itself and its agents.
OVERHEAD = 0.10
#: US dollars, list prices of a region in the United States as known in 2025; the spot prices are typical, not promised.
MACHINES = (
    Machine("AWS c7i.large", 2, 0.0893, 0.036),
    Machine("AWS c7i.2xlarge", 8, 0.357, 0.143),
    Machine("AWS c7g.xlarge (Arm)", 4, 0.145, 0.058),
    Machine("Azure D4s v5", 4, 0.192, 0.060),
    Machine("Google e2-standard-4", 4, 0.134, 0.045),
)
#: Sentences a month, and what runs all the time: processors that the production overlay requests at its least.
LOADS = (1 * MILLION, 10 * MILLION, 100 * MILLION, 1_000 * MILLION)
STANDING = {"worker": 2, "scorer": 1, "bridge": 3}
#: Of the standing processors, those that a stream without callers over HTTP, and with nobody who waits, can do without.
TO_ZERO = {"worker", "bridge"}


def per_million(price: float, processors: int, rate: float) -> float:
    """What a million sentences cost on a machine that does nothing else, and is always busy."""
    return MILLION / (rate * processors * (1 - OVERHEAD)) / 3600 * price


def month(machine: Machine, sentences: int, price: float, *, to_zero: bool = False) -> float:
    """What a month costs: the processors that always run, and those that come for what these cannot do."""
    hour = price / machine.processors / (1 - OVERHEAD)
    standing = {name: 0 if to_zero and name in TO_ZERO else count for name, count in STANDING.items()}
    busy = {"worker": sentences / RATES.worker / 3600, "scorer": sentences / RATES.scorer / 3600, "bridge": 0.0}
    return hour * sum(max(standing[name] * HOURS, busy[name]) for name in STANDING)


def tables() -> str:
    """Returns both tables as Markdown."""
    first = [
        [
            machine.name,
            str(machine.processors),
            f"{RATES.worker * machine.processors * (1 - OVERHEAD):,.0f}",
            *(f"${per_million(price, machine.processors, RATES.worker):.2f}" for price in (machine.hour, machine.spot)),
            f"${per_million(machine.hour, machine.processors, RATES.scorer):.3f}",
        ]
        for machine in MACHINES
    ]
    machine = MACHINES[1]
    second = [
        [
            f"{sentences / MILLION:,.0f} million",
            f"${month(machine, sentences, machine.hour):,.0f}",
            f"${month(machine, sentences, machine.spot):,.0f}",
            f"${month(machine, sentences, machine.spot, to_zero=True):,.0f}",
        ]
        for sentences in LOADS
    ]
    return "\n".join(
        [
            *_table(
                ["machine", "processors", "sentences/s", "per million", "on the spot", "scores, per million"], first
            ),
            "",
            *_table(["sentences a month", "always there", "on spot machines", "spot, to zero"], second),
        ]
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def written(page: str) -> str:
    """Returns the page with its tables renewed."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Prints the tables, or writes them into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew docs/cost.md")
    if parser.parse_args().write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tables())


if __name__ == "__main__":
    main()
