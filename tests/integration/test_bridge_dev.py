"""`sentence-streams dev` answers over HTTP, with the line that it prints."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from tests.support.stream import PATIENCE, ROOT


def test_the_line_that_dev_prints_works_as_pasted() -> None:
    """A shell runs it and gets a vector; Ctrl-C ends all of it."""
    if shutil.which("curl") is None:
        pytest.skip("there is no `curl` on this machine")
    environment = {**os.environ, "STREAMS_MODEL": "deterministic", "STREAMS_HTTP_PORT": "0", "COLUMNS": "60"}
    dev = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", "dev"], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert dev.stderr is not None
    timer = threading.Timer(PATIENCE, dev.kill)
    timer.start()
    try:
        line = next(line for line in dev.stderr if "curl " in line)
        answer = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=PATIENCE, check=True)
        assert len(json.loads(answer.stdout)["data"][0]["embedding"]) == 384
        dev.send_signal(signal.SIGINT)
        assert dev.wait(60) == 0
    finally:
        timer.cancel()
        dev.kill()
        dev.communicate()
