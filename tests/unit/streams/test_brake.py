"""The brake on dead letters."""

import asyncio

import pytest

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
