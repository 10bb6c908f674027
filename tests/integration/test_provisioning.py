"""Provisioning against a real Kafka."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import AdminClient, ClusterMetadata, NewTopic

from streams.brokers.admin import (
    CannotShrink,
    ProvisioningFailed,
    TopicSpec,
    TopicState,
    connect,
    describe,
    provision,
)
from tests.support.kafka import HasBrokers, Kafka, create_topics, unique

COMPACT = {"cleanup.policy": "compact", "max.message.bytes": "1064000"}


def state(kafka: HasBrokers, topic: str) -> TopicState:
    """Returns the state of a topic that exists."""
    found = describe(kafka.bootstrap_servers, [topic])[topic]
    assert found is not None
    return found


def test_creates_what_is_missing(kafka: Kafka) -> None:
    """A missing topic is made with its partitions, replicas and configuration, and reported as created."""
    spec = TopicSpec(unique("created"), 3, 1, COMPACT)
    assert describe(kafka.bootstrap_servers, [spec.name]) == {spec.name: None}
    (done,) = provision(kafka.bootstrap_servers, [spec])
    assert str(done) == f"{spec.name}: created"
    found = state(kafka, spec.name)
    assert (found.partitions, found.replication) == (3, 1)
    assert {name: found.config[name] for name in COMPACT} == COMPACT


def test_a_second_run_changes_nothing(kafka: Kafka) -> None:
    """Provisioning what is already so reports every topic as unchanged, in the order asked for."""
    specs = [TopicSpec(unique("b"), 2, 1, COMPACT), TopicSpec(unique("a"), 1)]
    provision(kafka.bootstrap_servers, specs)
    assert [str(done) for done in provision(kafka.bootstrap_servers, specs)] == [
        f"{spec.name}: unchanged" for spec in specs
    ]


def test_grows_partitions(kafka: Kafka) -> None:
    """A topic with too few partitions gets the missing ones, and says from what to what."""
    topic = unique("grown")
    create_topics(kafka, {topic: 4})
    (done,) = provision(kafka.bootstrap_servers, [TopicSpec(topic, 8)])
    assert str(done) == f"{topic}: grown 4->8"
    assert state(kafka, topic).partitions == 8


def test_refuses_to_shrink_and_touches_nothing(kafka: Kafka) -> None:
    """Too many partitions on one topic stop the whole run before any topic is made or changed."""
    wide, other, missing = unique("wide"), unique("other"), unique("missing")
    create_topics(kafka, {wide: 8, other: 1})
    specs = [TopicSpec(missing, 1), TopicSpec(other, 2, 1, COMPACT), TopicSpec(wide, 4)]
    with pytest.raises(CannotShrink) as refusal:
        provision(kafka.bootstrap_servers, specs)
    assert (refusal.value.topic, refusal.value.has, refusal.value.wanted) == (wide, 8, 4)
    assert describe(kafka.bootstrap_servers, [missing])[missing] is None
    assert state(kafka, other).partitions == 1
    assert state(kafka, other).config["cleanup.policy"] == "delete"


def test_changes_only_the_configuration_that_differs(kafka: Kafka) -> None:
    """A differing setting is changed and reported with both values; settings nobody mentions stay."""
    topic = unique("configured")
    create_topics(kafka, {topic: 1}, retention_ms="60000", segment_bytes="2000000")
    (done,) = provision(kafka.bootstrap_servers, [TopicSpec(topic, 1, 1, {"retention.ms": "120000"})])
    assert str(done) == f"{topic}: config changed retention.ms 60000->120000"
    config = state(kafka, topic).config
    assert (config["retention.ms"], config["segment.bytes"]) == ("120000", "2000000")


def test_tells_of_a_replication_it_leaves(kafka: Kafka) -> None:
    """Replicas that differ are reported and left: moving data is not for provisioning."""
    topic = unique("replicated")
    create_topics(kafka, {topic: 1})
    (done,) = provision(kafka.bootstrap_servers, [TopicSpec(topic, 1, 3)])
    assert str(done) == f"{topic}: replication left at 1 (wanted 3)"


@pytest.mark.parametrize(
    ("replication", "config", "reason"),
    [(3, {}, "[Rr]eplication"), (1, {"no.such.setting": "1"}, "no.such.setting")],
)
def test_the_brokers_reason_is_passed_on(kafka: Kafka, replication: int, config: dict[str, str], reason: str) -> None:
    """What the broker refuses to make fails with the topic's name and the broker's own reason."""
    spec = TopicSpec(unique("refused"), 1, replication, config)
    with pytest.raises(ProvisioningFailed, match=f"cannot create topic {spec.name}: .*{reason}"):
        provision(kafka.bootstrap_servers, [spec])


def test_a_bad_change_is_refused_with_its_reason(kafka: Kafka) -> None:
    """A setting's value that the broker does not take fails with the topic's name."""
    topic = unique("misconfigured")
    create_topics(kafka, {topic: 1})
    with pytest.raises(ProvisioningFailed, match=f"cannot configure topic {topic}: .*retention.ms"):
        provision(kafka.bootstrap_servers, [TopicSpec(topic, 1, 1, {"retention.ms": "soon"})])


def test_two_at_once_do_no_harm(kafka: Kafka) -> None:
    """Several workers that provision together all succeed, and each topic is created once."""
    specs = [TopicSpec(unique("raced"), 2, 1, COMPACT) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: provision(kafka.bootstrap_servers, specs), range(4)))
    for each in zip(*runs, strict=True):
        assert sum(done.created for done in each) == 1
        assert all(str(done).endswith((": created", ": unchanged")) for done in each)


def test_two_that_grow_at_once_do_no_harm(kafka: Kafka) -> None:
    """Several workers that add the same partitions all succeed, and the topic has as many as wanted."""
    topic = unique("raced")
    create_topics(kafka, {topic: 1})
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: provision(kafka.bootstrap_servers, [TopicSpec(topic, 5)]), range(4)))
    assert {str(done) for (done,) in runs} <= {f"{topic}: grown 1->5", f"{topic}: unchanged"}
    assert state(kafka, topic).partitions == 5


def test_a_topic_made_meanwhile_is_not_an_error(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that appears between the look and the creation is brought up to date like any other."""
    spec = TopicSpec(unique("overtaken"), 4)
    admin = connect(kafka.bootstrap_servers)
    create = AdminClient.create_topics

    def overtaken(self: AdminClient, topics: list[NewTopic], **options: float) -> object:
        create(self, [NewTopic(spec.name, 1, 1)])[spec.name].result()
        return create(self, topics, **options)

    monkeypatch.setattr(AdminClient, "create_topics", overtaken)
    assert [str(done) for done in provision(admin, [spec])] == [f"{spec.name}: grown 1->4"]


def test_a_new_topic_is_ready_for_use(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provisioning returns only once the broker shows every partition with a leader: clients may start at once."""
    spec = TopicSpec(unique("ready"), 6)
    admin = connect(kafka.bootstrap_servers)
    before = admin.list_topics(timeout=5)
    look = AdminClient.list_topics
    answers = [before] * 5  # a broker whose metadata lags behind what it has done
    seen = []

    def lagging(self: AdminClient, timeout: float) -> ClusterMetadata:
        seen.append(answers.pop() if answers else look(self, timeout=timeout))
        return seen[-1]

    monkeypatch.setattr(AdminClient, "list_topics", lagging)
    provision(admin, [spec])
    assert [partition.leader for partition in seen[-1].topics[spec.name].partitions.values()] == [1] * 6
