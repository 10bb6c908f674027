"""Every fault, in a short form for the test suite and a long one for `make chaos`."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import brokers, models, workers
from tests.faults.scene import Outcome, Size

ONCE, TWICE = "exactly_once", "at_least_once"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `run(kafka, folder, size)` brings it about and fails where the stream does not bear it."""

    name: str
    run: Callable[[Any, Path, Size], Outcome]
    short: Size
    long: Size
    #: Whether it needs three brokers.
    cluster: bool = False
    #: Whether its records are so many a second, for as long as it takes.
    rated: bool = False
    #: Whether the test suite leaves it to the long round, since another fault's short form holds nearly as much.
    only_long: bool = False

    def chaos(self) -> Size:
        """The long size, with CHAOS_RECORDS records and outages of CHAOS_SECONDS seconds where these are set."""
        size, records, seconds = self.long, os.environ.get("CHAOS_RECORDS"), os.environ.get("CHAOS_SECONDS")
        if records and not self.rated:
            size = replace(size, records=int(records))
        return replace(size, seconds=float(seconds)) if seconds and size.seconds else size


def _both(name: str, run: Callable[..., Outcome], short: Size, long: Size) -> list[Fault]:
    return [
        Fault(f"{name}, {delivery.replace('_', ' ')}", partial(run, delivery=delivery), short, long)
        for delivery in (TWICE, ONCE)
    ]


def _one(name: str, run: Callable[..., Outcome], short: Size, long: Size, **more: bool) -> Fault:
    return Fault(name, partial(run, delivery=TWICE), short, long, **more)


ALL = [
    *_both("workers killed", workers.killed, Size(5_000, 1, workers=2), Size(100_000, 30, workers=2)),
    *_both("workers told to leave", workers.told_to_leave, Size(3_000, 1), Size(60_000, 50)),
    _one(
        "workers coming and going", workers.coming_and_going, Size(8_000, 5, workers=3), Size(500_000, 60, workers=12)
    ),
    _one("broker killed", brokers.restarted, Size(200, 1, 1), Size(400, 5, 60), rated=True),
    _one("broker frozen", brokers.frozen, Size(200, 1, 8), Size(400, 3, 60), rated=True),
    _one("broker cut off", brokers.cut_off, Size(200, 1, 5), Size(400, 3, 60), rated=True),
    _one("network slowed", brokers.slowed, Size(300), Size(5_000), only_long=True),
    _one("a text that kills", models.kills, Size(2_000), Size(20_000)),
    _one("a text that hangs", models.hangs, Size(500, seconds=2), Size(20_000, seconds=45)),
    _one("the model fails", models.fails, Size(1_000), Size(20_000)),
    _one("one poison", models.poison, Size(1_000), Size(1_000), only_long=True),
    _one("hostile payloads", models.hostile, Size(20_000), Size(1_000_000)),
    _one(
        "one of three brokers killed", brokers.one_of_three, Size(200, 1, 1), Size(400, 6, 20), cluster=True, rated=True
    ),
    _one(
        "results cannot be written", brokers.refusing, Size(3_000, seconds=8), Size(50_000, seconds=300), cluster=True
    ),
]
