"""The folder of prepared models."""

import json
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from streams.embedding import prepared
from streams.embedding.embedder import Identity, ModelError
from streams.embedding.prepared import GRAPH, MANIFEST, TOKENIZER, Damaged, Manifest, Prepared
from streams.embedding.quality import Quality
from streams.embedding.tokeniser import Padding

IDENTITY = Identity("someone/model", "c" * 40, "d" * 64, "float32", "", "mean", 16, 32)


def manifest(**changes: object) -> Manifest:
    whole = Manifest(
        identity=IDENTITY,
        asked="main",
        source="5" * 64,
        padding=Padding(1, left=True),
        quality=Quality(10, 1.0, 0.99, 0.999, 1.0),
        golden=["AAAA"],
        budget=None,
        tools={"onnx": "1"},
        made="2025-01-01T00:00:00+00:00",
        files={},
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def put(models: Path, graph: bytes = b"a graph", **changes: object) -> Prepared:
    """Puts a prepared model there, as `prepare` does."""
    with prepared.workplace(models) as folder:
        (folder / GRAPH).write_bytes(graph)
        (folder / TOKENIZER).write_bytes(b"{}")
        return prepared.publish(models, folder, manifest(files=prepared.digests(folder), **changes))


def test_what_was_put_is_found_whole(tmp_path: Path) -> None:
    """Every field of the manifest survives the disk, and the digests fit."""
    made = put(tmp_path / "new" / "models")

    [found] = prepared.listing(tmp_path / "new" / "models")

    assert found == made
    assert found.verified() is found
    assert found.manifest.files.keys() == {GRAPH, TOKENIZER}
    assert found.size() > len(b"a graph{}")
    assert found.folder.name == f"{'5' * 16}-float32-v{prepared.VERSION}"


def test_nothing_else_is_left_behind(tmp_path: Path) -> None:
    """Neither a finished nor a failed attempt leaves a temporary folder, and no reader sees half a model."""
    with suppress(KeyboardInterrupt), prepared.workplace(tmp_path) as folder:
        (folder / GRAPH).write_bytes(b"half")
        assert prepared.listing(tmp_path) == []
        raise KeyboardInterrupt
    put(tmp_path)

    assert len(list(tmp_path.iterdir())) == 1


def test_the_same_source_replaces_what_was_there(tmp_path: Path) -> None:
    """Preparing again leaves one model: the new one, whole."""
    put(tmp_path, b"old")
    again = put(tmp_path, b"new")

    assert [found.folder for found in prepared.listing(tmp_path)] == [again.folder]
    assert (again.folder / GRAPH).read_bytes() == b"new"


def test_two_at_once_both_succeed(tmp_path: Path) -> None:
    """Whoever comes second wins, and neither fails."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                put(tmp_path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    prepared.listing(tmp_path)[0].verified()


@pytest.mark.parametrize(
    ("name", "revision", "precision", "found"),
    [
        ("someone/model", None, "float32", True),
        ("someone/model", "c" * 40, "float32", True),
        ("someone/model", "main", "float32", True),
        ("someone/model", "v2", "float32", False),
        ("someone/model", None, "int8", False),
        ("another/model", None, "float32", False),
    ],
)
def test_a_model_is_found_by_name_revision_and_precision(
    name: str, revision: str | None, precision: str, found: bool, tmp_path: Path
) -> None:
    """A commit, the branch that was asked for, or no revision find it; another precision never does."""
    put(tmp_path)

    assert (prepared.by_name(tmp_path, name, revision, precision) is not None) == found


def test_without_a_revision_the_last_one_prepared_counts(tmp_path: Path) -> None:
    """Several revisions of a model may lie side by side."""
    put(tmp_path, source="1" * 64, made="2025-01-02T00:00:00+00:00")
    put(tmp_path, source="2" * 64, made="2025-01-03T00:00:00+00:00")
    put(tmp_path, source="3" * 64, made="2025-01-01T00:00:00+00:00")

    found = prepared.by_name(tmp_path, "someone/model", None, "float32")

    assert found is not None
    assert found.manifest.source == "2" * 64


def test_a_source_is_found_by_its_files(tmp_path: Path) -> None:
    """Other files, or another precision, are another model."""
    put(tmp_path)

    assert prepared.by_source(tmp_path, "5" * 64, "float32") is not None
    assert prepared.by_source(tmp_path, "6" * 64, "float32") is None
    assert prepared.by_source(tmp_path, "5" * 64, "int8") is None


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
def test_a_changed_file_is_noticed(name: str, tmp_path: Path) -> None:
    """One changed byte in any file, or a missing file, is an error that names the file and what to do."""
    found = put(tmp_path)
    (found.folder / name).write_bytes(b"changed")
    with pytest.raises(Damaged, match=f"{name}: sha256 .* prepare it again"):
        found.verified()

    (found.folder / name).unlink()
    with pytest.raises(Damaged, match="no such file"):
        found.verified()


def test_a_manifest_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    """A manifest with a field missing is named, in one line."""
    found = put(tmp_path)
    content = json.loads((found.folder / MANIFEST).read_text())
    del content["identity"]["digest"]
    (found.folder / MANIFEST).write_text(json.dumps(content))

    with pytest.raises(Damaged, match=r"manifest\.json: cannot be read") as caught:
        prepared.listing(tmp_path)
    assert "\n" not in str(caught.value)


def test_models_of_another_recipe_are_passed_over(tmp_path: Path) -> None:
    """What an older or newer version prepared is not looked at, so it cannot be in the way."""
    old = tmp_path / f"{'5' * 16}-float32-v{prepared.VERSION + 1}"
    old.mkdir()
    (old / MANIFEST).write_text("{}")

    assert prepared.listing(tmp_path) == []
    assert prepared.listing(tmp_path / "missing") == []


def test_an_amended_manifest_keeps_the_files(tmp_path: Path) -> None:
    """A figure that is measured later is added without touching graph or tokenizer."""
    made = put(tmp_path)

    amended = prepared.amended(made, made="2026-01-01T00:00:00+00:00")

    assert prepared.listing(tmp_path) == [amended]
    assert amended.manifest == replace(made.manifest, made="2026-01-01T00:00:00+00:00")
    amended.verified()


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    """A file where the folder should be is an error that names it."""
    (tmp_path / "models").write_text("a file")

    with pytest.raises(ModelError, match="models: prepared models cannot be kept there"):
        put(tmp_path / "models")


def test_the_users_cache_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a setting, models lie in the user's cache folder, which the environment may move."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert prepared.default_folder() == tmp_path / ".cache" / "sentence-streams" / "models"

    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert prepared.default_folder() == Path("/elsewhere/sentence-streams/models")
