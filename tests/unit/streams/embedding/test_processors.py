"""How many threads the model gets."""

import os
from pathlib import Path

import pytest

from streams.embedding import processors as module
from streams.embedding.processors import processors


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine on which this process may run on eight processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    return 8


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("max 100000\n", 8),
    ],
)
def test_a_containers_share_counts(
    quota: str, expected: int, allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quota of a container is rounded up, and never gives more than there is."""
    monkeypatch.setattr(module, "_QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(quota)

    assert processors() == expected


def test_without_a_container_all_that_are_allowed_count(
    allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No quota file is no quota."""
    monkeypatch.setattr(module, "_QUOTA", tmp_path / "none")

    assert processors() == allowed
