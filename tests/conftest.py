"""Fixtures of the whole suite: brokers and a registry, each started once, where a test asks for it."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from streams.brokers.embedded import EmbeddedBroker
from tests.support.java import Unavailable
from tests.support.kafka import ContainedKafka, Kafka, KafkaCluster, container, single
from tests.support.postgres import Postgres
from tests.support.redis import RedisServer
from tests.support.registry import Registry
from tests.support.secure_kafka import SecureKafka
from tests.support.secure_kafka import secure_kafka as run_secure_kafka

#: Fixture -> the markers of every test that asks for it, so that nobody has to write them.
LANES = {
    "kafka": ["kafka"],
    "secure_kafka": ["kafka"],
    "kafka_cluster": ["kafka", "cluster"],
    "registry_url": ["registry"],
    "redis_server": ["redis"],
    "own_redis": ["redis"],
    "postgres": ["postgres"],
}
REAL = {marker for markers in LANES.values() for marker in markers}


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Takes back what a command under test did to logging: it writes to a stream that is closed by then."""
    root = logging.getLogger()
    handlers, level, structured = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**structured)


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """The built-in broker; it is there on every machine."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka | ContainedKafka]:
    """One real Kafka broker, shared: use `unique` names, and leave it running."""
    try:
        broker = single(tmp_path_factory.mktemp("kafka"))
    except Unavailable as no_java:
        yield from _contained(no_java)
        return
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def _contained(no_java: Unavailable) -> Iterator[ContainedKafka]:
    try:
        prepared = container()
    except Unavailable as no_docker:
        pytest.skip(f"no real Kafka: {no_java}, and {no_docker}")
    with prepared as running:
        yield ContainedKafka(running)


@pytest.fixture(scope="module")
def kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three real Kafka brokers, shared by a module (idle ones still cost): leave all of them running."""
    try:
        cluster = KafkaCluster(tmp_path_factory.mktemp("kafka-cluster"))
    except Unavailable as lack:
        pytest.skip(f"no cluster of three real Kafka brokers: {lack}")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A real Kafka broker that asks for TLS and a login."""
    with ExitStack() as stack:
        try:
            broker = stack.enter_context(run_secure_kafka(tmp_path_factory.mktemp("secure-kafka")))
        except Unavailable as lack:
            pytest.skip(f"no secured real Kafka: {lack}")
        yield broker


@pytest.fixture(scope="session")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real schema registry that enforces compatibility; shared: use `unique` subjects."""
    try:
        registry = Registry(tmp_path_factory.mktemp("registry"))
    except Unavailable as lack:
        pytest.skip(f"no real schema registry: {lack}")
    try:
        registry.start()
        yield registry.url
    finally:
        registry.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis, shared: use `unique` names, and leave it running."""
    yield from _redis(tmp_path_factory.mktemp("redis"))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis for one test, which may stop, freeze, fill and kill it."""
    yield from _redis(tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, shared: make a database of your own in it, and leave it running."""
    try:
        server = Postgres()
    except Unavailable as lack:
        pytest.skip(f"no real PostgreSQL: {lack}")
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _redis(folder: Path) -> Iterator[RedisServer]:
    try:
        server = RedisServer(folder)
    except Unavailable as lack:
        pytest.skip(f"no real Redis: {lack}")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test by the real services it asks for."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            for marker in LANES.get(fixture, ()):
                item.add_marker(marker)


def pytest_configure(config: pytest.Config) -> None:
    """Keeps account of what could not run."""
    config.pluginmanager.register(NotRun(), "not-run")


class NotRun:
    """Lists at the end what could not run and why; with `CI=true` a missing service fails the session."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._lanes: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        self._reasons[reason.removeprefix("Skipped: ")] += 1
        self._lanes |= REAL & set(report.keywords)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._fails and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        yield  # everybody else's summary first: this belongs where nobody overlooks it
        if self._reasons:
            self._tell(terminalreporter)

    def _tell(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("COULD NOT RUN HERE", yellow=True, bold=True)
        for reason, count in self._reasons.most_common():
            terminalreporter.line(f"{count} test{'s' * (count > 1)}: {reason}", yellow=True)
        if self._fails:
            lanes = ", ".join(sorted(self._lanes))
            terminalreporter.line(f"In CI every lane must run, and these did not: {lanes}", red=True)

    @property
    def _fails(self) -> bool:
        return bool(self._lanes) and os.environ.get("CI", "").lower() in {"true", "1"}
