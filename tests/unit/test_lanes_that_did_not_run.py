"""What the suite says, and how it ends, where a real service is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Needs a real Kafka, and nothing else.
NEEDS_KAFKA = "tests/integration/test_provisioning.py::test_creates_what_is_missing"


@pytest.mark.parametrize(("ci", "status"), [("true", pytest.ExitCode.TESTS_FAILED), ("", pytest.ExitCode.OK)])
def test_a_lane_that_cannot_run_is_named_and_fails_in_ci(tmp_path: Path, ci: str, status: pytest.ExitCode) -> None:
    """Without Java and Docker the real Kafka is skipped, with the reason; where CI=true that is a failure."""
    environment = {
        **os.environ,
        "CI": ci,
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "DOCKER_HOST": "tcp://127.0.0.1:9",
    }
    environment = {name: value for name, value in environment.items() if name not in {"JAVA_HOME", "PYTEST_ADDOPTS"}}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-cov", NEEDS_KAFKA]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == status, ended.stdout
    assert "COULD NOT RUN HERE" in ended.stdout
    assert "1 test: no real Kafka: " in ended.stdout
    assert ("In CI every lane must run, and these did not: kafka" in ended.stdout) == (ci == "true")
