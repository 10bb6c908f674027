"""The brake on dead letters."""

import asyncio
from typing import Any

import pytest

from schemas.records import Severity
from streams import brake
from streams.brake import Brake
from streams.observe.metrics import Metrics


async def test_without_a_limit_everything_passes() -> None:
    """However many there are."""
    await Brake("none", Metrics()).let_pass(100_000, lambda: None)


async def test_beyond_the_limit_they_wait_until_the_window_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gauge says so meanwhile, liveness is kept up, and they pass when there is room again."""
    monkeypatch.setattr(brake, "LOOK", 0.01)
    metrics, alive = Metrics(), list[None]()
    slow = Brake("3 per 1 second", metrics)
    await slow.let_pass(3, lambda: None)
    waiting = asyncio.create_task(slow.let_pass(1, lambda: alive.append(None)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert metrics.registry.get_sample_value("streams_dead_letter_brake") == 1
    async with asyncio.timeout(10):
        await waiting
    assert alive
    assert metrics.registry.get_sample_value("streams_dead_letter_brake") == 0


async def test_it_tells_when_it_closes_and_when_it_is_open_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each, however many partitions wait; the end says since when."""
    monkeypatch.setattr(brake, "LOOK", 0.01)
    told: list[tuple[Any, ...]] = []

    def tell(kind: str, subject: str, severity: Severity, message: str, **more: Any) -> None:
        told.append((kind, subject, severity, more["figures"], more["since"]))

    slow = Brake("3 per 1 second", Metrics(), "group", tell)
    await slow.let_pass(3, lambda: None)
    assert told == []
    async with asyncio.timeout(10):
        await asyncio.gather(*(slow.let_pass(1, lambda: None) for _ in range(3)))
    figures = {"limit": 3.0, "seconds": 1.0}
    assert [each[:4] for each in told] == [
        ("dead-letter-limit", "group", Severity.CRITICAL, figures),
        ("dead-letter-limit", "group", Severity.INFO, figures),
    ]
    assert told[0][4] == told[1][4] > 1_700_000_000
