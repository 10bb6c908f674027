"""Every way to log in, against a real secured Kafka, with both clients the product uses."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from confluent_kafka import Consumer, Producer
from pydantic import SecretStr

from streams.brokers.admin import BrokerRefused, BrokerUnreachable, TopicSpec, connect, describe, provision
from streams.brokers.security import KafkaSecurity
from tests.support.kafka import create_topics, unique
from tests.support.secure_kafka import SecureKafka

Access = tuple[str, KafkaSecurity]

WAYS: dict[str, Callable[[SecureKafka], Access]] = {
    "SCRAM-SHA-512": lambda kafka: (kafka.sasl_servers, kafka.security("SCRAM-SHA-512")),
    "SCRAM-SHA-256": lambda kafka: (kafka.sasl_servers, kafka.security("SCRAM-SHA-256")),
    "PLAIN": lambda kafka: (kafka.sasl_servers, kafka.security("PLAIN")),
    "OAUTHBEARER": lambda kafka: (kafka.sasl_servers, kafka.security("OAUTHBEARER")),
    "mutual TLS": lambda kafka: (kafka.mutual_tls_servers, kafka.mutual_tls),
}


@pytest.fixture(params=WAYS)
def access(request: pytest.FixtureRequest, secure_kafka: SecureKafka) -> Access:
    """Where to connect, and with which settings: once for every way to log in."""
    return WAYS[request.param](secure_kafka)


@pytest.fixture
def topic(secure_kafka: SecureKafka) -> str:
    """A topic of this test's own."""
    name = unique("secured")
    create_topics(secure_kafka.broker, {name: 1})
    return name


@pytest.fixture
async def goodbyes() -> AsyncIterator[None]:
    """Waits until TLS connections have ended: that takes the broker's goodbye, and aiokafka does not wait for it."""
    yield
    async with asyncio.timeout(10):
        while any(map(_open, gc.get_objects())):
            await asyncio.sleep(0.02)


def _open(thing: object) -> bool:
    if not issubclass(type(thing), asyncio.Transport):  # isinstance asks the object, and torch has one that warns
        return False
    try:
        connection = thing.get_extra_info("socket")
    except AttributeError:  # a TLS layer that is done has let go of what it had
        return False
    return connection is not None and connection.fileno() != -1


def test_confluent_kafka_produces_and_consumes(access: Access, topic: str) -> None:
    """A record goes in and comes out through confluent-kafka."""
    servers, security = access
    config = {"bootstrap.servers": servers} | security.librdkafka()
    receipts: list[object] = []
    producer = Producer(config)
    producer.produce(topic, b"hello", on_delivery=lambda error, _: receipts.append(error))
    producer.flush(20)
    assert receipts == [None]
    consumer = Consumer(config | {"group.id": unique("group"), "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([topic])
        message = consumer.poll(20)
    finally:
        consumer.close()
    assert message is not None
    assert message.value() == b"hello"


@pytest.mark.usefixtures("goodbyes")
async def test_aiokafka_produces_and_consumes(access: Access, topic: str) -> None:
    """A record goes in and comes out through aiokafka, which Faust runs on."""
    servers, security = access
    async with AIOKafkaProducer(bootstrap_servers=servers, **security.aiokafka()) as producer:
        await producer.send_and_wait(topic, b"hello")
    group = {"group_id": unique("group"), "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, **group, **security.aiokafka()) as consumer:
        record = await consumer.getone()
    assert record.value == b"hello"


def test_provisioning_logs_in(access: Access) -> None:
    """Provisioning and describing work over every secured connection."""
    servers, security = access
    spec = TopicSpec(unique("provisioned"), 2)
    assert [done.created for done in provision(servers, [spec], security)] == [True]
    state = describe(servers, [spec.name], security)[spec.name]
    assert state is not None
    assert state.partitions == 2


WRONG = SecretStr("wrong")


@pytest.mark.parametrize(
    ("mechanism", "changes", "reason"),
    [
        ("SCRAM-SHA-512", {"password": WRONG}, "invalid credentials"),
        ("SCRAM-SHA-512", {"username": "mallory"}, "invalid credentials"),
        ("PLAIN", {"password": WRONG}, "Invalid username or password"),
        ("OAUTHBEARER", {"oauth_client_secret": WRONG}, "invalid_client"),
        ("PLAIN", {"cafile": None}, "certificate verify failed"),
    ],
)
def test_a_refusal_says_why(secure_kafka: SecureKafka, mechanism, changes, reason: str) -> None:
    """A wrong login, or a broker nobody vouches for, is refused at once with the reason and without the secret."""
    security = secure_kafka.security(mechanism, **changes)
    with pytest.raises(BrokerRefused, match=reason) as caught:
        connect(secure_kafka.sasl_servers, security, timeout=30)
    assert secure_kafka.sasl_servers in str(caught.value)
    assert WRONG.get_secret_value() not in str(caught.value)


@pytest.mark.usefixtures("goodbyes")
async def test_a_wrong_password_stops_aiokafka(secure_kafka: SecureKafka, caplog: pytest.LogCaptureFixture) -> None:
    """aiokafka does not connect with a wrong password; its log has the reason, not the secret."""
    security = secure_kafka.security("SCRAM-SHA-512", password=WRONG)
    producer = AIOKafkaProducer(bootstrap_servers=secure_kafka.sasl_servers, **security.aiokafka())
    with caplog.at_level(logging.DEBUG), pytest.raises(KafkaConnectionError):
        await producer.start()
    await producer.stop()
    assert "SaslAuthenticationFailed" in caplog.text
    assert WRONG.get_secret_value() not in caplog.text


@pytest.mark.usefixtures("goodbyes")
async def test_a_certificate_for_another_name_is_refused(secure_kafka: SecureKafka) -> None:
    """Both clients check that the broker's certificate is for the host they asked for."""
    security = secure_kafka.security("PLAIN")
    elsewhere = secure_kafka.sasl_servers.replace("127.0.0.1", "localhost")
    with pytest.raises(BrokerRefused, match="certificate verify failed"):
        await asyncio.to_thread(connect, elsewhere, security, 30)
    producer = AIOKafkaProducer(bootstrap_servers=elsewhere, **security.aiokafka())
    with pytest.raises(KafkaConnectionError):
        await producer.start()
    await producer.stop()


def test_a_client_without_a_certificate_is_turned_away(secure_kafka: SecureKafka) -> None:
    """Where the broker asks for a certificate, one that has none is not let in."""
    security = KafkaSecurity(protocol="SSL", cafile=secure_kafka.cafile)
    with pytest.raises((BrokerRefused, BrokerUnreachable), match="certificate"):
        connect(secure_kafka.mutual_tls_servers, security, timeout=3)


def test_a_plain_client_is_pointed_at_the_protocol(secure_kafka: SecureKafka) -> None:
    """A client that speaks in clear to the TLS listener is told which setting to look at."""
    with pytest.raises(BrokerUnreachable, match="STREAMS_KAFKA_SECURITY_PROTOCOL"):
        connect(secure_kafka.sasl_servers, timeout=3)
