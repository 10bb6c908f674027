"""k8s/strimzi: the code's topics, and users that may do what the code does and nothing more."""

import pytest

from agents.embed import group
from streams.lanes import LaneName
from streams.settings import Settings, load
from streams.topics import specs
from tests.deploy.manifests import ROOT, Manifest, of_kind
from tests.deploy.manifests import load as parse

#: Both kinds have no definition that a package index would carry: every field they may have, from Strimzi's reference.
FIELDS = {
    "KafkaTopic": {"partitions", "replicas", "config", "topicName"},
    "KafkaUser": {"authentication", "authorization", "quotas", "template"},
}
MANIFESTS = [item for path in ("topics", "users") for item in parse((ROOT / f"k8s/strimzi/{path}.yaml").read_text())]
TOPICS, USERS = of_kind("KafkaTopic", MANIFESTS), of_kind("KafkaUser", MANIFESTS)


def acls(user: str) -> list[Manifest]:
    return USERS[user]["spec"]["authorization"]["acls"]


@pytest.mark.parametrize("item", MANIFESTS, ids=lambda item: f"{item['kind']}/{item['metadata']['name']}")
def test_every_field_is_one_of_strimzis(item: Manifest) -> None:
    """A mistyped field would be dropped by the cluster."""
    assert item["apiVersion"] == "kafka.strimzi.io/v1"
    assert item["spec"].keys() <= FIELDS[item["kind"]]
    assert item["metadata"]["labels"]["strimzi.io/cluster"]


def test_the_topics_are_those_of_the_code() -> None:
    """Names, partitions, replicas and configuration, as `provision` would make them with the production settings."""
    wanted = {spec.name: spec for spec in specs(load(partitions=24, replication=3))}
    assert TOPICS.keys() == wanted.keys()
    for name, spec in wanted.items():
        found = TOPICS[name]["spec"]
        assert (found["partitions"], found["replicas"]) == (spec.partitions, spec.replication)
        config = {key: str(value) for key, value in found["config"].items()}
        assert config.pop("min.insync.replicas") == "2"
        assert config == spec.config


def test_the_stream_may_use_every_topic_and_make_none() -> None:
    """Records are written to every topic, and rights end there."""
    granted = {rule["resource"]["name"]: set(rule["operations"]) for rule in acls("sentence-streams")}
    assert all("Write" in granted[name] for name in TOPICS)
    assert {operation for rule in granted.values() for operation in rule} == {"Read", "Write", "Describe"}


@pytest.mark.parametrize("user", ["sentence-streams", "sentence-streams-keda"])
def test_the_groups_are_those_of_the_code(user: str) -> None:
    """The prefix covers the groups of worker, replay worker and scorer."""
    (rule,) = [rule for rule in acls(user) if rule["resource"]["type"] == "group"]
    groups = [group(Settings()), group(load(lanes=(LaneName.REPLAY,))), f"{Settings().group}-score"]
    assert rule["resource"]["patternType"] == "prefix"
    assert all(each.startswith(rule["resource"]["name"]) for each in groups)


def test_keda_reads_nothing() -> None:
    """It asks how far a group is, and can do nothing else."""
    assert {operation for rule in acls("sentence-streams-keda") for operation in rule["operations"]} == {"Describe"}
