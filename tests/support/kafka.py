"""A real Apache Kafka for the tests: one broker, three, or a container."""

import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from streams.brokers.admin import TopicSpec, provision
from tests.support.java import JVM, JavaProcess, Unavailable, fetch, free_ports, java

CLUSTER_ID = "c2VudGVuY2Utc3RyZWFtcw"
QUIET = "-Dorg.apache.logging.log4j.level=WARN"

Properties = dict[str, str | int]


class HasBrokers(Protocol):
    """Anything that clients can reach."""

    bootstrap_servers: str


def unique(name: str) -> str:
    """Returns a topic or group name that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def create_topics(kafka: HasBrokers, topics: Mapping[str, int], **config: str) -> None:
    """Makes topics, name -> partitions; `config` with underscores for dots (`retention_ms="1"`)."""
    settings = {name.replace("_", "."): value for name, value in config.items()}
    replication = min(3, len(kafka.bootstrap_servers.split(",")))
    provision(
        kafka.bootstrap_servers,
        [TopicSpec(name, count, replication, settings) for name, count in topics.items()],
    )


def configure(kafka: HasBrokers, topic: str, settings: Mapping[str, str]) -> None:
    """Changes settings of a topic."""
    changes = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in settings.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=changes)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


def server_properties(
    folder: Path, node: int, port: int, controller: int, voters: str, replication: int = 1
) -> Properties:
    """Returns the server.properties of one node, broker and controller in one; data lies in `folder`/data."""
    in_sync = max(1, replication - 1)
    return {
        "process.roles": "broker,controller",
        "node.id": node,
        "controller.quorum.voters": voters,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "default.replication.factor": replication,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replication,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": replication,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": replication,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,  # a test of a killed worker need not wait 6 s for its partitions
        "auto.create.topics.enable": "false",
        "log.cleaner.backoff.ms": 100,  # a test of compacted input need not wait 15 s for it
    }


class Kafka(JavaProcess):
    """One broker on loopback; `start()` after `stop()` or `kill()` keeps its port and its data."""

    def __init__(
        self,
        folder: Path,
        port: int,
        properties: Properties,
        jvm: Sequence[str] = ("-Xmx512m",),
        scram: Sequence[str] = (),
    ) -> None:
        self.bootstrap_servers = f"127.0.0.1:{port}"
        #: For Kafka's own tools, as in `java -cp CLASSPATH org.apache.kafka.tools.ConsoleProducer`.
        self.classpath = f"{fetch('kafka')}/*"
        config = folder / "server.properties"
        arguments = [*JVM, QUIET, *jvm, "-cp", self.classpath, "kafka.Kafka", str(config)]
        super().__init__(arguments, folder, self._answers_metadata)
        config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        self._format(config, scram)

    def _format(self, config: Path, scram: Sequence[str]) -> None:
        command = [java(), *JVM, QUIET, "-cp", self.classpath, "kafka.tools.StorageTool", "format"]
        command += ["-t", CLUSTER_ID, "-c", str(config)]
        for credential in scram:
            command += ["--add-scram", credential]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"cannot format the storage of {config}:\n{done.stdout}{done.stderr}")

    def _answers_metadata(self) -> bool:
        try:
            admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
            return bool(admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False


def single(folder: Path) -> Kafka:
    """Returns one open broker, formatted and not started yet; raises Unavailable."""
    port, controller = free_ports(2)
    voters = f"1@127.0.0.1:{controller}"
    return Kafka(folder, port, server_properties(folder, 1, port, controller, voters))


class KafkaCluster:
    """Three brokers; each of `brokers` can be stopped, killed and frozen on its own."""

    def __init__(self, folder: Path) -> None:
        ports, controllers = free_ports(3), free_ports(3)
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in enumerate(controllers, 1))
        self.brokers = [
            Kafka(
                folder / f"broker-{node}",
                port,
                server_properties(folder / f"broker-{node}", node, port, controller, voters, replication=3),
                jvm=["-Xmx320m"],
            )
            for node, (port, controller) in enumerate(zip(ports, controllers, strict=True), 1)
        ]
        self.bootstrap_servers = ",".join(broker.bootstrap_servers for broker in self.brokers)

    def start(self) -> None:
        """Starts all three, each waiting for the others, and returns when all answer."""
        for broker in self.brokers:
            broker.spawn()
        for broker in self.brokers:
            broker.wait()

    def stop(self) -> None:
        """Ends all three by force: a clean stop would wait for a majority that is leaving too."""
        for broker in self.brokers:
            broker.kill()


class ContainedKafka:
    """A broker in a container, where there is Docker but no Java: it can be frozen, not restarted."""

    def __init__(self, container: Any) -> None:
        self.bootstrap_servers: str = container.get_bootstrap_server()
        self._container = container.get_wrapped_container()

    def pause(self) -> None:
        """Freezes it."""
        self._container.pause()

    def resume(self) -> None:
        """Lets a frozen one run on."""
        self._container.unpause()

    def start(self) -> None:
        """Skips the test: a restarted container would answer on another port."""
        pytest.skip("this test restarts its broker: it needs Java and Maven, not a container")

    stop = kill = start


def container() -> Any:
    """Returns a Kafka container that is not started yet; raises Unavailable without a Docker engine."""
    from testcontainers.community.kafka import KafkaContainer

    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        raise Unavailable("no Docker engine answers")
    settings = {
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_LOG_CLEANER_BACKOFF_MS": "100",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    }
    return KafkaContainer().with_kraft().with_envs(**settings)
