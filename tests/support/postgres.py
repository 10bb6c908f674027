"""A real PostgreSQL for the tests: Debian's, on loopback, in a folder of its own that goes with it."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.support.java import Unavailable, free_ports

START_TIMEOUT = 60.0


class Postgres:
    """One PostgreSQL; `database()` makes an empty one in it."""

    def __init__(self) -> None:
        """Raises Unavailable where there is no server."""
        homes = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not homes:
            raise Unavailable("there is no PostgreSQL on this machine (Debian's package `postgresql` has it)")
        self._bin = homes[-1].parent
        (self.port,) = free_ports(1)
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        # It refuses to run as root, and that user must reach the folder: so not below pytest's, which is private.
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user:
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Makes the cluster and starts it; raises RuntimeError with its log otherwise."""
        data = self._folder / "data"
        made = self._command("initdb", "-D", str(data), "-A", "trust", "-U", "tests", "-E", "UTF8", "--no-sync")
        subprocess.run(made, check=True, capture_output=True, user=self._user, cwd=self._folder)
        self.run()

    def run(self) -> None:
        """Starts the server on the cluster that is there, also again after `stop`."""
        options = ["-D", str(self._folder / "data"), "-h", "127.0.0.1", "-p", str(self.port), "-k", "", "-F"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", *options), stdout=log, stderr=log, user=self._user, cwd=self._folder
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start:\n{(self._folder / 'log').read_text()[-3000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends the server at once; connections break."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: at once, its children too
            self._process.wait(30)

    def remove(self) -> None:
        """Ends it and removes its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def database(self, name: str) -> str:
        """Makes an empty database and returns its URL."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql://tests@127.0.0.1:{self.port}/{name}"

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [str(self._bin / program), *arguments]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True
