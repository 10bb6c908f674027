"""The topics on the brokers: make them what they should be, and tell what they are."""

import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ClusterMetadata,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from schemas.errors import Retry, StreamsError
from streams.brokers.security import KafkaSecurity

PLAIN = KafkaSecurity()
#: Seconds until a broker must have answered, and until it must have done one change.
CONNECT_TIMEOUT = 10.0
CHANGE_TIMEOUT = 60.0
#: Answers that mean "nobody is there", not "you may not".
AWAY = frozenset(
    {KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError.REQUEST_TIMED_OUT}
)
REFUSED = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})


class BrokerUnreachable(Retry):
    """No broker answered in time; the message says where and, where the client knows it, why."""


class BrokerRefused(StreamsError):
    """A broker answered but login or TLS failed: the security settings do not fit it."""


class ProvisioningFailed(StreamsError):
    """The broker would not make or change a topic; the message has its reason."""


class CannotShrink(StreamsError):
    """A topic has more partitions than wanted; Kafka cannot remove any. Nothing was changed on any topic."""

    def __init__(self, topic: str, has: int, wanted: int) -> None:
        super().__init__(
            f"topic {topic} has {has} partitions, wanted {wanted}: Kafka cannot remove partitions; "
            f"ask for {has} or more, or use a new topic"
        )
        self.topic, self.has, self.wanted = topic, has, wanted


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic should be; `config` holds topic settings by Kafka's names, others are left as they are."""

    name: str
    partitions: int
    replication: int = 1
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicState:
    """What a topic is; `config` holds every effective setting (empty on the embedded broker)."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What was done to one topic; `str()` says it in a line."""

    topic: str
    created: bool = False
    #: Partitions before and after.
    grown: tuple[int, int] | None = None
    #: Setting -> value before and after.
    changed: Mapping[str, tuple[str | None, str]] = field(default_factory=dict)
    #: Replicas that are and that were wanted, where they differ: moving data is left to the operator.
    replication: tuple[int, int] | None = None

    def __str__(self) -> str:
        did = ["created"] if self.created else []
        if self.grown:
            did.append("grown {}->{}".format(*self.grown))
        did += [f"config changed {name} {old}->{new}" for name, (old, new) in self.changed.items()]
        if self.replication:
            did.append("replication left at {} (wanted {})".format(*self.replication))
        return f"{self.topic}: {', '.join(did) or 'unchanged'}"


def connect(bootstrap_servers: str, security: KafkaSecurity = PLAIN, timeout: float = CONNECT_TIMEOUT) -> AdminClient:
    """Returns an admin client that a broker has answered.

    Raises BrokerUnreachable when none answers within `timeout` seconds, BrokerRefused as soon as one rejects
    the login or the TLS handshake.
    """
    troubles: deque[KafkaError] = deque(maxlen=10)
    # No log lines: what goes wrong is in the exception.
    settings = {"bootstrap.servers": bootstrap_servers, "error_cb": troubles.append, "log_level": 0}
    admin = AdminClient(settings | security.librdkafka())
    deadline = time.monotonic() + timeout
    while True:
        try:
            admin.list_topics(timeout=min(1.0, timeout))
        except KafkaException:
            admin.poll(0.1)  # brings the reasons to `troubles`
        else:
            return admin
        if refusal := next((trouble for trouble in troubles if trouble.code() in REFUSED), None):
            raise BrokerRefused(f"cannot connect securely to {bootstrap_servers}: {refusal.str()}")
        if time.monotonic() >= deadline:
            raise BrokerUnreachable(
                f"no broker answered at {bootstrap_servers} within {timeout:g} s{_reason(troubles)}"
            )


def _reason(troubles: Collection[KafkaError]) -> str:
    telling = [trouble.str() for trouble in troubles if trouble.code() != KafkaError._ALL_BROKERS_DOWN]
    if troubles and not telling:
        return ": it closes the connection; is STREAMS_KAFKA_SECURITY_PROTOCOL what it expects?"
    return f": {telling[0]}" if telling else ""


def describe(
    target: AdminClient | str,
    topics: Iterable[str],
    security: KafkaSecurity = PLAIN,
    timeout: float = CONNECT_TIMEOUT,
) -> dict[str, TopicState | None]:
    """Returns each topic's state, None where it does not exist; `target` is a client or bootstrap servers.

    Raises BrokerUnreachable or BrokerRefused.
    """
    admin = _client(target, security, timeout)
    cluster = _metadata(admin, timeout)
    wanted = list(topics)
    found = [name for name in wanted if name in cluster.topics]
    configs = {} if _embedded(cluster) else _configs(admin, found, timeout)
    return {name: _state(cluster, name, configs.get(name, {})) if name in found else None for name in wanted}


def provision(
    target: AdminClient | str,
    specs: Collection[TopicSpec],
    security: KafkaSecurity = PLAIN,
    timeout: float = CHANGE_TIMEOUT,
) -> list[Provisioned]:
    """Makes every topic what its spec says, and returns what it did to each, in the order of `specs`.

    Creates what is missing, adds partitions, sets differing configuration; a second run changes nothing, and
    two at once do no harm. On the embedded broker topics are only made: it decides on everything else.
    `timeout` is seconds a request. Raises CannotShrink before anything is changed, ProvisioningFailed with
    the broker's reason, BrokerUnreachable or BrokerRefused.
    """
    admin = _client(target, security, min(timeout, CONNECT_TIMEOUT))
    cluster = _metadata(admin, timeout)
    if _embedded(cluster):
        return [_ensure(admin, cluster, spec, timeout) for spec in specs]
    missing = {item.topic for item in plan(admin, specs, timeout=timeout) if item.created}
    created = _create(admin, [spec for spec in specs if spec.name in missing], timeout)
    _await_leaders(admin, {spec.name: 1 for spec in specs}, timeout)
    rest = [spec for spec in specs if spec.name not in created]
    done = {name: Provisioned(name, created=True) for name in created} | _update(admin, rest, timeout)
    _await_leaders(admin, {spec.name: spec.partitions for spec in specs}, timeout)
    return [done[spec.name] for spec in specs]


def plan(
    target: AdminClient | str,
    specs: Collection[TopicSpec],
    security: KafkaSecurity = PLAIN,
    timeout: float = CONNECT_TIMEOUT,
) -> list[Provisioned]:
    """Returns what `provision` would do to each topic, and does nothing; raises as it does."""
    states = describe(target, [spec.name for spec in specs], security, timeout)
    return [difference(spec, states[spec.name]) for spec in specs]


def _create(admin: AdminClient, specs: list[TopicSpec], timeout: float) -> set[str]:
    """Returns the topics that were created here; one that somebody else made meanwhile is not among them."""
    if not specs:
        return set()
    topics = [NewTopic(item.name, item.partitions, item.replication, config=dict(item.config)) for item in specs]
    created = set()
    for name, future in admin.create_topics(topics, request_timeout=timeout).items():
        if not _failed_with(future, KafkaError.TOPIC_ALREADY_EXISTS):
            _result(future, f"cannot create topic {name}")
            created.add(name)
    return created


def _update(admin: AdminClient, specs: list[TopicSpec], timeout: float) -> dict[str, Provisioned]:
    done = {item.topic: item for item in plan(admin, specs, timeout=timeout)}
    _grow(admin, done, timeout)
    _configure(admin, done, timeout)
    return done


def difference(spec: TopicSpec, state: TopicState | None) -> Provisioned:
    """Returns what `provision` has to do to one topic; raises CannotShrink."""
    if state is None:
        return Provisioned(spec.name, created=True)
    if not state.config:  # the embedded broker decides on everything itself
        return Provisioned(spec.name)
    if state.partitions > spec.partitions:
        raise CannotShrink(spec.name, state.partitions, spec.partitions)
    changed = {
        name: (state.config.get(name), value) for name, value in spec.config.items() if state.config.get(name) != value
    }
    return Provisioned(
        spec.name,
        grown=(state.partitions, spec.partitions) if state.partitions < spec.partitions else None,
        changed=changed,
        replication=(state.replication, spec.replication) if state.replication != spec.replication else None,
    )


def _grow(admin: AdminClient, done: Mapping[str, Provisioned], timeout: float) -> None:
    wanted = [NewPartitions(name, item.grown[1]) for name, item in done.items() if item.grown]
    if wanted:
        for name, future in admin.create_partitions(wanted, request_timeout=timeout).items():
            # Somebody else added them meanwhile: that there are enough is checked at the end.
            if not _failed_with(future, KafkaError.INVALID_PARTITIONS):
                _result(future, f"cannot add partitions to topic {name}")


def _configure(admin: AdminClient, done: Mapping[str, Provisioned], timeout: float) -> None:
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            name,
            incremental_configs=[
                ConfigEntry(setting, new, incremental_operation=AlterConfigOpType.SET)
                for setting, (_, new) in item.changed.items()
            ],
        )
        for name, item in done.items()
        if item.changed
    ]
    if resources:
        for resource, future in admin.incremental_alter_configs(resources, request_timeout=timeout).items():
            _result(future, f"cannot configure topic {resource.name}")


def _await_leaders(admin: AdminClient, partitions: Mapping[str, int], timeout: float) -> None:
    """Waits until each topic shows at least so many partitions, all with a leader."""
    # A broker says "done" a moment before its metadata shows the topic: clients that start then would fail.
    deadline = time.monotonic() + timeout
    while True:
        cluster = _metadata(admin, timeout)
        waiting = [name for name, count in partitions.items() if not _ready(cluster, name, count)]
        if not waiting:
            return
        if time.monotonic() >= deadline:
            raise BrokerUnreachable(f"partitions of {', '.join(waiting)} have no leader after {timeout:g} s")
        time.sleep(0.05)


def _ready(cluster: ClusterMetadata, name: str, count: int) -> bool:
    topic = cluster.topics.get(name)
    return (
        topic is not None
        and len(topic.partitions) >= count
        and all(partition.leader >= 0 for partition in topic.partitions.values())
    )


def _ensure(admin: AdminClient, cluster: ClusterMetadata, spec: TopicSpec, timeout: float) -> Provisioned:
    if spec.name in cluster.topics:
        return Provisioned(spec.name)
    # The embedded broker has no controller, but makes a topic as soon as somebody asks for it.
    admin.list_topics(spec.name, timeout=timeout)
    return Provisioned(spec.name, created=True)


def _embedded(cluster: ClusterMetadata) -> bool:
    return str(cluster.cluster_id).startswith("mockCluster")


def _state(cluster: ClusterMetadata, name: str, config: Mapping[str, str]) -> TopicState:
    partitions = cluster.topics[name].partitions
    replication = min((len(partition.replicas) for partition in partitions.values()), default=0)
    return TopicState(name, len(partitions), replication, config)


def _configs(admin: AdminClient, topics: list[str], timeout: float) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
    configs = {}
    for resource, future in admin.describe_configs(resources, request_timeout=timeout).items():
        entries = _result(future, f"cannot read the configuration of topic {resource.name}")
        configs[resource.name] = {name: entry.value for name, entry in entries.items()}
    return configs


def _client(target: AdminClient | str, security: KafkaSecurity, timeout: float) -> AdminClient:
    return connect(target, security, timeout) if isinstance(target, str) else target


def _metadata(admin: AdminClient, timeout: float) -> ClusterMetadata:
    try:
        return admin.list_topics(timeout=timeout)
    except KafkaException as error:
        raise BrokerUnreachable(f"the broker does not answer: {error.args[0].str()}") from error


def _failed_with(future: Future[Any], code: int) -> bool:
    error = future.exception()
    return isinstance(error, KafkaException) and error.args[0].code() == code


def _result(future: Future[Any], failure: str) -> Any:
    try:
        return future.result()
    except KafkaException as error:
        trouble = error.args[0]
        kind = BrokerUnreachable if trouble.code() in AWAY else ProvisioningFailed
        raise kind(f"{failure}: {trouble.str()}") from error
