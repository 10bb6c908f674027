"""EmbeddedBroker: a broker without an installation."""

import socket

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streams.brokers.admin import TopicSpec, describe, provision
from streams.brokers.embedded import EmbeddedBroker
from tests.support.kafka import unique


async def test_records_pass_through(embedded_broker: EmbeddedBroker) -> None:
    """What one client produces another consumes."""
    topic = unique("embedded")
    servers = embedded_broker.bootstrap_servers
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        await producer.send_and_wait(topic, b"hello", partition=2)
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        record = await consumer.getone()
    assert (record.partition, record.value) == (2, b"hello")


def test_nothing_is_printed_and_nothing_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    """Starting and stopping writes nothing to the terminal, and afterwards nobody listens any more."""
    with EmbeddedBroker() as broker:
        host, port = broker.bootstrap_servers.split(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
    assert capfd.readouterr() == ("", "")


def test_provision_makes_topics_on_it(embedded_broker: EmbeddedBroker) -> None:
    """Provisioning makes the topics and leaves everything else to the broker; a second run changes nothing."""
    spec = TopicSpec(unique("embedded"), partitions=16, config={"cleanup.policy": "compact"})
    servers = embedded_broker.bootstrap_servers
    assert describe(servers, [spec.name]) == {spec.name: None}
    assert [str(done) for done in provision(servers, [spec])] == [f"{spec.name}: created"]
    assert [str(done) for done in provision(servers, [spec])] == [f"{spec.name}: unchanged"]
    state = describe(servers, [spec.name])[spec.name]
    assert state is not None
    assert (state.partitions, state.replication, state.config) == (4, 1, {})
