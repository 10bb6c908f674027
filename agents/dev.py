"""`sentence-streams dev`: the whole stream on one machine with nothing installed, and a demonstration of it."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from agents import demo
from agents.supervisor import Supervisor, free_port, is_free
from streams import topics
from streams.brokers.admin import provision
from streams.brokers.embedded import EmbeddedBroker
from streams.settings import Settings


def dev(settings: Settings, sentences: Path | None) -> int:
    """Runs broker, worker, scorer and bridge; streams the file through when one is given. Returns the exit code.

    On a terminal it serves until Ctrl-C; otherwise it ends after the demonstration, with 1 if anything is missing.
    """
    console = Console(stderr=True)
    logs = Path(tempfile.mkdtemp(prefix="sentence-streams-"))
    with EmbeddedBroker() as broker:
        provision(broker.bootstrap_servers, topics.specs(settings))
        try:
            return asyncio.run(_serve(settings, broker.bootstrap_servers, sentences, logs, console))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return 130


async def _serve(settings: Settings, servers: str, sentences: Path | None, logs: Path, console: Console) -> int:
    _leave_no_orphans()
    environment = {"STREAMS_BOOTSTRAP_SERVERS": servers, "STREAMS_SCHEMA_REGISTRY_URL": ""}
    async with Supervisor(logs, lambda line: console.print(f"[yellow]{line}")) as supervisor:
        supervisor.start("worker", ["worker"], environment)
        supervisor.start("scorer", ["score"], environment)
        port = settings.http_port if settings.http_port and is_free(settings.http_port) else free_port()
        supervisor.start("bridge", ["bridge"], {**environment, **_http(port)}, port)
        with console.status("Starting broker, worker, scorer and bridge; the model is loaded and checked ..."):
            await supervisor.ready()
        _tell(console, supervisor, servers, logs)
        code = await demo.run(settings, servers, environment, sentences, console) if sentences else 0
        if sentences is None or sys.stdout.isatty():
            console.print("\nServing until Ctrl-C. Ask it over HTTP:\n")
            console.print(f"  {_curl(port)}\n", soft_wrap=True, highlight=False, markup=False)
            await _interrupted()
        return code


def _leave_no_orphans() -> None:
    """Lets SIGTERM, and a terminal that closes, end this task as Ctrl-C does: through the supervisor's exit."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


async def _interrupted() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def _http(port: int) -> dict[str, str]:
    return {"STREAMS_HTTP_HOST": "127.0.0.1", "STREAMS_HTTP_PORT": str(port), "STREAMS_AUTH": "off"}


def _curl(port: int) -> str:
    """A line for a shell that asks the bridge for a vector."""
    url = f"http://127.0.0.1:{port}/v1/embeddings"
    return f"""curl {url} -H 'Content-Type: application/json' -d '{{"input": "A new sentence."}}'"""


def _tell(console: Console, supervisor: Supervisor, servers: str, logs: Path) -> None:
    lines: Mapping[str, str] = {
        "broker": f"{servers}  (embedded, in memory: for trying, not for keeping)",
        **{child.name: f"{child.url}/health/ready  {child.url}/metrics" for child in supervisor.children},
        "logs": str(logs),
        "try": f"echo 'A new sentence.' | STREAMS_BOOTSTRAP_SERVERS={servers} sentence-streams produce",
    }
    for name, line in lines.items():
        console.print(f"[bold]{name:>8}[/bold]  {line}", soft_wrap=True, highlight=False)
