"""The peers: environments of their own, started one at a time, measured over the same backlog as the stream."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from streams.brokers.admin import TopicSpec, provision

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(__file__).parent / ".environments"
PARTITIONS = 8
#: Sentences that a peer has answered before its clock starts: the model is loaded and warm, the group has settled.
WARM = 64
#: Seconds without any result after which a peer is given up.
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A program of `benchmarks/peers` that answers each record of SOURCE with one on TARGET."""

    name: str
    program: str
    command: Sequence[str]


STREAMS = (
    Peer("faust", "faust_app", ("-m", "faust_app", "worker", "-l", "error", "--without-web")),
    Peer("quix", "quix_app", ("-m", "quix_app")),
    Peer("bytewax", "bytewax_flow", ("-m", "bytewax.run", "bytewax_flow")),
    Peer("faststream", "faststream_app", ("-m", "faststream", "run", "faststream_app:app")),
)


class PeerFailed(Exception):
    """A peer does not run here; the message says where its log is."""


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, which is made when it is not there yet (a minute each, with torch)."""
    wanted: list[str] = tomllib.loads((PEERS / "requirements.toml").read_text())[name]
    folder = ENVIRONMENTS / f"{name}-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]}"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if uv is None:
            raise PeerFailed("uv is not here: `make setup` installs it")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True)
        (folder / ".ready").touch()
    return python


def backlog(peer: Peer, servers: str, texts: Sequence[str], model: Path, folder: Path) -> float:
    """Seconds from the first sentence produced to the last result read, by a peer that is warm."""
    tag = f"{peer.name}-{time.monotonic_ns()}"
    source, target = f"{tag}-in", f"{tag}-out"
    provision(servers, [TopicSpec(name, PARTITIONS, 1, {}) for name in (source, target)])
    environment = {"SERVERS": servers, "SOURCE": source, "TARGET": target, "MODEL": str(model), "HF_HUB_OFFLINE": "1"}
    arguments = [str(python_of(peer.name)), *peer.command]
    with _process(arguments, environment, folder / f"{tag}.log") as process, _reader(servers, target) as reader:
        _produce(servers, source, [f"Sentence {number} to warm up." for number in range(WARM)])
        _await(reader, WARM, process)
        started = time.perf_counter()
        _produce(servers, source, texts)
        _await(reader, len(texts), process)
        return time.perf_counter() - started


class Infinity:
    """Infinity's engine in its own process, fed with whole lists; use as a context manager."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._folder = folder
        self._log = (folder / "infinity.log").open("wb")
        self._process = subprocess.Popen(
            [str(python_of("infinity")), str(PEERS / "infinity_engine.py")], text=True, stderr=self._log,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"MODEL": str(model), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
        )  # fmt: skip
        self._answer()

    def __enter__(self) -> "Infinity":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def embed(self, texts: Sequence[str]) -> float:
        """Seconds that the engine takes for all texts."""
        file = self._folder / "infinity.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        assert self._process.stdin is not None
        print(file, file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == "ready" or line[:1].isdigit():
                return line
        raise PeerFailed(f"infinity ended: {self._log.name}")


@contextmanager
def _process(arguments: Sequence[str], environment: dict[str, str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as out:
        process = subprocess.Popen(arguments, cwd=PEERS, env=os.environ | environment, stdout=out, stderr=out)
        try:
            yield process
        except TimeoutError:
            raise PeerFailed(f"no result for {PATIENCE:.0f} s, exit code {process.poll()}: {log}") from None
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _reader(servers: str, topic: str) -> Iterator[Consumer]:
    reader = Consumer({"bootstrap.servers": servers, "group.id": "benchmark", "fetch.wait.max.ms": 50, "log_level": 0})
    reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    try:
        yield reader
    finally:
        reader.close()


def _await(reader: Consumer, wanted: int, process: "subprocess.Popen[bytes]") -> None:
    progressed = time.monotonic()
    while wanted > 0:
        if found := sum(message.error() is None for message in reader.consume(min(wanted, 1_000), timeout=0.2)):
            wanted, progressed = wanted - found, time.monotonic()
        elif process.poll() is not None or time.monotonic() - progressed > PATIENCE:
            raise TimeoutError


def _produce(servers: str, topic: str, texts: Sequence[str]) -> None:
    producer = Producer({"bootstrap.servers": servers, "queue.buffering.max.messages": 2_000_000})
    for number, text in enumerate(texts):
        producer.produce(topic, json.dumps({"id": f"s-{number}", "text": text}).encode())
    producer.flush()
