"""Files that other tools read, Dockerfile, compose, workflows: judged by those tools, and by the code they name."""

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.settings import Settings, names
from tests.deploy.manifests import ROOT, program

SCRIPTS = Path(sys.executable).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


def run(command: str, *arguments: str | Path) -> None:
    """Runs a tool of the environment; fails the test with what it says."""
    path = SCRIPTS / command
    if not path.exists():
        pytest.skip(f"{command} is not installed: its package has no build for this machine")
    done = subprocess.run([path, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_yaml_is_clean() -> None:
    """yamllint, strict, over every YAML file of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.yaml", "*.yml"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    run("yamllint", "--strict", *listed)


# -- images ---------------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    """The Dockerfile follows the rules of hadolint and, for its scripts, of ShellCheck."""
    run("hadolint", "Dockerfile")


def test_images_run_as_nobody_in_particular() -> None:
    """The user is the one the manifests name, with no shell; tini passes signals on; a health check is there."""
    runtime = DOCKERFILE[DOCKERFILE.index("AS runtime") :]
    assert "USER 10001:10001" in runtime
    assert 'ENTRYPOINT ["tini", "--", "sentence-streams"]' in runtime
    assert "HEALTHCHECK" in runtime
    assert runtime.index("USER 10001") < runtime.index("AS full")
    assert "USER root" not in DOCKERFILE


def test_every_variable_of_the_images_is_a_setting() -> None:
    """A renamed setting breaks this, in the Dockerfile and in compose."""
    assert set(re.findall(r"\bSTREAMS_[A-Z_]+", DOCKERFILE)) <= names().keys()
    for service in OURS.values():
        given = {name for name in service["environment"] if name.startswith("STREAMS_")}
        assert given <= names().keys()


def test_ports_are_those_of_the_settings() -> None:
    """Exposed, checked and published ports follow the defaults."""
    settings = Settings()
    (exposed,) = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert {int(port) for port in exposed.split()} == {settings.http_port, settings.health_port}
    assert str(settings.health_port) in (ROOT / "docker/healthcheck.py").read_text()


def test_the_small_image_has_no_torch() -> None:
    """Its lock leaves torch out, and nothing it runs asks for it."""
    locked = (ROOT / "requirements/worker.txt").read_text()
    assert not re.search(r"^(torch|sentence-transformers|nvidia-.*)==", locked, re.MULTILINE)
    hidden = "import sys; sys.modules.update(dict.fromkeys(('torch', 'sentence_transformers', 'transformers')))"
    runs = "import agents.cli, agents.embed, agents.score, agents.bridge.server, streams.embedding.onnx_backend"
    subprocess.run([sys.executable, "-c", f"{hidden}; {runs}"], cwd=ROOT, check=True, capture_output=True)


def test_both_locks_name_the_same_versions() -> None:
    """The small image is the large one without torch, not another product."""

    def pins(name: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines():
            if match := re.match(r"([a-z0-9._-]+)==([^ ;]+)", line):
                found.setdefault(match[1], set()).add(match[2])
        return found

    full = pins("run")
    assert not {name: versions for name, versions in pins("worker").items() if not versions <= full.get(name, set())}


def test_what_is_not_in_the_image_is_not_sent_to_its_builder() -> None:
    """The builder's context holds what the Dockerfile copies, and nothing else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        name.rstrip("/")
        for name in re.findall(r"^COPY ((?:[\w./-]+ )+)", DOCKERFILE, re.MULTILINE)
        for name in name.split()
    }
    assert copied <= sent
    assert "*" in lines


# -- compose --------------------------------------------------------------------------------------------------


def test_compose_fits_its_schema() -> None:
    """The schema that check-jsonschema brings along."""
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def compose_config() -> list[str]:
    """`docker compose config`; where Docker has no such plugin, the program of the library that it is made of."""
    plugin = ["docker", "compose", "--profile=*", "-f", "docker-compose.yml"]
    with suppress(FileNotFoundError):
        if not subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode:
            return [*plugin, "config", "--format=json"]
    return [program("compose-spec"), "--format=json", "docker-compose.yml"]


def test_compose_takes_the_file() -> None:
    """Every variable, anchor and reference between services resolves."""
    done = subprocess.run(compose_config(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["services"].keys() == SERVICES.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_an_exact_version(name: str) -> None:
    """No image that means another one tomorrow."""
    image = SERVICES[name]["image"]
    assert name in OURS or re.search(r":v?\d+\.\d+(\.\d+)?([.-][\w.-]+)?$", image), image


@pytest.mark.parametrize("name", SERVICES)
def test_services_wait_for_what_they_need(name: str) -> None:
    """Whoever waits for a service to be healthy waits for one that can say so."""
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        other = SERVICES[needed]
        if how["condition"] == "service_healthy":
            assert "healthcheck" in other or "build" in other
            assert not other.get("healthcheck", {}).get("disable")
        if how["condition"] == "service_completed_successfully":
            assert other["restart"].startswith("on-failure")


def test_what_is_mounted_exists() -> None:
    """Every file or folder of the repository that a service mounts is there (the gateway's certificate is yours)."""
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists() or source == "./docker/tls"


def test_ports_are_published_on_loopback_only() -> None:
    """Nobody beyond this machine reaches a system that asks nobody who he is."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_services_of_ours_may_do_little() -> None:
    """Read-only root, no capabilities, and time to finish what is in flight."""
    for service in OURS.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert int(service["stop_grace_period"].removesuffix("s")) >= 2 * Settings().drain_timeout + 10


# -- workflows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actionlint_finds_nothing(path: Path) -> None:
    """actionlint, with ShellCheck for the scripts in it."""
    command = [program("actionlint"), "-no-color", f"-shellcheck={SCRIPTS / 'shellcheck'}", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_nothing() -> None:
    """No injection, no broad permission, no action that is not pinned; what only the network knows is left out."""
    run("zizmor", "--offline", "--persona=pedantic", "--no-progress", ".github")


def test_workflows_and_dependabot_fit_their_schemas() -> None:
    """The schemas that check-jsonschema brings along."""
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_nothing_is_permitted_by_default(path: Path) -> None:
    """Every action by its full commit with the version beside it; rights are given to jobs, one by one."""
    text = path.read_text()
    assert yaml.safe_load(text)["permissions"] == {}
    for used in re.findall(r"uses: (?!\./)(.+)$", text, re.MULTILINE):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", used), used
