"""What `dead-letters` and `replay` have in common: reaching the brokers, being stopped, telling what was done."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from confluent_kafka.admin import AdminClient

from agents.clients import connection
from agents.console import CONSOLE, Voice, plural, remark
from streams.observe.metrics import Metrics
from streams.ranges import END, Ranges, committed, is_embedded, remaining, resolve
from streams.records import TopicPartition
from streams.settings import Settings
from streams.transactions import TransactionalPublisher
from streams.transfer import Tally

T = TypeVar("T")

#: Records a second unless the command line says otherwise: what one worker embeds on a few processors.
RATE = 500.0


def publisher(settings: Settings, group: str) -> TransactionalPublisher:
    """Returns what publishes in transactions whose checkpoint is `group`."""
    return TransactionalPublisher(connection(settings), Metrics(), group)


def interruptible(main: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Runs `main` with an event that SIGINT and SIGTERM set; a second signal cancels it (KeyboardInterrupt)."""

    async def run() -> T:
        stop, loop, task = asyncio.Event(), asyncio.get_running_loop(), asyncio.current_task()

        def signalled() -> None:
            if stop.is_set() and task is not None:
                task.cancel()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signalled)
        return await main(stop)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def unfinished(admin: AdminClient, group: str, ranges: Ranges) -> tuple[dict[TopicPartition, Any], int]:
    """Returns what earlier runs left of the ranges, and how many offsets they went through."""
    left = remaining(ranges, committed(admin, group, ranges))
    done = sum(end - start for start, end in ranges.values()) - sum(end - start for start, end in left.values())
    return left, done


def require(admin: AdminClient, topic: str | None, voice: Voice = CONSOLE) -> None:
    """Raises UnknownTopic where a topic to write to is missing: a publisher would wait for it for ever.

    Says, too, where there can be no checkpoint.
    """
    if topic is not None:
        resolve(admin, topic, END, END)
    if is_embedded(admin):
        voice.remark("the embedded broker keeps no checkpoint: the same command sends all of it again")


def tell(tally: Tally, *, what: str, to: str, seconds: float) -> None:
    """Says on stderr what became of the records."""
    for line in tally.named:
        remark(line)
    if (more := tally.refused.total() - len(tally.named)) > 0:
        remark(f"and {more:,} more refused")
    rate = tally.moved / seconds if seconds else 0
    counts = [f"{count:,} {why}" for why, count in [*tally.left.items(), *_refused(tally)]]
    remark(", ".join([f"{plural(tally.moved, what)} to {to}", *counts]) + f"; {seconds:.1f} s, {rate:,.0f}/s")
    if tally.stopped:
        remark("stopped: the same command goes on where this one ended")


def _refused(tally: Tally) -> Iterable[tuple[str, int]]:
    return ((f"refused ({reason})", count) for reason, count in tally.refused.items())


def as_json(tally: Tally) -> dict[str, Any]:
    """Returns the tally for `--json`."""
    return {
        "moved": tally.moved,
        "left": tally.left,
        "refused": tally.refused,
        "named": tally.named,
        "stopped": tally.stopped,
    }


def exit_code(tally: Tally) -> int:
    """Returns 130 for a run that was stopped, 3 where records were refused, else 0."""
    if tally.stopped:
        return 130
    return 3 if tally.refused else 0


def duration(seconds: float) -> str:
    """Returns a time span as people say it: 3 s, 2 min, 1.5 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def listed(items: Sequence[Any], most: int = 10) -> str:
    """Returns the first items in a line, and how many more there are."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most:,} more"
