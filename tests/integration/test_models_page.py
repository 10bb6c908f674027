"""docs/models.md: every command on the page, run in its order against a stream that scores meanwhile."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.records import ScoreStatus
from streams.brokers.embedded import EmbeddedBroker
from streams.models.artifacts import ArtifactStore
from streams.models.manifest import MANIFEST, Manifest
from streams.settings import PREFIX
from tests.support.stream import PATIENCE, ROOT, Stream, encoded, wait_until

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/models.md").read_text(encoding="utf-8"), re.M | re.S)


class Shell:
    """Runs one block of the page after another; variables outlive their block."""

    def __init__(self, stream: Stream, folder: Path) -> None:
        program = folder / "bin" / "sentence-streams"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agents.cli "$@"\n')
        program.chmod(0o755)
        names = stream.settings.model_fields_set
        ours = {f"{PREFIX}{name.upper()}": str(getattr(stream.settings, name)) for name in names}
        path = f"{program.parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, **ours, "PATH": path, "PYTHONPATH": str(ROOT)}
        self._folder = folder
        self.variables: dict[str, str] = {}

    def run(self, block: str) -> str:
        """Runs a block; returns what it said on stderr."""
        script = f'set -euo pipefail\n{block}\nprintf \'%s\\n\' "digest=${{digest-}}" "wrong=${{wrong-}}" > variables'
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env={**self._environment, **self.variables},
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,  # a block has several commands
            check=False,
        )
        assert done.returncode == 0, f"{block}\nended with {done.returncode}:\n{done.stderr}"
        lines = (self._folder / "variables").read_text().splitlines()
        self.variables = dict(line.split("=", 1) for line in lines)
        return done.stderr


def answering(stream: Stream) -> Callable[[str], bool]:
    """Tells whether a version of the scorer answers; asks with a sentence every time."""
    asked = iter(range(1_000_000))

    def answers(version: str) -> bool:
        number = next(asked)
        stream.send([{"value": encoded(number, text=f"Waves broke {number} times.", scorers=("place",))}])
        time.sleep(0.5)
        found = [score for _, score in stream.scores() if score.sentence_id == f"s-{number}"]
        return any(score.scorer_version == version for score in found)

    return answers


@pytest.fixture
def stream(embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """A stream with a store and a catalog of its own, whose windows are short."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return Stream(embedded_broker.bootstrap_servers, tmp_path, quality_records=100, quality_least=50)


def test_the_page_from_labels_to_the_way_back(stream: Stream, tmp_path: Path) -> None:
    """A version is trained and answers, a bad one is caught by a fallback, the first answers again."""
    labels, provision, train, activate, bad, same, back = BLOCKS
    shell = Shell(stream, tmp_path)
    with stream:
        stream.start("worker").ready()
        stream.start("score").ready()
        answers = answering(stream)
        shell.run(labels)
        shell.run(provision)
        told = shell.run(train)
        assert "no label: line 14" in told
        assert "line 12 says land, line 13 says sea" in told
        digest = shell.variables["digest"]
        manifest = Manifest.read(ArtifactStore.at(stream.settings.artifacts).get(digest)[MANIFEST])
        assert manifest.data.labels == {"land": 5, "sea": 5}
        shell.run(activate)
        wait_until(lambda: answers(digest[:12]), "the first version answers")
        told = shell.run(bad)
        assert f"version {digest[:12]} in service: accuracy" in told
        wrong = shell.variables["wrong"]
        wait_until(lambda: answers(wrong[:12]), "the bad version answers")
        shell.run(same)
        fallback = ScoreStatus.FALLBACK
        wait_until(lambda: any(score.status is fallback for _, score in stream.scores()), "a fallback answers")
        shell.run(back)
        wait_until(lambda: answers(digest[:12]), "the first version answers again")
