"""keda/: the scaled objects say what KEDA understands, and what the workers do."""

import re
from collections.abc import Iterator
from inspect import getsource
from typing import Any

import pytest
import yaml

from agents import transport
from agents.embed import group
from streams.lanes import LaneName
from streams.settings import Settings, load
from streams.topics import lanes
from tests.deploy import tools
from tests.deploy.keda_names import AUTHENTICATION, METADATA, VERSION
from tests.deploy.manifests import ROOT, Manifest, keda, of_kind
from tests.support.java import Unavailable

SCALED = of_kind("ScaledObject", keda())
#: Scaler -> the file of KEDA's source that reads its metadata.
SOURCES = {scaler: f"pkg/scalers/{scaler}_scaler.go" for scaler in ("kafka", "prometheus")} | {
    "cpu": "pkg/scalers/cpu_memory_scaler.go"
}


def patches() -> Iterator[Manifest]:
    """The triggers that the component keda/drain-time adds."""
    yield from (step["value"] for step in yaml.safe_load((ROOT / "keda/drain-time/worker.yaml").read_text()))


def triggers() -> list[Any]:
    found = [trigger for item in SCALED.values() for trigger in item["spec"]["triggers"]]
    return [pytest.param(item, id=item.get("name", item["type"])) for item in [*found, *patches()]]


def kafka_triggers(name: str) -> list[Any]:
    return [trigger for trigger in SCALED[name]["spec"]["triggers"] if trigger["type"] == "kafka"]


@pytest.mark.parametrize("trigger", triggers())
def test_keda_knows_every_key_of_a_trigger(trigger: Manifest) -> None:
    """A mistyped key, which KEDA would ignore, fails here; values are text, as the resource wants them."""
    known = METADATA[trigger["type"]]
    assert {key.removesuffix("FromEnv") for key in trigger["metadata"]} <= known
    assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_keda_knows_every_parameter_of_the_authentication() -> None:
    """A mistyped parameter would leave KEDA without its login."""
    file = ROOT / "keda/sasl-tls/trigger-authentication.yaml"
    named = {item["parameter"] for item in yaml.safe_load(file.read_text())["spec"]["secretTargetRef"]}
    assert named <= AUTHENTICATION["kafka"]
    assert {"sasl", "tls", "username", "password"} <= named


@pytest.mark.parametrize("scaler", SOURCES)
def test_the_lists_are_those_of_kedas_source(scaler: str) -> None:
    """The lists this suite trusts are what the named version of KEDA really reads."""
    try:
        code = (tools.source("keda") / SOURCES[scaler]).read_text()
    except Unavailable as lack:
        pytest.skip(str(lack))
    assert tools.DEFINITIONS["keda"][0].endswith(VERSION)
    metadata, authentication = set(), set()
    for tag in re.findall(r'`keda:"([^"]*)"`', code):
        fields = dict(part.strip().partition("=")[::2] for part in tag.split(","))
        if "name" in fields:
            orders = set(fields["order"].split(";"))
            metadata |= {fields["name"]} if "triggerMetadata" in orders else set()
            authentication |= {fields["name"]} if "authParams" in orders else set()
    assert metadata - {"type"} == METADATA[scaler]
    assert scaler not in AUTHENTICATION or authentication == AUTHENTICATION[scaler]


@pytest.mark.parametrize("name", SCALED)
def test_keda_takes_the_combination(name: str) -> None:
    """What KEDA itself refuses: bounds crossed, thresholds of nothing, two ways to spread partitions."""
    spec = SCALED[name]["spec"]
    assert 0 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]
    for trigger in kafka_triggers(name):
        metadata = trigger["metadata"]
        assert int(metadata["lagThreshold"]) > 0
        assert int(metadata["activationLagThreshold"]) >= 0
        spreads = ["allowIdleConsumers", "limitToPartitionsWithLag", "ensureEvenDistributionOfPartitions"]
        assert sum(metadata.get(key) == "true" for key in spreads) == 1


@pytest.mark.parametrize("name", [name for name in SCALED if not name.endswith("bridge")])
def test_a_partition_without_a_commit_lags_as_the_worker_reads_it(name: str) -> None:
    """KEDA's reset policy is the worker's: else it would see no lag where the worker reads from the beginning."""
    (policy,) = re.findall(r'auto_offset_reset="(\w+)"', getsource(transport))
    assert [trigger["metadata"]["offsetResetPolicy"] for trigger in kafka_triggers(name)] == [policy] * len(
        kafka_triggers(name)
    )


def watched(name: str) -> dict[str, str]:
    """Topic -> group, of a scaled object's triggers."""
    return {trigger["metadata"]["topic"]: trigger["metadata"]["consumerGroup"] for trigger in kafka_triggers(name)}


def test_the_worker_is_scaled_by_its_own_topics_and_group() -> None:
    """One trigger for each topic that a worker with the default lanes reads, and its group."""
    settings = Settings()
    assert watched("sentence-streams-worker") == {lane.topic: group(settings) for lane in lanes(settings)}


def test_the_replay_worker_is_scaled_by_the_replay_lane() -> None:
    """The replay lane has a group of its own, and nothing runs while nobody replays."""
    settings = load(lanes=(LaneName.REPLAY,))
    assert watched("sentence-streams-worker-replay") == {settings.topic_replay: group(settings)}
    assert SCALED["sentence-streams-worker-replay"]["spec"]["minReplicaCount"] == 0
    assert SCALED["sentence-streams-worker"]["spec"]["minReplicaCount"] >= 1


def test_the_scorer_is_scaled_by_the_embeddings() -> None:
    """The scorer's group is the worker's with a suffix."""
    settings = Settings()
    assert watched("sentence-streams-score") == {settings.topic_embeddings: f"{settings.group}-score"}


@pytest.mark.parametrize("name", [name for name in SCALED if not name.endswith("bridge")])
def test_scaling_out_is_fast_and_scaling_in_is_slow(name: str) -> None:
    """Each step in is a rebalance: it waits for minutes, and then takes few steps."""
    behavior = SCALED[name]["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    up, down = (min(rule["periodSeconds"] for rule in behavior[way]["policies"]) for way in ("scaleUp", "scaleDown"))
    assert up * 8 <= down


def test_brokers_that_do_not_answer_keep_what_runs() -> None:
    """Where KEDA cannot see the lag, nobody is scaled in."""
    for name, item in SCALED.items():
        if kafka_triggers(name):
            assert item["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
