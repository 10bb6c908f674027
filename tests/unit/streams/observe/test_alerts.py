"""Alerts: published in the background, and not more often than once in a while for one subject."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from schemas.codec import Codec
from schemas.records import Alert, Severity
from schemas.testing import FakeRegistry
from streams.observe import alerts as module
from streams.observe.alerts import Alerts, nobody
from streams.records import Outgoing
from streams.testing import InMemoryPublisher


@pytest.fixture
def publisher() -> InMemoryPublisher:
    """Keeps what is published."""
    return InMemoryPublisher()


@pytest.fixture
async def alerts(publisher: InMemoryPublisher) -> AsyncIterator[Alerts]:
    """What is tested."""
    alerts = Alerts(Codec(), "alerts", publisher.publish)
    yield alerts
    publisher.release()
    await alerts.stop()


def found(publisher: InMemoryPublisher) -> list[Alert]:
    """Every alert that is out."""
    return [Codec().decode(Alert, record.value) for record in publisher.on("alerts")]


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def some(publisher: InMemoryPublisher, count: int) -> list[Alert]:
    """Waits for so many alerts."""
    await until(lambda: len(publisher.records) >= count)
    return found(publisher)


async def test_an_alert_says_what_is_the_matter(alerts: Alerts, publisher: InMemoryPublisher) -> None:
    """Kind, subject, severity, figures, and since when; its key is the subject, so that its alerts keep their order."""
    before = int(time.time() * 1000)
    alerts.tell("drift", "model a", Severity.WARNING, "It drifts.", figures={"distance": 0.5}, since=1_700_000_000.5)
    (alert,) = await some(publisher, 1)
    assert (alert.kind, alert.subject, alert.severity) == ("drift", "model a", Severity.WARNING)
    assert (alert.message, alert.figures, alert.since) == ("It drifts.", {"distance": 0.5}, 1_700_000_000_500)
    assert before <= alert.at <= int(time.time() * 1000)
    (record,) = publisher.records
    assert (record.key, record.headers) == (b"model a", (("content-type", b"application/avro"),))


async def test_what_begins_now_says_so(alerts: Alerts, publisher: InMemoryPublisher) -> None:
    """Without another time it is since it was noticed; every alert has an id of its own."""
    alerts.tell("a", "one", Severity.CRITICAL, "")
    alerts.tell("a", "two", Severity.CRITICAL, "")
    first, second = await some(publisher, 2)
    assert first.since == first.at
    assert first.id != second.id


async def test_a_subject_is_told_of_once_in_a_while_and_last_as_it_stands(
    alerts: Alerts, publisher: InMemoryPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes too soon waits, and the latest takes its place: nobody is left with an alert that is over."""
    monkeypatch.setattr(module, "GAP", 0.3)
    alerts.tell("brake", "group", Severity.CRITICAL, "closed 1")
    await some(publisher, 1)
    for number in range(2, 6):
        alerts.tell("brake", "group", Severity.CRITICAL, f"closed {number}")
        alerts.tell("brake", "group", Severity.INFO, f"open {number}")
    alerts.tell("brake", "another", Severity.CRITICAL, "closed")
    assert [alert.message for alert in await some(publisher, 2)] == ["closed 1", "closed"]
    assert [alert.message for alert in await some(publisher, 3)] == ["closed 1", "closed", "open 5"]
    await asyncio.sleep(0.4)
    assert len(publisher.records) == 3


async def test_whoever_tells_does_not_wait(publisher: InMemoryPublisher) -> None:
    """A broker or registry that is away costs the alert, some time later, and nothing else; the next one is tried."""
    registry = FakeRegistry()
    registry.away = True
    alerts = Alerts(Codec(registry), "alerts", publisher.publish)
    alerts.tell("a", "one", Severity.INFO, "")
    await until(lambda: not alerts._tasks)
    registry.away = False
    alerts.tell("a", "two", Severity.INFO, "")
    await until(lambda: bool(publisher.records))
    assert publisher.records[0].key == b"two"
    await alerts.stop()


async def test_an_alert_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for ever in a process that has better things to do."""
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    ended: list[str] = []

    async def never(_: Sequence[Outgoing]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("given up")

    alerts = Alerts(Codec(), "alerts", never)
    alerts.tell("a", "one", Severity.INFO, "")
    await until(lambda: bool(ended))
    await alerts.stop()


async def test_stop_ends_what_waits(alerts: Alerts, publisher: InMemoryPublisher) -> None:
    """Also what waits for its minute."""
    publisher.hold()
    alerts.tell("a", "one", Severity.INFO, "")
    await some(publisher, 1)
    alerts.tell("a", "one", Severity.INFO, "")
    async with asyncio.timeout(10):
        await alerts.stop()


def test_nobody_hears_nothing() -> None:
    """It takes whatever an alert is made of."""
    nobody("kind", "subject", Severity.INFO, "message", figures={}, since=0.0)


async def test_critical_alerts_are_notified(publisher: InMemoryPublisher) -> None:
    """By what may take its time; the others are not, and one that nobody took still stands on the topic."""
    told: list[tuple[str, str]] = []

    def notify(title: str, body: str) -> bool:
        told.append((title, body))
        return False

    alerts = Alerts(Codec(), "alerts", publisher.publish, notify)
    alerts.tell("scorer-quarantined", "topic", Severity.CRITICAL, "It is quarantined.")
    alerts.tell("scorer-drift", "mood", Severity.WARNING, "It drifts.")
    await some(publisher, 2)
    await until(lambda: not alerts._tasks)
    assert told == [("scorer-quarantined: topic", "It is quarantined.")]
    await alerts.stop()
