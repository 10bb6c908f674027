"""A real schema registry for the tests: Apicurio on loopback, in memory."""

from pathlib import Path

import httpx2

from tests.support.java import JVM, JavaProcess, fetch, free_ports

#: What the product promises its producers and subscribers.
COMPATIBILITY = "FULL_TRANSITIVE"


class Registry(JavaProcess):
    """A registry that speaks Confluent's API at `url`; it forgets everything when it stops."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        (program,) = fetch("registry").glob("*-runner.jar")
        settings = {"quarkus.http.host": "127.0.0.1", "quarkus.http.port": port}
        options = [f"-D{name}={value}" for name, value in settings.items()]
        arguments = ["-Xmx256m", *JVM, *options, "-jar", str(program)]
        super().__init__(arguments, folder, self._answers_subjects)

    def start(self) -> None:
        """Starts it, waits until it answers, and has it refuse incompatible schemas (it would take all)."""
        super().start()
        httpx2.put(f"{self.url}/config", json={"compatibility": COMPATIBILITY}).raise_for_status()

    def _answers_subjects(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/subjects", timeout=2).is_success
        except httpx2.HTTPError:
            return False
