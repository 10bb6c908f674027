"""Whether scorers make sense, in a process of the stream: its guard, and who hears of what that finds."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from agents.control import Control
from agents.switching import Decision, NotTaken, Publish, decide
from schemas.codec import Codec
from schemas.errors import StreamsError
from schemas.records import ModelKind
from streams.models.routing import Routing, quarantine
from streams.observe.alerts import Tell, nobody
from streams.observe.metrics import Metrics
from streams.scoring.guard import Event, Fallback, Guard, Policy, no_previous
from streams.scoring.quality import Limits
from streams.scoring.scorer import Scorer
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Who decides that a scorer is quarantined, as the command says.
BY = "kill switch"
#: Seconds before a command that the brokers did not take is offered again.
AGAIN = 2.0


class Watch:
    """Takes what a guard finds, on whatever thread, to those who should know; and what commands say, to the guard."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        fallbacks: Mapping[str, Fallback],
        previous: Callable[[str], Scorer | None] = no_previous,
    ) -> None:
        """Call it on the event loop; `previous` is asked for the version before of a scorer."""
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._tell: Tell = nobody
        self._decide = self._nobody_decides
        self._tasks: set[asyncio.Task[None]] = set()
        #: What judges the scores of this process.
        self.guard = Guard(policy(settings), metrics, tell=self.hear, fallbacks=fallbacks, previous=previous)

    def to(self, tell: Tell, control: Control, codec: Codec, publish: Publish) -> None:
        """From now on there is somebody to tell, and who can decide for all workers."""
        self._tell = tell
        self._decide = partial(self._decided, control, codec, publish)

    def follow(self, routing: Routing) -> None:
        """Quarantines what commands say is quarantined, and nothing else."""
        scorers = [state for (kind, _), state in routing.states.items() if kind is ModelKind.SCORER]
        self.guard.hold({state.alias: state.reason for state in scorers if state.quarantined})

    def hear(self, event: Event) -> None:
        """Returns at once; any thread may call it."""
        self._loop.call_soon_threadsafe(self._heard, event)

    def _heard(self, event: Event) -> None:
        # Its own subject: a quarantine must not wait its minute behind the drift that led to it.
        subject = f"{event.kind}:{event.scorer}"
        self._tell(event.kind, subject, event.severity, event.message, figures=event.figures)
        if event.kind == "scorer-quarantined":
            task = self._loop.create_task(self._decide(event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _nobody_decides(self, event: Event) -> None:
        log.error("quarantine-is-local", scorer=event.scorer)

    async def _decided(self, control: Control, codec: Codec, publish: Publish, event: Event) -> None:
        """Has all workers know, however long it takes; this one knows already."""
        at = ModelKind.SCORER, event.scorer
        decision = Decision("quarantine", quarantine, BY, event.reason)
        while not control.routing.state(*at).quarantined:
            try:
                await decide(self._settings, codec, publish, control.routing, at, decision)
                return
            except NotTaken as error:
                log.error("quarantine-not-taken", scorer=event.scorer, error=str(error))
                return
            except StreamsError as error:
                log.warning("quarantine-waits", scorer=event.scorer, error=str(error))
                await asyncio.sleep(AGAIN)


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
