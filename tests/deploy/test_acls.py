"""The rights of k8s/strimzi/users.yaml, on a real broker that enforces them: enough for each user, and no more."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from agents.provision import run as provision
from streams.settings import PREFIX, load
from tests.deploy.manifests import ROOT, of_kind
from tests.deploy.manifests import load as parse
from tests.support.java import Unavailable, free_ports
from tests.support.kafka import Kafka, server_properties
from tests.support.stream import Program, encoded, read, wait_until

pytestmark = pytest.mark.kafka
USERS = of_kind("KafkaUser", parse((ROOT / "k8s/strimzi/users.yaml").read_text()))
PASSWORD = "a password"
TYPES = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactionalId": ResourceType.TRANSACTIONAL_ID}
PATTERNS = {"literal": ResourcePatternType.LITERAL, "prefix": ResourcePatternType.PREFIXED}
OPERATIONS = {operation.name.replace("_", "").lower(): operation for operation in AclOperation}


class Guarded:
    """A broker with the users and their rights."""

    def __init__(self, folder: Path) -> None:
        port, controller, sasl = free_ports(3)
        properties = server_properties(folder, 1, port, controller, f"1@127.0.0.1:{controller}")
        for key in ("listeners", "advertised.listeners"):
            properties[key] = f"{properties[key]},SASL_PLAINTEXT://127.0.0.1:{sasl}"
        properties |= {
            "listener.security.protocol.map": f"{properties['listener.security.protocol.map']},"
            "SASL_PLAINTEXT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # who comes by the open listener: the broker itself, and this test
        }
        self.broker = Kafka(
            folder, port, properties, scram=[f"SCRAM-SHA-512=[name={user},password={PASSWORD}]" for user in USERS]
        )
        self.servers = f"127.0.0.1:{sasl}"

    def grant(self) -> None:
        """Gives every user the rights of the manifest."""
        bindings = [
            AclBinding(
                TYPES[rule["resource"]["type"]], rule["resource"]["name"], PATTERNS[rule["resource"]["patternType"]],
                f"User:{user}", "*", OPERATIONS[operation.lower()], AclPermissionType.ALLOW,
            )
            for user, item in USERS.items()
            for rule in item["spec"]["authorization"]["acls"]
            for operation in rule["operations"]
        ]  # fmt: skip
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap_servers})
        for future in admin.create_acls(bindings).values():
            future.result(30)

    def settings(self, user: str, **more: Any) -> dict[str, Any]:
        """The settings of whoever logs in as this user."""
        return {
            "bootstrap_servers": self.servers,
            "kafka_security_protocol": "SASL_PLAINTEXT",
            "kafka_sasl_mechanism": "SCRAM-SHA-512",
            "kafka_sasl_username": user,
            "kafka_sasl_password": PASSWORD,
            "partitions": 4,
            "model": "deterministic",
            **more,
        }

    def admin(self, user: str) -> AdminClient:
        """An admin client of this user."""
        return AdminClient(
            {
                "bootstrap.servers": self.servers,
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": user,
                "sasl.password": PASSWORD,
                "log_level": 0,
            }
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The broker, its users, and the stream's topics, which the provisioning user made."""
    try:
        guarded = Guarded(tmp_path_factory.mktemp("guarded"))
    except Unavailable as lack:
        pytest.skip(f"no real Kafka: {lack}")
    try:
        guarded.broker.start()
        guarded.grant()
        provision(load(**guarded.settings("sentence-streams-provision")), dry_run=False, as_json=True)
        yield guarded
    finally:
        guarded.broker.stop()


def test_the_stream_may_do_its_work(guarded: Guarded, tmp_path: Path) -> None:
    """A worker in transactions and a scorer without them answer, with the rights of one user."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    programs = []
    for name, delivery in (("worker", "exactly_once"), ("score", "at_least_once")):
        settings = guarded.settings("sentence-streams", delivery=delivery)
        environment = ours | {PREFIX + key.upper(): str(value) for key, value in settings.items()}
        programs.append(Program(name, environment, tmp_path / f"{name}.log"))
    try:
        for program in programs:
            program.ready()
        _produce(guarded, 20)
        wait_until(
            lambda: len(list(read(guarded.broker.bootstrap_servers, "sentence.scores"))) >= 20,
            "every sentence has a score",
        )
        assert not list(read(guarded.broker.bootstrap_servers, "sentence.dead-letters"))
    finally:
        for program in programs:
            program.leave()
            program.exit()


def _produce(guarded: Guarded, count: int) -> None:
    producer = Producer({"bootstrap.servers": guarded.broker.bootstrap_servers, "log_level": 0})
    for number in range(count):
        producer.produce("sentence.requests", encoded(number))
    assert producer.flush(30) == 0


def test_the_stream_makes_no_topic(guarded: Guarded) -> None:
    """That is the provisioning user's, and only below the stream's own prefix."""
    with pytest.raises(KafkaException, match="AUTHORIZATION"):
        _create(guarded.admin("sentence-streams"), "sentence.more")
    with pytest.raises(KafkaException, match="AUTHORIZATION"):
        _create(guarded.admin("sentence-streams-provision"), "somebody.elses")


def _create(admin: AdminClient, topic: str) -> None:
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)


def test_keda_sees_the_lag_and_nothing_else(guarded: Guarded) -> None:
    """It may ask for ends and committed offsets; a record it may not read, nor may it move an offset."""
    admin = guarded.admin("sentence-streams-keda")
    part = TopicPartition("sentence.requests", 0)
    assert admin.list_offsets({part: OffsetSpec.latest()})[part].result(30).offset >= 0
    group = ConsumerGroupTopicPartitions("sentence-streams", [part])
    (found,) = admin.list_consumer_group_offsets([group]).values()
    assert found.result(30).topic_partitions
    moved = ConsumerGroupTopicPartitions("sentence-streams", [TopicPartition("sentence.requests", 0, 0)])
    (refused,) = admin.alter_consumer_group_offsets([moved]).values()
    (told,) = refused.result(30).topic_partitions
    assert "AUTHORIZATION" in told.error.name()
