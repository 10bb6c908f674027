"""Files that somebody may replace while we run."""

import os
from pathlib import Path

import pytest
import structlog

from agents.bridge.watched import WatchedFile


def test_it_is_parsed_once_a_change(tmp_path: Path) -> None:
    """Looking is cheap: nothing is read while the file stays the same, also when that could not be parsed."""
    path, read = tmp_path / "file", []

    def parse(content: bytes) -> int:
        read.append(content)
        return int(content)

    path.write_bytes(b"1")
    file = WatchedFile(path, parse)
    assert [file.get(), file.get()] == [1, 1]
    path.write_bytes(b"22")
    assert [file.get(), file.get()] == [22, 22]
    path.write_bytes(b"wrong")
    assert [file.get(), file.get()] == [22, 22]
    assert read == [b"1", b"22", b"wrong"]


@pytest.mark.parametrize("trouble", ["gone", "wrong"])
def test_the_last_good_one_is_kept_and_the_log_says_so_once(trouble: str, tmp_path: Path) -> None:
    """Neither a file that vanished nor one that went bad takes anything away; once it is good again, it counts."""
    path = tmp_path / "file"
    path.write_bytes(b"1")
    file = WatchedFile(path, int)
    path.unlink()
    if trouble == "wrong":
        path.write_bytes(b"wrong")
    with structlog.testing.capture_logs() as logs:
        assert [file.get(), file.get()] == [1, 1]
    assert [entry["event"] for entry in logs] == ["file-unusable"]
    path.write_bytes(b"333")
    assert file.get() == 333


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    """Kubernetes replaces a mounted secret so; time and size may be those of before."""
    one, two, link = tmp_path / "one", tmp_path / "two", tmp_path / "link"
    for path in (one, two):
        path.write_bytes(path.name.encode())
        os.utime(path, (1, 1))
    link.symlink_to(one)
    file = WatchedFile(link, bytes.decode)
    assert file.get() == "one"
    link.unlink()
    link.symlink_to(two)
    assert file.get() == "two"


def test_a_wrong_file_is_told_at_the_start(tmp_path: Path) -> None:
    """Only later is there a last good one."""
    with pytest.raises(OSError, match="none"):
        WatchedFile(tmp_path / "none", int)
    (tmp_path / "wrong").write_bytes(b"x")
    with pytest.raises(ValueError, match="invalid literal"):
        WatchedFile(tmp_path / "wrong", int)
