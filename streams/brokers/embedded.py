"""A broker that needs no installation: librdkafka's mock cluster, in this process, on loopback, in memory."""

import logging
from types import TracebackType
from typing import Self

from confluent_kafka import Producer

#: The mock cluster announces itself when it starts; that line belongs in a debug log, not on the terminal.
log = logging.getLogger(__name__)


class EmbeddedBroker:
    """A Kafka broker for trying things out; it runs until `close()` and keeps nothing.

    It makes topics when they are first asked for, always with 4 partitions, takes no topic configuration,
    and forgets the oldest records of a partition beyond about 5 MB.
    """

    def __init__(self) -> None:
        self._producer = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "logger": log})
        brokers = self._producer.list_topics(timeout=10).brokers.values()
        #: `host:port` for clients, in this process or another on this machine.
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def close(self) -> None:
        """Stops the broker and drops all its records."""
        self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
