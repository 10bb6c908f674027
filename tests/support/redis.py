"""A real Redis for the tests: Debian's redis-server on loopback, which keeps nothing on disk."""

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.support.java import Unavailable, free_ports

START_TIMEOUT = 30.0


class RedisServer:
    """One Redis at `url`; `start()` after `kill()` gives an empty one at the same address."""

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable where there is no redis-server."""
        program = shutil.which("redis-server")
        if program is None:
            raise Unavailable("there is no `redis-server` on this machine (Debian's package of that name has it)")
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._log = folder / "redis.log"
        # Nothing is saved, and nothing listens elsewhere.
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--save", "", "--appendonly", "no"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers; raises RuntimeError with its log otherwise."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"redis-server did not start:\n{self._log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends it at once (SIGKILL); what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Freezes it (SIGSTOP): connections stay open and new ones are taken, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a frozen one run on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
