"""What is put under load, each on processors of its own: worker and bridge, bare FastAPI, Infinity."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from agents.supervisor import Child, Supervisor, free_port
from benchmarks.beside import ENVIRONMENTS, PeerFailed, python_of
from benchmarks.stream import Stream
from streams import topics
from streams.brokers.admin import provision
from streams.settings import TOPICS, load

#: Seconds in which a server answers its first request: it loads a model.
PATIENCE = 120.0
CORES = sorted(os.sched_getaffinity(0))
#: The generator's processor, and that of what is measured; with one processor they are the same.
OURS, THEIRS = {CORES[0]}, {CORES[-1]}
BOTH = set(CORES)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that is ready, and the worker behind it."""

    port: int
    process: psutil.Process
    #: The worker without the bridge: what its model does where nobody asks over HTTP.
    stream: Stream

    def megabytes(self) -> float:
        """Memory that the bridge has now."""
        return float(self.process.memory_info().rss) / 1e6


@asynccontextmanager
async def bridged(
    servers: str, folder: Path, name: str, *, bridge: Collection[int], worker: Collection[int], **settings: str
) -> AsyncIterator[Bridge]:
    """A worker and a bridge with these settings, on these processors, over topics of their own."""
    environment = {"STREAMS_BOOTSTRAP_SERVERS": servers, "STREAMS_GROUP": name, "STREAMS_AUTH": "off"}
    environment |= {f"STREAMS_{topic.upper()}": f"{name}.{topic}" for topic in TOPICS}
    environment |= {f"STREAMS_{key.upper()}": value for key, value in settings.items()}
    environment |= {"STREAMS_HTTP_HOST": "127.0.0.1", "STREAMS_HTTP_PORT": str(free_port())}
    loaded = load(bootstrap_servers=servers, **{topic: f"{name}.{topic}" for topic in TOPICS})
    provision(servers, topics.specs(loaded))
    async with Supervisor(folder, print) as supervisor:
        serving = supervisor.start(f"{name}-worker", ["worker"], environment)
        asking = supervisor.start(f"{name}-bridge", ["bridge"], environment, int(environment["STREAMS_HTTP_PORT"]))
        await _pin([(serving, worker), (asking, bridge)])
        await supervisor.ready()
        assert asking.process is not None
        yield Bridge(asking.health_port, psutil.Process(asking.process.pid), Stream(loaded, [serving.url]))


async def _pin(children: Sequence[tuple[Child, Collection[int]]]) -> None:
    """Leaves each child its processors; threads that it starts later have the same."""
    for child, cores in children:
        while child.process is None:
            await asyncio.sleep(0.001)
        os.sched_setaffinity(child.process.pid, cores)


@contextmanager
def bare_fastapi(folder: Path, cores: Collection[int]) -> Iterator[int]:
    """The port of FastAPI with nothing behind it."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.programs.bare_fastapi", str(port)]
    with _server(command, f"http://127.0.0.1:{port}/health/ready", folder / "bare.log", cores):
        yield port


@contextmanager
def infinity(model: Path, folder: Path, cores: Collection[int]) -> Iterator[int]:
    """The port of Infinity's HTTP server with the same model; raises PeerFailed where it does not run here."""
    port, program = free_port(), python_of("infinity").with_name("infinity_emb")
    command = [str(program), "v2", "--model-id", str(model), "--served-model-name", "model", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--engine", "torch", "--device", "cpu", "--lengths-via-tokenize"]
    with _server(command, f"http://127.0.0.1:{port}/health", folder / "infinity-http.log", cores):
        yield port


@contextmanager
def _server(command: Sequence[str], url: str, log: Path, cores: Collection[int]) -> Iterator[None]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
        try:
            _await(url, process, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise PeerFailed(f"no answer from {url}, exit code {process.poll()}: {log}")


def prepared() -> str:
    """The folder with the model prepared for onnxruntime, which is made when it is not there yet (seconds)."""
    folder = str(ENVIRONMENTS / "models")
    command = [sys.executable, "-m", "agents.cli", "models", "prepare"]
    subprocess.run(command, env=os.environ | {"STREAMS_MODELS_DIR": folder}, check=True, stdout=subprocess.DEVNULL)
    return folder
