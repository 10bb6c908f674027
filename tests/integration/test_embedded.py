"""The whole stream on the embedded broker, as `sentence-streams dev` runs it: it works on every machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from streams.brokers.embedded import EmbeddedBroker
from tests.support.stream import Stream, encoded


def test_sentences_come_out_as_embeddings_and_scores(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    """200 sentences and a record of rubbish: an embedding and a score each, one dead letter, both leave cleanly."""
    with Stream(embedded_broker.bootstrap_servers, tmp_path) as stream:
        stream.send({"value": encoded(number), "key": str(number % 7).encode()} for number in range(200))
        stream.send([{"value": b"rubbish"}])
        worker, scorer = stream.start("worker"), stream.start("score")
        worker.ready()
        scorer.ready()
        stream.finish()
        stream.finish_scores()
        expected = sorted(f"s-{number}" for number in range(200))
        assert sorted(embedding.sentence_id for _, embedding in stream.embeddings()) == expected
        assert sorted(score.sentence_id for _, score in stream.scores()) == expected
        assert [letter.value for letter in stream.dead_letters()] == [b"rubbish"]
        worker.stop()
        scorer.stop()


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """A file of a few sentences."""
    file = tmp_path / "sentences.txt"
    file.write_text("".join(f"Sentence number {number} of the demonstration.\n" for number in range(30)))
    return file


def _dev(*arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "STREAMS_MODEL": "deterministic", "STREAMS_HTTP_PORT": "0"}
    command = [sys.executable, "-m", "agents.cli", "dev", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_demonstration_ends_with_a_table_and_a_summary(sentences: Path) -> None:
    """Without a terminal `dev FILE` streams the file through, says what came out and exits with 0."""
    dev = _dev(str(sentences))
    shown, told = dev.communicate(timeout=120)
    assert dev.returncode == 0, told
    assert "in 30   out 30 embeddings, 30 scores, 0 dead letters" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_dev_leaves_no_process_behind(number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end broker, worker and scorer alike, and say so by the exit code."""
    dev = _dev()
    try:
        while not (children := psutil.Process(dev.pid).children(recursive=True)):
            assert dev.poll() is None
            time.sleep(0.05)
        dev.send_signal(number)
        assert dev.wait(60) == 130
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == []
    finally:
        dev.kill()
        dev.communicate()
