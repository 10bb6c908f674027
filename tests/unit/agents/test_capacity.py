"""`sentence-streams capacity`: the figures hang together, and nothing but a model is needed for them."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from agents.capacity import REPLICAS, TARGETS, NothingToMeasure, Rate, run
from streams.settings import load
from tests.deploy.manifests import keda

SETTINGS = load(model="deterministic", bootstrap_servers="127.0.0.1:1")


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What it prints for machines after a second of measuring each."""
    assert run(SETTINGS, None, seconds=1.0, as_json=True) == 0
    return orjson.loads(capsys.readouterr().out.splitlines()[-1])


def test_thresholds_and_drain_times_follow_from_the_rates(found: dict[str, Any]) -> None:
    """A threshold is what one process drains in the time given; more workers drain in proportion."""
    worker, scorer = Rate(**found["worker"]), Rate(**found["scorer"])
    for name, wait in TARGETS.items():
        rate = scorer if name == "embeddings" else worker
        assert found["lag_thresholds"][name] == pytest.approx(rate.records_per_second * wait, rel=0.1)
    drain = {int(workers): seconds for workers, seconds in found["drain_seconds"].items()}
    assert list(drain) == list(REPLICAS)
    assert drain[1] == pytest.approx(4 * drain[4], abs=4)
    assert found["mean_tokens"] > 1
    assert found["model"] == "deterministic"


def test_a_threshold_is_never_zero() -> None:
    """KEDA refuses a threshold of nothing; two digits are all that a measurement is good for."""
    assert Rate(0.01, 1.0, 1.0).threshold(5) == 1
    assert Rate(123.456, 1.0, 1.0).threshold(60) == 7400


def test_people_get_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With sentences of one's own; every trigger of keda/ is named but the trainer's, which counts runs."""
    file = tmp_path / "mine.txt"
    file.write_text("A sentence.\nAnother one.\n")
    assert run(SETTINGS, file, seconds=1.0, as_json=False) == 0
    said = capsys.readouterr().out
    triggers = [trigger for item in keda() if item["kind"] == "ScaledObject" for trigger in item["spec"]["triggers"]]
    names = {trigger["name"] for trigger in triggers if trigger["type"] == "kafka"} - {"training"}
    assert names
    assert all(name in said for name in names)


def test_a_file_without_sentences_is_refused(tmp_path: Path) -> None:
    """Before anything is loaded."""
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(NothingToMeasure, match="expected a sentence a line"):
        run(SETTINGS, tmp_path / "empty.txt", seconds=1.0, as_json=True)
