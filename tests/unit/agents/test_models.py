"""The commands about models."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agents import cli, models
from streams.embedding import prepared
from streams.embedding.embedder import Identity, ModelError
from streams.embedding.prepared import Manifest, Prepared
from streams.embedding.quality import Quality
from streams.embedding.tokeniser import Padding
from streams.embedding.tuning import Budget


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for prepared models, and no settings of this machine."""
    monkeypatch.setenv("STREAMS_MODELS_DIR", str(tmp_path / "models"))
    for name in ("MODEL", "MODEL_REVISION", "MODEL_PRECISION"):
        monkeypatch.delenv(f"STREAMS_{name}", raising=False)
    return tmp_path / "models"


def put(folder: Path, precision: str = "int8") -> Prepared:
    identity = Identity("someone/model", "c" * 40, "d" * 64, precision, "", "mean", 16, 32)
    with prepared.workplace(folder) as place:
        (place / "model.onnx").write_bytes(b"a graph")
        manifest = Manifest(
            identity=identity,
            asked=None,
            source="5" * 64,
            padding=Padding(),
            quality=Quality(10, 0.9975, 0.99, 0.9982, 1.0),
            golden=[],
            budget=Budget("a processor", 256, {256: 1000}),
            tools={},
            made="2025-01-01T00:00:00+00:00",
            files=prepared.digests(place),
        )
        return prepared.publish(folder, place, manifest)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs a command line in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["sentence-streams", "models", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


@dataclass
class Workshop:
    """Notes what it is asked to prepare."""

    folder: Path
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None

    def prepare(self, *asked: Any) -> Prepared:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return put(self.folder, asked[2])


@pytest.fixture
def workshop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = Workshop(folder)
    monkeypatch.setattr(models, "_workshop", lambda *_: made)
    return made


def test_list_shows_what_is_prepared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a model, with its precision and the figures of its gate."""
    put(folder)

    assert run(monkeypatch, "list") == 0

    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert all(part in shown[1] for part in ("someone/model", "int8", "0.99750", "0.99820", str(folder)))


def test_list_as_json_holds_every_figure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines read one list of objects, empty where nothing is prepared."""
    assert run(monkeypatch, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    put(folder)

    assert run(monkeypatch, "list", "--json") == 0

    [found] = json.loads(capsys.readouterr().out)
    assert (found["model"], found["precision"], found["token_budget"]) == ("someone/model", "int8", 256)
    assert (found["mean_cosine"], found["spearman"]) == (0.9975, 0.9982)


def test_an_empty_list_says_so_beside_the_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing goes to stdout where there are no results."""
    assert run(monkeypatch, "list") == 0

    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"nothing is prepared in {folder}" in shown.err


def test_prepare_takes_the_settings(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without options model, revision and precision are those a worker would use."""
    monkeypatch.setenv("STREAMS_MODEL", "someone/model")
    monkeypatch.setenv("STREAMS_MODEL_REVISION", "v1")
    monkeypatch.setenv("STREAMS_MODEL_PRECISION", "int8")

    assert run(monkeypatch, "prepare") == 0
    assert run(monkeypatch, "prepare", "--model", "another/model", "--precision", "float32") == 0

    assert workshop.asked == [("someone/model", "v1", "int8"), ("another/model", None, "float32")]


def test_prepare_prints_its_outcome_as_json(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json puts one object on stdout and nothing else."""
    assert run(monkeypatch, "prepare", "--precision", "int8", "--json") == 0

    assert json.loads(capsys.readouterr().out)["mean_cosine"] == 0.9975


def test_a_refused_model_is_one_line_and_exit_code_1(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the gate refuses ends the command as any failure does."""
    workshop.error = ModelError("mean cosine 0.9 against float32")

    assert run(monkeypatch, "prepare", "--precision", "int8") == 1

    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "sentence-streams: mean cosine 0.9 against float32\n")


def test_a_precision_that_cannot_be_prepared_is_wrong_usage(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """float16 is torch's own and needs no preparation; asking for it, by option or setting, is exit code 2."""
    assert run(monkeypatch, "prepare", "--precision", "float16") == 2
    monkeypatch.setenv("STREAMS_MODEL_PRECISION", "float16")
    assert run(monkeypatch, "prepare") == 2
    assert workshop.asked == []
