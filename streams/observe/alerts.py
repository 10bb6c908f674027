"""Alerts: what a person should look at, as records on a topic of their own."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from uuid import uuid4

import structlog

from schemas.codec import Codec
from schemas.errors import StreamsError
from schemas.records import Alert, Severity
from streams.records import Outgoing

log = structlog.get_logger(__name__)

#: Seconds between two alerts on one subject; the last one that came meanwhile is sent then.
GAP: Final = 60.0
#: Seconds for the broker to take an alert. Nothing waits for it, and the log has said the same.
PATIENCE: Final = 60.0


class Tell(Protocol):
    """Says that a person should look at something, or that it is over; returns at once."""

    def __call__(
        self,
        kind: str,
        subject: str,
        severity: Severity,
        message: str,
        *,
        figures: Mapping[str, float] = ...,
        since: float | None = None,
    ) -> None:
        """`since`: when it began, in seconds since 1970; None: just now."""
        ...


def nobody(*_: Any, **__: Any) -> None:
    """Tells nobody: for what runs without an alert topic."""


class Alerts:
    """Publishes alerts in the background; `tell` is called on the event loop."""

    def __init__(
        self,
        codec: Codec,
        topic: str,
        publish: Callable[[Sequence[Outgoing]], Awaitable[object]],
        notify: Callable[[str, str], bool] | None = None,
    ) -> None:
        """`publish` returns once the broker has the records.

        `notify(title, body)` hears of critical alerts; it may block, and returns whether it was told.
        """
        self._codec = codec
        self._topic = topic
        self._publish = publish
        self._notify = notify
        self._waiting: dict[str, Alert] = {}  # subject -> what is to be sent of it
        self._sent: dict[str, float] = {}  # subject -> when its last alert was sent, monotonic
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(
        self,
        kind: str,
        subject: str,
        severity: Severity,
        message: str,
        *,
        figures: Mapping[str, float] = {},
        since: float | None = None,
    ) -> None:
        """See `Tell`. A later alert on a subject takes the place of one that still waits its minute."""
        at = int(time.time() * 1000)
        began = at if since is None else int(since * 1000)
        first = subject not in self._waiting
        self._waiting[subject] = Alert(
            id=str(uuid4()),
            kind=kind,
            severity=severity,
            subject=subject,
            figures=dict(figures),
            message=message,
            since=began,
            at=at,
        )
        if first:
            task = asyncio.get_running_loop().create_task(self._send(subject))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Gives up what was not sent yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, subject: str) -> None:
        if subject in self._sent:
            await asyncio.sleep(self._sent[subject] + GAP - time.monotonic())
        alert = self._waiting.pop(subject)
        self._sent[subject] = time.monotonic()
        await asyncio.gather(self._publish_alert(alert), self._notify_of(alert))

    async def _notify_of(self, alert: Alert) -> None:
        if self._notify is None or alert.severity is not Severity.CRITICAL:
            return
        told = await asyncio.to_thread(self._notify, f"{alert.kind}: {alert.subject}", alert.message)
        if not told:
            log.error("alert-not-notified", kind=alert.kind, subject=alert.subject)

    async def _publish_alert(self, alert: Alert) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                value = await asyncio.to_thread(self._codec.encode, alert, self._topic)  # it may ask the registry
                headers = (("content-type", b"application/avro"),)
                await self._publish([Outgoing(self._topic, alert.subject.encode(), value, headers)])
        except (StreamsError, TimeoutError) as error:
            log.error("alert-not-published", kind=alert.kind, subject=alert.subject, error=repr(error))
