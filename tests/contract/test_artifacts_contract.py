"""Artifacts: one suite for a folder and for an S3-compatible server."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import obstore
import pytest

from streams.models.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactStore, UnsafeArtifact, digest
from streams.models.objects import BadPlace, StoreUnavailable, open_store
from tests.support.s3 import s3_server

FILES = {"head.safetensors": b"\x00weights", "manifest.json": b"{}"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """The environment of a real S3 server, for all tests of this module."""
    with s3_server() as environment:
        yield environment


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where artifacts lie, empty for each test."""
    if request.param == "folder":
        yield str(tmp_path / "artifacts")
        return
    with patch.dict("os.environ", request.getfixturevalue("bucket"), clear=True):
        yield f"s3://models/{tmp_path.name}"


def test_what_was_put_comes_back(place: str) -> None:
    """Name by name and byte by byte, for another process that opens the same place."""
    found = ArtifactStore.at(place).put(FILES)
    assert ArtifactStore.at(place).get(found) == FILES


def test_the_digest_is_of_names_and_contents(place: str) -> None:
    """The order of files says nothing, each name and byte does."""
    store = ArtifactStore.at(place)
    found = store.put(FILES)
    assert store.put(dict(reversed(FILES.items()))) == found == digest(FILES)
    assert store.put({**FILES, "manifest.json": b"[]"}) != found
    assert store.put({"head.safetensors": FILES["head.safetensors"], "other.json": b"{}"}) != found


@pytest.mark.parametrize("name", ["head.safetensors", "another.json"])
def test_a_change_is_found_at_the_load(place: str, name: str) -> None:
    """A changed file, or one that somebody added: nothing is handed out; putting the artifact again heals it."""
    store = ArtifactStore.at(place)
    found = store.put(FILES)
    obstore.put(open_store(place), f"artifacts/{found}/{name}", b"changed")
    with pytest.raises(ArtifactDamaged, match=found[:12]):
        store.get(found)
    if name in FILES:
        store.put(FILES)
        assert store.get(found) == FILES


def test_a_lost_file_is_found_at_the_load(place: str) -> None:
    """Half an artifact is none."""
    store = ArtifactStore.at(place)
    found = store.put(FILES)
    obstore.delete(open_store(place), f"artifacts/{found}/manifest.json")
    with pytest.raises(ArtifactDamaged):
        store.get(found)


@pytest.mark.parametrize("found", ["0" * 64, "", "../" * 20, "head"])
def test_what_is_not_there_is_missing(place: str, found: str) -> None:
    """Also where the digest is none: it never becomes a path."""
    with pytest.raises(ArtifactMissing):
        ArtifactStore.at(place).get(found)


@pytest.mark.parametrize(
    "name", ["model.pkl", "head.joblib", "../head.json", "a/b.json", ".json", "model.safetensors.bin"]
)
def test_a_format_that_can_run_code_is_refused(place: str, name: str) -> None:
    """Neither stored nor handed out, whoever put it there."""
    store = ArtifactStore.at(place)
    with pytest.raises(UnsafeArtifact, match="safetensors or"):
        store.put({name: b"x"})


def test_a_pickle_that_somebody_put_there_is_never_read(place: str) -> None:
    """The name alone refuses it, before any byte is fetched."""
    files = {**FILES, "model.pkl": b"x"}
    for name, content in files.items():
        obstore.put(open_store(place), f"artifacts/{digest(files)}/{name}", content)
    with pytest.raises(UnsafeArtifact):
        ArtifactStore.at(place).get(digest(files))


def test_training_data_is_kept_under_its_digest(place: str) -> None:
    """The address is the content's, so a manifest can hold it; a change is found."""
    store = ArtifactStore.at(place)
    address = store.keep(b"rows")
    assert store.kept(address) == b"rows"
    obstore.put(open_store(place), address, b"other rows")
    with pytest.raises(ArtifactDamaged):
        store.kept(address)
    with pytest.raises(ArtifactMissing):
        store.kept(f"data/{'0' * 64}")


def test_a_store_that_is_away_is_no_missing_artifact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller may try again later; the message is one line and names the place."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    with pytest.raises(StoreUnavailable, match=r"^s3://models: [^\n]*$"):
        ArtifactStore.at("s3://models").get("0" * 64)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="file"):
        ArtifactStore.at(str(tmp_path / "file"))


@pytest.mark.parametrize("wrong", ["ftp://host/models", "http://bucket.example/x"])
def test_another_scheme_is_refused(wrong: str) -> None:
    """The message lists what is understood."""
    with pytest.raises(BadPlace, match="s3://, gs:// or az://"):
        ArtifactStore.at(wrong)
