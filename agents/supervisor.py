"""A small supervisor for `dev`: starts child processes, restarts what crashes, stops all of them together."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

#: Seconds before a child that crashed is started again: grows to the last one while it goes on crashing.
PAUSES = (0.5, 1.0, 2.0, 5.0)
#: Seconds a child gets to leave before it is killed.
LEAVE = 30.0


@dataclass(slots=True)
class Child:
    """One command of this program that should always run."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    health_port: int
    log: Path
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where its health and metrics pages are."""
        return f"http://127.0.0.1:{self.health_port}"


class Supervisor:
    """Keeps children alive; use as an async context manager."""

    def __init__(self, logs: Path, tell: Callable[[str], None]) -> None:
        """`logs`: folder of one log file a child; `tell` gets a line whenever a child crashed."""
        self._logs = logs
        self._tell = tell
        self.children: list[Child] = []

    async def __aenter__(self) -> "Supervisor":
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self.children:
            if child.task:
                child.task.cancel()
        await asyncio.gather(*(self._stop(child) for child in self.children))

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], port: int | None = None
    ) -> Child:
        """Starts a command of this program with these environment variables on top of ours."""
        child = Child(name, command, environment, port or free_port(), self._logs / f"{name}.log")
        child.task = asyncio.get_running_loop().create_task(self._keep(child))
        self.children.append(child)
        return child

    async def ready(self) -> None:
        """Waits until every child says that it is ready."""
        async with aiohttp.ClientSession() as http:
            for child in self.children:
                while not await _answers(http, f"{child.url}/health/ready"):
                    await asyncio.sleep(0.1)

    async def _keep(self, child: Child) -> None:
        environment = {**os.environ, **child.environment, "STREAMS_HEALTH_PORT": str(child.health_port)}
        while True:
            with child.log.open("ab") as log:
                child.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "agents.cli", *child.command,
                    env=environment, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            code = await child.process.wait()
            pause = PAUSES[min(child.restarts, len(PAUSES) - 1)]
            child.restarts += 1
            self._tell(f"{child.name} ended with {code}; starting it again in {pause} s (its log: {child.log})")
            await asyncio.sleep(pause)

    async def _stop(self, child: Child) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), LEAVE)
        except TimeoutError:
            process.kill()
            await process.wait()


def free_port() -> int:
    """Returns a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Returns whether nobody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False
