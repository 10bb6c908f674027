"""The training stage: what is noted of a run, whatever becomes of it."""

from collections.abc import Callable
from typing import Any

import pytest

from schemas.codec import Codec
from schemas.errors import BadBytes, InvalidField, Retry
from schemas.records import TrainingRequest
from streams.models.datasets import UnusableLabels
from streams.models.runs import Outcome, Watch
from streams.models.stage import TrainStage, TrainWork
from streams.testing import PublishedRecord

CODEC = Codec()
REQUEST = TrainingRequest(id="run-1", scorer="mood", source="s3://labels/mood.csv", at=0)


class Made:
    """A version that is only passed on."""

    digest = "d" * 64

    def as_json(self) -> dict[str, Any]:
        return {"digest": self.digest}


class Notes:
    """What is noted of runs, as the catalog has it."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.history: list[str] = []
        self.versions: list[Any] = []

    def status(self, run: str) -> str | None:
        return self.said.get("status")

    def note(self, request: TrainingRequest, **changes: Any) -> None:
        self.said |= changes
        self.history += [changes["status"]] if "status" in changes else []

    def add(self, request: TrainingRequest, outcome: Outcome) -> None:
        self.versions.append(outcome)


def carry_out(
    notes: Notes,
    train: Callable[[TrainingRequest, Watch], Any],
    going_on: Callable[[], bool] = lambda: True,
) -> None:
    stage = TrainStage(CODEC, train, notes, going_on)
    [work] = stage.prepare([PublishedRecord("t", 0, 0, 0, b"run-1", CODEC.encode(REQUEST, "t"), ())])
    assert isinstance(work, TrainWork)
    assert stage.run([work]) == [[]]


def test_a_run_that_succeeds_is_noted_with_its_version() -> None:
    """Queued, running, succeeded; how far it is meanwhile."""
    notes = Notes()

    def train(request: TrainingRequest, watch: Watch) -> Any:
        assert request == REQUEST
        watch.step("embedding", 3, 10)
        assert notes.said["progress"] == {"step": "embedding", "done": 3, "of": 10}
        return Made()

    carry_out(notes, train)
    assert notes.history == ["running", "succeeded"]
    assert notes.said["digest"] == "d" * 64
    assert len(notes.versions) == 1


def test_labels_that_cannot_be_used_fail_the_run_and_not_the_stream() -> None:
    """With the line that names the rows; the record is done."""
    notes = Notes()

    def train(_request: TrainingRequest, _watch: Watch) -> Any:
        raise UnusableLabels("mood.csv: every sentence is labelled 'yes'")

    carry_out(notes, train)
    assert notes.said["status"] == "failed"
    assert notes.said["detail"] == "mood.csv: every sentence is labelled 'yes'"


def test_a_run_is_cancelled_between_two_steps() -> None:
    """Nothing is made, and the record is done."""
    notes = Notes()

    def train(_request: TrainingRequest, watch: Watch) -> Any:
        notes.said["status"] = "cancelling"
        watch.step("embedding", 1, 10)
        raise AssertionError

    carry_out(notes, train)
    assert notes.history == ["running", "cancelled"]
    assert notes.versions == []


def test_a_run_that_was_cancelled_before_it_began_never_begins() -> None:
    """Nor does it after a restart."""
    notes = Notes()
    notes.said["status"] = "cancelling"
    carry_out(notes, lambda *_: pytest.fail("it began"))
    assert notes.history == ["cancelled"]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_run_that_has_ended_does_not_begin_again(status: str) -> None:
    """Its record came twice."""
    notes = Notes()
    notes.said["status"] = status
    carry_out(notes, lambda *_: pytest.fail("it began"))
    assert notes.history == []


def test_a_trainer_that_leaves_gives_its_run_to_the_next() -> None:
    """The record is not done: it comes again."""
    notes = Notes()
    with pytest.raises(Retry, match="run run-1 waits for the next trainer"):
        carry_out(notes, lambda _request, watch: watch.step("embedding", 1, 10), lambda: False)
    assert notes.history == ["running", "queued"]


def test_a_store_that_is_away_is_waited_for() -> None:
    """It is no fault of the labels."""

    def train(_request: TrainingRequest, _watch: Watch) -> Any:
        raise Retry("the store is away")

    with pytest.raises(Retry, match="the store is away"):
        carry_out(Notes(), train)


def test_what_is_no_request_is_refused() -> None:
    """Bytes of something else, and deletions."""
    stage = TrainStage(CODEC, lambda *_: pytest.fail("it began"), Notes(), lambda: True)
    values = (b"rubbish", None)
    refused = stage.prepare([PublishedRecord("t", 0, 0, 0, b"k", value, ()) for value in values])
    assert [type(each) for each in refused] == [BadBytes, InvalidField]
    assert str(stage.failed(ValueError("secret"))) == "the trainer raised ValueError"
