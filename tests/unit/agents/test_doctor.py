"""What `doctor` says, without a broker."""

import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import RegisteredSchema, SchemaRegistryError
from pydantic import SecretStr
from sqlalchemy import text

from agents import doctor
from agents.doctor import Finding, Status
from streams.brokers.admin import TopicSpec, TopicState
from streams.models import database
from streams.models.database import Database
from streams.settings import Settings, load

CONFIG = {"max.message.bytes": "1000", "cleanup.policy": "delete"}
SPEC = TopicSpec("requests", 4, 2, CONFIG)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps settings of the machine out of these tests."""
    for name in [name for name in os.environ if name.startswith("STREAMS_")]:
        monkeypatch.delenv(name)


def on_settings(settings: Settings) -> list[Finding]:
    """Returns the findings about settings."""
    return list(doctor._settings(settings, os.environ))


def test_set_ones_are_listed_and_secrets_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set is shown; passwords, also those inside a URL, never are."""
    monkeypatch.setenv("STREAMS_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("STREAMS_KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("STREAMS_KAFKA_SASL_USERNAME", "me")
    monkeypatch.setenv("STREAMS_KAFKA_SASL_PASSWORD", "s3cret")
    monkeypatch.setenv("STREAMS_SCHEMA_REGISTRY_URL", "https://me:s3cret@registry:8081/x")
    monkeypatch.setenv("STREAMS_LANES", "replay")
    (finding,) = on_settings(load())
    assert finding.status is Status.OK
    assert "s3cret" not in finding.detail
    assert finding.detail.splitlines() == [
        "STREAMS_LANES=replay",
        "STREAMS_KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT",
        "STREAMS_KAFKA_SASL_MECHANISM=PLAIN",
        "STREAMS_KAFKA_SASL_USERNAME=me",
        "STREAMS_KAFKA_SASL_PASSWORD=(hidden)",
        "STREAMS_SCHEMA_REGISTRY_URL=https://(hidden)@registry:8081/x",
    ]


def test_a_misspelt_setting_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A variable with our prefix that is no setting is a warning with the name that was meant; `_FILE` is fine."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    monkeypatch.setenv("STREAMS_SCHEMA_REGISTRY_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVER", "kafka:9092")
    _, warning = on_settings(load())
    assert warning.status is Status.WARN
    assert warning.advice == "did you mean STREAMS_BOOTSTRAP_SERVERS?"


@pytest.mark.parametrize(
    ("state", "status", "says", "advises"),
    [
        (None, Status.FAIL, "does not exist", "provision"),
        (TopicState("requests", 4, 2, CONFIG), Status.OK, "4 partitions", ""),
        (TopicState("requests", 4, 1, {}), Status.OK, "embedded", ""),
        (TopicState("requests", 2, 2, CONFIG), Status.WARN, "grown 2->4", "provision"),
        (TopicState("requests", 8, 2, CONFIG), Status.WARN, "4 wanted", "STREAMS_PARTITIONS to 8"),
        (TopicState("requests", 4, 1, CONFIG), Status.WARN, "2 wanted", "STREAMS_REPLICATION to 1"),
        (TopicState("requests", 4, 2, {**CONFIG, "cleanup.policy": "compact"}), Status.WARN, "compact", "provision"),
        (TopicState("requests", 4, 2, {**CONFIG, "max.message.bytes": "999"}), Status.FAIL, "999->1000", "provision"),
        (TopicState("requests", 4, 2, {**CONFIG, "max.message.bytes": "2000"}), Status.WARN, "2000", "provision"),
    ],
)
def test_topics(state: TopicState | None, status: Status, says: str, advises: str) -> None:
    """A missing topic, or one too small for its records, fails; other differences warn; each says what to do."""
    finding = doctor._topic(SPEC, state)
    assert finding.status is status
    assert says in finding.detail
    assert advises in finding.advice
    assert bool(finding.advice) == (status is not Status.OK)


class FakeRegistry:
    """The part of the registry's client that doctor asks."""

    def __init__(self, *, there: bool = True, compatible: bool = True, level: str = "FULL_TRANSITIVE") -> None:
        self.there, self.compatible, self.level = there, compatible, level

    def get_versions(self, subject_name: str) -> list[int]:
        """The versions, or a 404."""
        if not self.there:
            raise SchemaRegistryError(404, 40401, "no such subject")
        return [1, 2]

    def test_compatibility(self, subject_name: str, schema: RegisteredSchema) -> bool:
        """Whether the schema fits the versions."""
        return self.compatible

    def get_compatibility(self) -> str:
        """The level of the registry."""
        return self.level


@pytest.mark.parametrize(
    ("registry", "status", "says"),
    [
        (FakeRegistry(), Status.OK, "version 2 is compatible"),
        (FakeRegistry(there=False), Status.OK, "not registered yet"),
        (FakeRegistry(compatible=False), Status.FAIL, "not compatible"),
    ],
)
def test_subjects(registry: Any, status: Status, says: str) -> None:
    """A schema that is not there yet is fine, one that does not fit fails."""
    finding = doctor._subject(registry, "requests-value", '"string"')
    assert finding.status is status
    assert says in finding.detail


def test_a_lax_registry_is_a_warning() -> None:
    """A registry that lets anybody break the readers warns."""
    registry: Any = FakeRegistry(level="NONE")
    assert doctor._compatibility(registry).status is Status.WARN
    registry = FakeRegistry()
    assert doctor._compatibility(registry).status is Status.OK


def test_unreachable_registry_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that does not answer is a failure with the settings to look at."""
    monkeypatch.setenv("STREAMS_SCHEMA_REGISTRY_URL", "http://127.0.0.1:1")
    (finding,) = doctor._registry(load())
    assert finding.status is Status.FAIL
    assert "STREAMS_SCHEMA_REGISTRY_URL" in finding.advice


def test_health_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port in use is a warning, since a worker may be what uses it; port 0 is always fine."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert doctor._port(load(health_port=port)).status is Status.WARN
    assert doctor._port(load(health_port=port)) == Finding("health port", Status.OK, f"127.0.0.1:{port} is free")
    assert doctor._port(load(health_port=0)).status is Status.OK


def test_model_trouble_is_told() -> None:
    """A model that is not there fails with what to do; the deterministic one is a warning."""
    (missing,) = doctor._model(load(model="./no-such-folder"))
    assert missing.status is Status.FAIL
    assert "no such folder" in missing.detail
    (fake,) = doctor._model(load(model="deterministic"))
    assert fake.status is Status.WARN


def test_exit_code_follows_failures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning is no failure; one failed check makes the exit code 3, and its advice is printed."""
    warning, failure = Finding("a", Status.WARN, "so so", "look"), Finding("b", Status.FAIL, "no [good]", "act")
    monkeypatch.setattr(doctor, "examine", lambda settings, *, model: [warning])
    assert doctor.run(load(), model=False, as_json=False) == 0
    monkeypatch.setattr(doctor, "examine", lambda settings, *, model: [warning, failure])
    assert doctor.run(load(), model=False, as_json=False) == 3
    shown = capsys.readouterr().out
    assert "no [good]" in shown
    assert "-> act" in shown


# -- catalog and artifacts ------------------------------------------------------------------------------------


def test_a_catalog_that_answers_is_named_with_its_schema(tmp_path: Path) -> None:
    """By its place, and the revision of its schema."""
    finding = doctor._catalog(load(database_url=f"sqlite:///{tmp_path}/catalog.db"))
    assert finding.status is Status.OK
    assert finding.detail.endswith(f"{tmp_path}/catalog.db answers, schema {database.head()}")


def test_a_catalog_that_is_away_is_no_failure(tmp_path: Path) -> None:
    """The stream does without; a password is never shown."""
    finding = doctor._catalog(load(database_url="postgresql://me:s3cret@127.0.0.1:1/catalog"))
    assert finding.status is Status.WARN
    assert "the stream goes on without it" in finding.advice
    assert "s3cret" not in finding.detail


def test_a_catalog_of_another_schema_says_what_to_run(tmp_path: Path) -> None:
    """Nothing about it works until then."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    with closing(Database(SecretStr(url))) as store, store.connect() as connection:
        database.migrate(connection)
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    finding = doctor._catalog(load(database_url=url))
    assert (finding.status, finding.advice) == (Status.FAIL, "run `sentence-streams db upgrade`")


def test_a_store_of_artifacts_is_looked_into(tmp_path: Path) -> None:
    """One that answers is named; one that nobody can read is a warning with what to check."""
    (tmp_path / "file").write_text("where a folder is expected")
    fine = doctor._artifacts(load(artifacts=str(tmp_path / "store")))
    assert (fine.status, fine.detail) == (Status.OK, f"{tmp_path}/store answers")
    wrong = doctor._artifacts(load(artifacts=str(tmp_path / "file" / "store")))
    assert wrong.status is Status.WARN
    assert "STREAMS_ARTIFACTS" in wrong.advice
