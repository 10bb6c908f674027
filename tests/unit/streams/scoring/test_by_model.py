"""Scorers for each embedder that is served: made in the background, told apart by the weights' digest."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from schemas.errors import ModelLoading
from schemas.records import ModelKind, Target
from streams.models.routing import DEFAULT, Routing, Why, activate, initial
from streams.scoring import by_model
from streams.scoring.by_model import Made, ScorersByModel

OWN: dict[str, Any] = {"topic": "of the settings' model"}
SECOND = Target(name="second", source="second")
SWITCHED = Routing().apply(activate(initial(ModelKind.EMBEDDER, DEFAULT), SECOND, Why("1", "anna", "a test", 1)))


def soon(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_vectors_of_a_new_model_wait_for_its_scorers() -> None:
    """Those of the settings' model never do; once they are made, the new model's are its own."""
    gate = threading.Event()

    def make(target: Target) -> Made:
        assert gate.wait(10)
        return f"digest of {target.name}", {"topic": "of the second"}  # type: ignore[dict-item]

    scorers = ScorersByModel(("own", OWN), make)
    scorers.follow(SWITCHED)
    assert scorers.of("own") is OWN
    with pytest.raises(ModelLoading):
        scorers.of("digest of second")
    gate.set()
    soon(lambda: len(scorers._done) == 1)
    assert scorers.of("digest of second") == {"topic": "of the second"}


def test_a_model_that_nobody_names_has_the_settings_scorers() -> None:
    """Which refuse vectors that they do not understand, and score texts."""
    assert ScorersByModel(("own", OWN), lambda _: ("", {})).of("a stranger") is OWN


def test_what_cannot_be_made_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason."""
    monkeypatch.setattr(by_model, "AGAIN", 0.0)
    answers = iter([RuntimeError("no memory"), ("second", OWN)])

    def make(_target: Target) -> Made:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    scorers = ScorersByModel(("own", OWN), make)
    scorers.follow(SWITCHED)
    soon(lambda: len(scorers._done) == 1)
    assert scorers.of("second") is OWN
