"""What a cluster is handed is valid, strictly, and hardened; judged by the tools of the people who run clusters."""

import os
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from agents import cli
from tests.deploy import tools
from tests.deploy.manifests import KUBERNETES, ROOT, Manifest, built, of_kind, program, rendered
from tests.support.java import Unavailable

OVERLAYS = ("k8s/overlays/production", "k8s/overlays/dev")
#: What an operator may add, each on its own.
PARTS = tuple(
    path.parent.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "k8s").glob("*/kustomization.yaml"))
    if path.parent.name != "base"
)
#: What an overlay may add to itself, beside what production has; its model comes from one place.
COMPONENTS = ("keda/drain-time", "k8s/components/istio-sidecar", "k8s/components/batches")
MODELS = ("k8s/components/model-volume", "k8s/components/model-fetch")
#: Group of a custom resource -> the project whose definitions describe it.
PROJECTS = {
    "keda.sh": "keda",
    "networking.istio.io": "istio",
    "security.istio.io": "istio",
    "telemetry.istio.io": "istio",
    "monitoring.coreos.com": "prometheus-operator",
    "external-secrets.io": "external-secrets",
}
#: Groups whose definitions cannot be had from a package index in reasonable time; test_strimzi.py looks at the first.
UNDESCRIBED = {"kafka.strimzi.io", "argoproj.io"}


def group(item: Manifest) -> str:
    return item["apiVersion"].rpartition("/")[0]


def native(item: Manifest) -> bool:
    return group(item) not in PROJECTS.keys() | UNDESCRIBED


@pytest.fixture(scope="module")
def native_schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kubernetes' schemas, from the package that bundles them, with references that need no network."""
    folder = tmp_path_factory.mktemp("kubernetes")
    bundled = files("kubernetes_validate") / f"kubernetes-json-schema/v{KUBERNETES}-local-strict"
    for file in bundled.iterdir():
        text = file.read_text().replace('"/api/_definitions.json#', '"_definitions.json#')
        (folder / file.name).write_text(re.sub(r',\s*"\$id": "[^"]*"', "", text))
    return folder


@pytest.mark.parametrize("folder", [*OVERLAYS, *PARTS])
def test_native_kinds_are_valid_and_every_field_is_known(folder: str) -> None:
    """kubernetes-validate, strict: a misplaced or mistyped field is an error."""
    for item in filter(native, built(folder)):
        kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("folder", [*OVERLAYS, *PARTS])
def test_kubeconform_finds_nothing(folder: str, native_schemas: Path, tmp_path: Path) -> None:
    """kubeconform, strict: native kinds, and custom ones against the definitions of the projects they come from."""
    conform(built(folder), native_schemas, tmp_path / "all.yaml")


def test_the_chart_conforms_with_everything_on(native_schemas: Path, tmp_path: Path) -> None:
    """What only the chart has (the Prometheus operator's kinds, pull secrets, cloud roles, a digest) is valid, too."""
    options = ("imagePullSecrets[0].name=pull", "serviceAccount.annotations.role=one", "monitoring.enabled=true")
    chosen = ("--set", ",".join([*options, f"image.digest=sha256:{'0' * 64}"]))
    assert {"PodMonitor", "PrometheusRule"} <= {item["kind"] for item in rendered(*chosen)}
    conform(rendered(*chosen), native_schemas, tmp_path / "all.yaml")


def conform(manifests: tuple[Manifest, ...], native_schemas: Path, text: Path) -> None:
    """Fails where kubeconform finds a field that is none, or has another type."""
    locations = [f"{native_schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"]
    for project in sorted({PROJECTS[group(item)] for item in manifests if group(item) in PROJECTS}):
        try:
            schemas = tools.schemas(project)
        except Unavailable as lack:
            pytest.skip(str(lack))
        locations.append(f"{schemas}/{{{{.ResourceKind}}}}-{{{{.Group}}}}-{{{{.ResourceAPIVersion}}}}.json")
    text.write_text(yaml.safe_dump_all(manifests))
    command = [program("kubeconform"), "-strict", "-output", "json", "-kubernetes-version", KUBERNETES]
    for location in locations:
        command += ["-schema-location", location]
    if left_out := sorted({item["kind"] for item in manifests if group(item) in UNDESCRIBED}):
        command += ["-skip", ",".join(left_out)]
    done = subprocess.run([*command, str(text)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("models", MODELS)
def test_every_component_fits_onto_production(models: str, tmp_path: Path) -> None:
    """What an overlay may add (drain time, sidecar, a model) changes what it means to, and stays valid."""
    folders = ("k8s/overlays/production", *COMPONENTS, models)
    base, *components = (os.path.relpath(ROOT / name, tmp_path) for name in folders)
    kustomization = {"kind": "Kustomization", "resources": [base], "components": components}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    manifests = built(str(tmp_path))
    for item in filter(native, manifests):
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    worker = of_kind("ScaledObject", manifests)["sentence-streams-worker"]["spec"]
    assert [trigger["type"] for trigger in worker["triggers"]] == ["kafka", "kafka", "prometheus", "prometheus"]
    assert all("authenticationRef" in trigger for trigger in worker["triggers"][:2])
    pods = {name: item["spec"]["template"] for name, item in of_kind("Deployment", manifests).items()}
    assert pods["sentence-streams-bridge"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    worker_pod = pods["sentence-streams-worker"]["spec"]
    assert "models" in {volume["name"] for volume in worker_pod["volumes"]}
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in worker_pod["containers"][0]["volumeMounts"]
    (batch,) = of_kind("CronJob", manifests)["sentence-streams-batch"]["spec"]["jobTemplate"]["spec"]["template"][
        "spec"
    ]["containers"]
    assert batch["args"][0] in typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert of_kind("NetworkPolicy", manifests)["model-hub"]["spec"]["policyTypes"] == ["Egress"]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_kube_score_finds_nothing_critical(folder: str, tmp_path: Path) -> None:
    """kube-score: probes, resources, security contexts, disruption budgets, image tags."""
    text = tmp_path / "all.yaml"
    ours = [item for item in built(folder) if native(item) and item["metadata"].get("namespace") == "sentence-streams"]
    text.write_text(yaml.safe_dump_all(ours))
    command = [program("kube-score"), "score", "--output-format", "ci"]
    command += ["--ignore-container-cpu-limit"]  # on purpose: throttled heartbeats lose partitions
    command += ["--ignore-test", "container-image-pull-policy"]  # a version or a digest never changes what it means
    done = subprocess.run([*command, str(text)], capture_output=True, text=True, check=False)
    critical = [line for line in done.stdout.splitlines() if line.startswith("[CRITICAL]")]
    assert done.stdout
    assert not critical


def test_helm_lint_finds_nothing() -> None:
    """Helm's own checks of the chart, its schema included."""
    command = [program("helm"), "lint", "--strict", "--kube-version", KUBERNETES, str(ROOT / "k8s/helm")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
