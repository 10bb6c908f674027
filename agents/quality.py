"""Whether scorers make sense, in a process of the stream: its guard, and who hears of what that finds."""

import asyncio
from collections.abc import Mapping

from schemas.records import Severity
from streams.observe.alerts import Tell, nobody
from streams.observe.metrics import Metrics
from streams.scoring.guard import Event, Fallback, Guard, Policy
from streams.scoring.quality import Limits
from streams.settings import Settings


class Watch:
    """Takes what a guard finds, on whatever thread, to the event loop and on to those who should know."""

    def __init__(self) -> None:
        """Call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self.tell: Tell = nobody

    def hear(self, event: Event) -> None:
        """Returns at once."""
        self._loop.call_soon_threadsafe(self._heard, event)

    def _heard(self, event: Event) -> None:
        # Its own subject: a quarantine must not wait its minute behind the drift that led to it.
        subject = f"{event.kind}:{event.scorer}"
        self.tell(event.kind, subject, Severity(event.severity), event.message, figures=event.figures)


def policy(settings: Settings) -> Policy:
    """When scores are poor, and when a scorer is quarantined."""
    return Policy(
        Limits(
            records=settings.quality_records,
            seconds=settings.quality_seconds,
            least=min(settings.quality_least, settings.quality_records),
            watch=settings.quality_watch,
            poor=settings.quality_poor,
        ),
        run=settings.kill_switch_run,
        share=settings.kill_switch_share,
        windows=settings.kill_switch_windows,
    )


def guard(settings: Settings, metrics: Metrics, fallbacks: Mapping[str, Fallback], watch: Watch) -> Guard:
    """What judges the scores of this process."""
    return Guard(policy(settings), metrics, tell=watch.hear, fallbacks=fallbacks)
