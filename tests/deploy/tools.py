"""Programs and schemas for these tests, from Go's module index: built or unpacked once, kept in the tests' cache.

Nothing fetched is part of the repository. What cannot be had here raises Unavailable, and its tests are skipped.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.java import Unavailable

#: Program -> where Go builds it from. Versions that Go 1.25 can build.
PROGRAMS = {
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.19.0",
    "amtool": "github.com/prometheus/alertmanager/cmd/amtool@v0.28.1",
    "kube-score": "github.com/zegl/kube-score/cmd/kube-score@v1.20.0",
}
#: Project -> the module that holds its custom resource definitions, and where in it.
DEFINITIONS = {
    "keda": ("github.com/kedacore/keda/v2@v2.21.0", "config/crd/bases/keda.sh_*.yaml"),
    "istio": ("istio.io/api@v1.31.1", "kubernetes/customresourcedefinitions.gen.yaml"),
    "prometheus-operator": (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_*.yaml",
    ),
    "external-secrets": ("github.com/external-secrets/external-secrets@v1.3.2", "config/crds/bases/*.yaml"),
}
#: Seconds that all of this may take in one run; Go keeps what it has built, so the next run goes on from there.
PATIENCE = 600.0
_spent: list[float] = []


def cache_folder() -> Path:
    """Returns the folder that outlives the tests: STREAMS_TEST_CACHE, else one in the user's cache."""
    return Path(os.environ.get("STREAMS_TEST_CACHE") or Path.home() / ".cache" / "sentence-streams-tests")


@cache
def program(name: str) -> str:
    """Returns the path of a program, built if it is neither installed nor in the cache; raises Unavailable."""
    if installed := shutil.which(name):
        return installed
    module = PROGRAMS[name]
    folder = cache_folder() / "go" / module.rsplit("/", 1)[-1]
    if not (folder / name).exists():
        _go(["install", module], {"GOBIN": str(folder)}, f"{name} is not installed, and Go cannot build it")
    return str(folder / name)


@cache
def source(project: str) -> Path:
    """Returns the unpacked folder of a project of DEFINITIONS; raises Unavailable."""
    told = _go(["mod", "download", "-json", DEFINITIONS[project][0]], {}, f"the sources of {project} cannot be had")
    return Path(json.loads(told)["Dir"])


@cache
def schemas(project: str) -> Path:
    """Returns a folder of JSON schemas, `Kind-group-version.json`, of a project's custom resources; strict ones."""
    module, pattern = DEFINITIONS[project]
    folder = cache_folder() / "schemas" / f"{project}-{module.rsplit('@', 1)[-1]}"
    if not folder.is_dir():
        staging = folder.with_name(f"{folder.name}.{os.getpid()}")
        staging.mkdir(parents=True)
        for path in source(project).glob(pattern):
            for name, schema in _definitions(path):
                (staging / name).write_text(json.dumps(schema))
        staging.rename(folder)
    return folder


def _definitions(path: Path) -> Iterator[tuple[str, Any]]:
    for crd in yaml.load_all(path.read_text(), yaml.CSafeLoader):
        if not crd or crd.get("kind") != "CustomResourceDefinition":
            continue
        for version in crd["spec"]["versions"]:
            kind, group = crd["spec"]["names"]["kind"].lower(), crd["spec"]["group"]
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {"metadata": {"type": "object"}}
            schema["properties"] |= {name: {"type": "string"} for name in ("apiVersion", "kind")}
            yield f"{kind}-{group}-{version['name']}.json", schema


def strict(schema: Any) -> Any:
    """Returns an OpenAPI schema as a JSON schema that refuses fields nobody knows, as a strict API server does."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: strict(value) for name, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    known = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if known and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def _go(arguments: list[str], environment: Mapping[str, str], lack: str) -> str:
    go = shutil.which("go")
    if go is None:
        raise Unavailable(f"{lack}: no Go here")
    cache_folder().mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        done = subprocess.run(
            [go, *arguments], env={**os.environ, **environment}, cwd=cache_folder(), capture_output=True, text=True,
            check=False, timeout=max(1.0, PATIENCE - sum(_spent)),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{lack}: not done after {PATIENCE:.0f} s; run again to go on from there") from None
    finally:
        _spent.append(time.monotonic() - started)
    if done.returncode:
        raise Unavailable(f"{lack}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return done.stdout
