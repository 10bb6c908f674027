"""Manifests and code say the same: settings, commands, ports, probes, topics, groups, times."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
import typer
from prometheus_client import CollectorRegistry

from agents import cli
from agents.embed import group
from streams.observe.health import Check, HealthServer
from streams.settings import Settings, load, names
from streams.topics import lanes
from tests.deploy.manifests import Manifest, built, environment, of_kind

OVERLAYS = ("k8s/overlays/production", "k8s/overlays/dev")
WORKLOADS = ("worker", "worker-replay", "score", "trainer", "bridge")
RUNS = [*WORKLOADS, "provision", "migrate", "re-score"]
MOUNT = "/run/secrets"


def pods(folder: str) -> dict[str, dict[str, Any]]:
    """Component -> pod, of everything of ours that runs one."""
    found = {}
    for item in built(folder):
        component = item["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        if item["kind"] in {"Deployment", "Job", "CronJob"} and component:
            spec = item["spec"].get("jobTemplate", item)["spec"]
            found[component] = spec["template"]["spec"]
    return found


def container(folder: str, component: str) -> dict[str, Any]:
    (only,) = pods(folder)[component]["containers"]
    return only


def settings(folder: str, component: str, monkeypatch: pytest.MonkeyPatch, secrets: Path) -> Settings:
    """The settings a pod would have; what is mounted from secrets lies below `secrets`."""
    texts = {
        "redis/url": b"redis://redis:6379/0",
        "catalog/url": b"postgresql://u:p@db/streams",
        "kafka/ca.crt": trustme.CA().cert_pem.bytes(),
    }
    for name, value in environment(pods(folder)[component], built(folder)).items():
        if value.startswith(MOUNT):
            path = value.removeprefix(f"{MOUNT}/")
            (secrets / path).parent.mkdir(parents=True, exist_ok=True)
            (secrets / path).write_bytes(texts.get(path, b"anything"))
            value = str(secrets / path)
        monkeypatch.setenv(name, value)
    for item in container(folder, component).get("env", ()):
        if "secretKeyRef" in item.get("valueFrom", {}):
            monkeypatch.setenv(item["name"], "anything")
    return load()


def test_every_component_has_its_pods() -> None:
    """What follows looks at all of them."""
    assert set(pods(OVERLAYS[0])) == set(RUNS)


@pytest.mark.parametrize("component", RUNS)
@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_variable_is_a_setting(folder: str, component: str) -> None:
    """A renamed setting, or a typo, breaks this; secrets may come from files."""
    pod = container(folder, component)
    given = set(environment(pods(folder)[component], built(folder))) | {item["name"] for item in pod.get("env", ())}
    known = names()
    secrets = {f"{name}_FILE" for name, field in known.items() if "SecretStr" in str(field.annotation)}
    assert given - {"RUN"} <= set(known) | secrets


@pytest.mark.parametrize("component", RUNS)
@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_settings_load(folder: str, component: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each pod would start: every value is one that its setting takes, secrets and all."""
    found = settings(folder, component, monkeypatch, tmp_path)
    assert component == "migrate" or found.health_host == "0.0.0.0"  # it has no settings but the database


@pytest.mark.parametrize("component", RUNS)
def test_the_command_and_its_options_exist(component: str) -> None:
    """The command line understands what the container is told."""
    command, words = typer.main.get_command(cli.app), list(container(OVERLAYS[0], component)["args"])
    while hasattr(command, "commands"):  # a group, such as db
        command = command.commands[words.pop(0)]
    command.make_context("", words)


@pytest.mark.parametrize("component", WORKLOADS)
def test_ports_are_those_it_listens_on(component: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Named ports, probes and the network policies mean the port of the settings."""
    found = settings(OVERLAYS[0], component, monkeypatch, tmp_path)
    wanted = {"http": found.http_port} if component == "bridge" else {"health": found.health_port}
    pod = container(OVERLAYS[0], component)
    assert {port["name"]: port["containerPort"] for port in pod["ports"]} == wanted
    assert {pod[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "liveness", "readiness")} == set(wanted)
    metrics = of_kind("NetworkPolicy", built(OVERLAYS[0]))["metrics"]["spec"]["ingress"][0]["ports"]
    assert set(wanted.values()) <= {port["port"] for port in metrics}


async def test_probes_ask_pages_that_exist() -> None:
    """Each probe's path is one that a worker answers."""

    async def yes() -> Check:
        return Check(True, "")

    server = HealthServer("127.0.0.1", 0, CollectorRegistry(), live=yes, ready=yes, startup=yes)
    await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            for probe, page in (("startup", "startup"), ("liveness", "live"), ("readiness", "ready")):
                path = container(OVERLAYS[0], "worker")[f"{probe}Probe"]["httpGet"]["path"]
                assert path == f"/health/{page}"
                async with http.get(f"http://{server.address}{path}") as answer:
                    assert answer.status == 200
    finally:
        await server.stop()


@pytest.mark.parametrize("component", WORKLOADS)
@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_pod_may_finish_what_is_in_flight(
    folder: str, component: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Draining takes the drain time, committing may take it again; only then the pod is killed."""
    found = settings(folder, component, monkeypatch, tmp_path)
    assert pods(folder)[component]["terminationGracePeriodSeconds"] >= 2 * found.drain_timeout + 10


@pytest.mark.parametrize("component", ["worker", "worker-replay", "score", "trainer"])
def test_the_model_has_the_processors_the_pod_asks_for(component: str) -> None:
    """Without a CPU limit it would see the whole node's and start a thread for each."""
    cpu = container(OVERLAYS[0], component)["resources"]["requests"]["cpu"]
    assert environment(pods(OVERLAYS[0])[component], built(OVERLAYS[0]))["STREAMS_THREADS"] == cpu


def scaled(folder: str) -> dict[str, Manifest]:
    return of_kind("ScaledObject", built(folder))


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_deployment_has_one_autoscaler_and_no_replicas(folder: str) -> None:
    """Two autoscalers, or a number in the manifest, would undo what the first one does."""
    targets = [item["spec"]["scaleTargetRef"]["name"] for item in scaled(folder).values()]
    targets += [item["spec"]["scaleTargetRef"]["name"] for item in built(folder) if "Autoscaler" in item["kind"]]
    deployments = of_kind("Deployment", built(folder))
    assert sorted(targets) == sorted(deployments)
    assert not any("replicas" in item["spec"] for item in deployments.values())


def kafka_triggers(folder: str) -> Iterator[tuple[str, dict[str, str]]]:
    for item in scaled(folder).values():
        component = item["metadata"]["labels"]["app.kubernetes.io/component"]
        for trigger in item["spec"]["triggers"]:
            if trigger["type"] == "kafka":
                yield component, trigger["metadata"]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_keda_watches_what_the_pods_read(folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Brokers, topics and groups of the triggers are those of the settings of the pods they scale."""
    watched = {(name, trigger["topic"], trigger["consumerGroup"]) for name, trigger in kafka_triggers(folder)}
    read = set()
    for component in ("worker", "worker-replay", "score", "trainer"):
        with monkeypatch.context() as alone:
            found = settings(folder, component, alone, tmp_path)
        if component == "score":
            read.add((component, found.topic_embeddings, f"{found.group}-score"))
        elif component == "trainer":
            read.add((component, found.topic_training, f"{found.group}-train"))
        else:
            read |= {(component, lane.topic, group(found)) for lane in lanes(found)}
        assert all(trigger["bootstrapServers"] == found.bootstrap_servers for _, trigger in kafka_triggers(folder))
    assert watched == read


@pytest.mark.parametrize("folder", OVERLAYS)
def test_no_more_readers_than_partitions(folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A replica beyond the number of partitions would have nothing to read."""
    partitions = settings(folder, "worker", monkeypatch, tmp_path).partitions
    for item in scaled(folder).values():
        if any(trigger["type"] == "kafka" for trigger in item["spec"]["triggers"]):
            assert item["spec"]["maxReplicaCount"] <= partitions


@pytest.mark.parametrize("component", RUNS)
@pytest.mark.parametrize("folder", OVERLAYS)
def test_pods_are_restricted(folder: str, component: str) -> None:
    """Pod Security "restricted", a read-only root, and no way to the cluster's API."""
    pod, only = pods(folder)[component], container(folder, component)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert only["securityContext"]["allowPrivilegeEscalation"] is False
    assert only["securityContext"]["readOnlyRootFilesystem"] is True
    assert only["resources"]["limits"]["memory"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all({"emptyDir", "secret"} & volume.keys() for volume in pod["volumes"])


@pytest.mark.parametrize("folder", OVERLAYS)
def test_secrets_are_named_and_never_written(folder: str) -> None:
    """No object holds a secret: they come from files and references that somebody else fills."""
    assert not of_kind("Secret", built(folder))
    secret = {name for name, field in names().items() if "SecretStr" in str(field.annotation)}
    for component in RUNS:
        assert not secret & set(environment(pods(folder)[component], built(folder)))


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_deployment_has_a_disruption_budget_of_its_own_pods(folder: str) -> None:
    """A drain takes one pod at a time; the budget selects exactly what the Deployment does."""
    budgets = of_kind("PodDisruptionBudget", built(folder))
    for name, item in of_kind("Deployment", built(folder)).items():
        assert budgets[name]["spec"]["selector"] == item["spec"]["selector"]
