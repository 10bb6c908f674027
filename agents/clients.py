"""What the command-line tools talk to, made from settings: brokers, registry, codec. No Faust here."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from confluent_kafka.admin import AdminClient

from schemas.codec import Codec
from schemas.errors import StreamsError
from streams.brokers import admin
from streams.lanes import LaneName
from streams.settings import Settings

if TYPE_CHECKING:  # its import is slow, and a worker without a registry need not wait for it
    from confluent_kafka.schema_registry import SchemaRegistryClient


class NoTopic(StreamsError):
    """The broker has no such topic."""


def broker(settings: Settings, timeout: float = admin.CONNECT_TIMEOUT) -> AdminClient:
    """Returns an admin client that a broker has answered; raises BrokerUnreachable or BrokerRefused."""
    return admin.connect(settings.bootstrap_servers, settings.kafka_security(), timeout)


def connection(settings: Settings) -> dict[str, Any]:
    """Returns what every aiokafka client needs to reach the brokers."""
    return {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "client_id": f"sentence-streams-{os.getpid()}",
        **settings.kafka_security().aiokafka(),
    }


def registry_client(settings: Settings) -> "SchemaRegistryClient | None":
    """Returns the schema registry's client, not connected yet, or None where none is configured."""
    if not settings.schema_registry_url:
        return None
    from schemas.confluent import RegistryAccess

    password, cafile = settings.schema_registry_password, settings.schema_registry_cafile
    return RegistryAccess(
        url=settings.schema_registry_url,
        user=settings.schema_registry_username,
        password=password.get_secret_value() if password else None,
        cafile=str(cafile) if cafile else None,
    ).connect()


@contextmanager
def codec(settings: Settings) -> Iterator[Codec]:
    """Yields the codec that reads and writes as the settings say: with the registry, or with fingerprints."""
    client = registry_client(settings)
    if client is None:
        yield Codec()
        return
    from schemas.confluent import ConfluentRegistry

    with client:
        yield Codec(ConfluentRegistry(client))


def request_topics(settings: Settings) -> Mapping[LaneName, str]:
    """Returns the topic that feeds each lane, served here or not."""
    return {
        LaneName.BULK: settings.topic_requests,
        LaneName.INTERACTIVE: settings.topic_interactive,
        LaneName.REPLAY: settings.topic_replay,
    }
