"""The manifests as a cluster would get them: read from their files, built by kustomize, rendered by Helm."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.deploy import tools
from tests.support.java import Unavailable

ROOT = Path(__file__).parents[2]
T = TypeVar("T")
Manifest = dict[str, Any]
#: The version of Kubernetes that everything is checked against.
KUBERNETES = "1.34.0"


def load(text: str) -> list[Manifest]:
    """Every object of a YAML text."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def files(*folders: str) -> Iterator[Path]:
    """Every YAML file below these folders of the repository."""
    for folder in folders:
        yield from sorted(path for path in (ROOT / folder).rglob("*.yaml") if path.is_file())


def keda() -> list[Manifest]:
    """The scaled objects as they lie in keda/, without any overlay."""
    return [item for path in sorted((ROOT / "keda").glob("*.yaml")) for item in load(path.read_text())]


@cache
def built(folder: str) -> tuple[Manifest, ...]:
    """What `kustomize build` makes of a folder; skips the test where there is no kustomize."""
    return tuple(load(_run(*_had(tools.kustomize), str(ROOT / folder))))


@cache
def rendered(*arguments: str) -> tuple[Manifest, ...]:
    """What `helm template` makes of the chart, released as sentence-streams; skips the test where there is no Helm."""
    chart = str(ROOT / "k8s/helm")
    options = ("--namespace", "sentence-streams", "--kube-version", KUBERNETES, *arguments)
    return tuple(load(_run(program("helm"), "template", "sentence-streams", chart, *options)))


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def program(name: str) -> str:
    """The path of a program of `tools`; skips the test where it cannot be had."""
    return _had(lambda: tools.program(name))


def _had(get: Callable[[], T]) -> T:
    try:
        return get()
    except Unavailable as lack:
        pytest.skip(str(lack))


def of_kind(kind: str, manifests: Iterator[Manifest] | tuple[Manifest, ...] | list[Manifest]) -> dict[str, Manifest]:
    """The objects of a kind, by name."""
    return {item["metadata"]["name"]: item for item in manifests if item["kind"] == kind}


def environment(pod: Mapping[str, Any], manifests: tuple[Manifest, ...]) -> dict[str, str]:
    """The variables of a pod's first container, those of its config maps resolved; secrets are left out."""
    container, maps = pod["containers"][0], of_kind("ConfigMap", manifests)
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]["data"]
    return found | {item["name"]: item["value"] for item in container.get("env", ()) if "value" in item}
