"""Every fault, in a short form for the test suite and a long one for `make chaos`."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from streams.embedding.loader import DEFAULT_MODEL
from tests.faults import brokers, inputs, load, models, switches, workers
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


def _both(
    name: str, run: Callable[..., Outcome], short: Size, long: Size, *, once_only_long: bool = False, **more: bool
) -> list[Fault]:
    """A fault in both deliveries; `once_only_long`: the test suite leaves exactly once to the long round."""
    twice = Fault(f"{name}, at least once", partial(run, delivery=TWICE), short, long, **more)
    only_long = once_only_long or twice.only_long
    once = replace(twice, name=f"{name}, exactly once", run=partial(run, delivery=ONCE), only_long=only_long)
    return [twice, once]


def _one(name: str, run: Callable[..., Outcome], short: Size, long: Size, **more: bool) -> Fault:
    return Fault(name, partial(run, delivery=TWICE), short, long, **more)


REAL = {"model": DEFAULT_MODEL}

ALL = [
    *_both("workers killed", workers.killed, Size(5_000, 1, workers=2), Size(100_000, 30, workers=2)),
    *_both(
        "real model killed",
        partial(workers.killed, longest=20, commit_interval=2, **REAL),  # rarely committed: something is repeated
        Size(500, 1, workers=1),
        Size(1_500, 3, workers=2),
        only_long=True,
    ),
    *_both("workers told to leave", workers.told_to_leave, Size(3_000, 1), Size(60_000, 50)),
    *_both(
        "workers coming and going",
        workers.coming_and_going,
        Size(8_000, 5, workers=3),
        Size(500_000, 60, workers=12),
        once_only_long=True,
    ),
    *_both("broker killed", brokers.restarted, Size(200, 1, 1), Size(400, 3, 30), rated=True, once_only_long=True),
    *_both("broker frozen", brokers.frozen, Size(200, 1, 8), Size(400, 2, 60), rated=True, once_only_long=True),
    *_both("broker cut off", brokers.cut_off, Size(200, 1, 5), Size(400, 2, 60), rated=True, once_only_long=True),
    *_both("network slowed", brokers.slowed, Size(300), Size(20_000), only_long=True),
    *_both(
        "models switched",
        switches.switched,
        Size(4_000, 4, workers=2),
        Size(50_000, 20, workers=2),
        once_only_long=True,
    ),
    *_both("a text that kills", models.kills, Size(2_000), Size(20_000), once_only_long=True),
    _one("a text that hangs", models.hangs, Size(500, seconds=2), Size(20_000, seconds=45)),
    _one("a model that crawls", models.crawls, Size(100, seconds=2), Size(2_000, seconds=2)),
    _one("the model fails", models.fails, Size(1_000), Size(20_000)),
    _one("one poison in 1,000", models.poison, Size(1_000), Size(20_000)),
    *_both("transactional input", inputs.transactional, Size(2_000, 1), Size(100_000, 5), only_long=True),
    *_both("compacted input", inputs.compacted, Size(2_000, 1), Size(100_000, 5), only_long=True),
    _one("hostile payloads", models.hostile, Size(20_000), Size(1_000_000)),
    _one("a backlog", load.backlog, Size(10_000), Size(1_000_000), only_long=True),
    _one("large records", load.large, Size(500, 2), Size(2_000, 10), only_long=True),
    _one("large records, real model", partial(load.large, **REAL), Size(100, 1), Size(500, 5), only_long=True),
    _one("decompression bombs", load.bomb, Size(500, 1, 64), Size(2_000, 5, 256)),
    Fault("the price of exactly once", load.price, Size(5_000, 1), Size(20_000, 3), only_long=True),
    _one("steady load", load.steady, Size(10_000, seconds=20), Size(50_000, seconds=7_200), only_long=True),
    *_both(
        "one of three brokers killed",
        brokers.one_of_three,
        Size(200, 1, 1),
        Size(400, 3, 20),
        cluster=True,
        rated=True,
        once_only_long=True,
    ),
    *_both(
        "outputs refuse writes",
        brokers.refusing,
        Size(3_000, seconds=8),
        Size(50_000, seconds=300),
        cluster=True,
        once_only_long=True,
    ),
    _one(
        "results refuse writes",
        partial(brokers.refusing, topics=["topic_embeddings"]),
        Size(3_000, seconds=8),
        Size(50_000, seconds=60),
        cluster=True,
        only_long=True,
    ),
    _one(
        "dead letters refuse writes",
        partial(brokers.refusing, topics=["topic_dead_letters"]),
        Size(3_000, seconds=8),
        Size(50_000, seconds=60),
        cluster=True,
        only_long=True,
    ),
]
