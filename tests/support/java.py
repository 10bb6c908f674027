"""Java programs for the tests: fetched by Maven, then started, stopped, killed and frozen by process id."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
OLDEST_JAVA = 17
#: Quick to start and light on two cores, rather than fast after minutes.
JVM = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
START_TIMEOUT = 120.0
STOP_TIMEOUT = 30.0


class Unavailable(Exception):
    """This machine cannot run what was asked for; the message says what it lacks."""


def java() -> str:
    """Returns the path of a Java that is new enough; raises Unavailable."""
    path = _program("java", "bin/java")
    version = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', version)
    if not found or int(found[1]) < OLDEST_JAVA:
        raise Unavailable(f"Java {OLDEST_JAVA} or newer is needed, {path} is {found[1] if found else 'unusable'}")
    return path


def fetch(execution: str) -> Path:
    """Returns the folder with what the named execution of pom.xml fetches, by Maven if it is not there yet.

    The cache folder is STREAMS_TEST_CACHE, else ~/.cache/sentence-streams-tests. Raises Unavailable.
    """
    cache = Path(os.environ.get("STREAMS_TEST_CACHE") or Path.home() / ".cache" / "sentence-streams-tests")
    target = cache / f"{execution}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    if not target.is_dir():
        maven = _program("mvn")
        cache.mkdir(parents=True, exist_ok=True)
        # Fetched beside it and renamed, so that an interrupted run, or two at once, never leave half of it.
        with tempfile.TemporaryDirectory(dir=cache) as staging:
            _run_maven(maven, execution, Path(staging))
            if not target.is_dir():
                Path(staging, "files").rename(target)
    return target


def free_ports(count: int) -> list[int]:
    """Returns loopback ports that nobody listens on right now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class JavaProcess:
    """One Java program whose output goes to the file `log`; `answers` tells whether it is up."""

    def __init__(self, arguments: Sequence[str], folder: Path, answers: Callable[[], bool]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "output.log"
        self._command = [java(), *arguments]
        self._folder = folder
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers; raises RuntimeError with the end of its log otherwise."""
        self.spawn()
        self.wait()

    def spawn(self) -> None:
        """Starts it without waiting."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)

    def wait(self) -> None:
        """Waits until it answers."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                tail = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self._command[-1]} did not start; the end of {self.log}:\n{tail}")
            time.sleep(0.1)

    @property
    def running(self) -> bool:
        """Whether the process exists (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends it cleanly (SIGTERM), or by force where that takes too long."""
        self.resume()
        self._signal(signal.SIGTERM)
        if self._process:
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Ends it at once (SIGKILL)."""
        self._signal(signal.SIGKILL)
        if self._process:
            self._process.wait()

    def pause(self) -> None:
        """Freezes it (SIGSTOP): connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a frozen one run on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process and self.running:
            self._process.send_signal(number)


def _program(name: str, under_java_home: str | None = None) -> str:
    home = os.environ.get("JAVA_HOME")
    if home and under_java_home and (path := Path(home, under_java_home)).is_file():
        return str(path)
    found = shutil.which(name)
    if not found:
        raise Unavailable(f"there is no `{name}` on this machine")
    return found


def _run_maven(maven: str, execution: str, folder: Path) -> None:
    goal = {"kafka": "copy-dependencies", "registry": "unpack"}[execution]
    command = [maven, "-B", "-q", "-f", str(POM), f"dependency:{goal}@{execution}", f"-Dfolder={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
        reason = errors[0] if errors else f"exit status {done.returncode}"
        raise Unavailable(f"Maven could not fetch {execution}: {reason}")
