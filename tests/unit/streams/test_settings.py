"""Settings: the environment in, or one clear line for each that is wrong."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr

from streams.lanes import LaneName
from streams.settings import PREFIX, Settings, SettingsError, load, names

#: Every setting with a wrong value or several. Free text, paths and secrets may be anything.
WRONG: dict[str, list[str]] = {
    "bootstrap_servers": ["localhost", "kafka://localhost:9092", "a:1,,b:2", "a:1 b:2", "localhost:http", ":9092"],
    "lanes": ["bulk,express", ",", "BULK"],
    "delivery": ["sometimes"],
    "session_timeout": ["0.5", "301", "ten", "nan", "inf"],
    "commit_interval": ["0", "-1", "61", "nan"],
    "drain_timeout": ["0", "601", "soon"],
    "kafka_security_protocol": ["TLS", "ssl"],
    "kafka_sasl_mechanism": ["GSSAPI"],
    "schema_registry_url": ["registry:8081", "ftp://registry"],
    "topic_requests": ["with space", "a" * 250, "..", "sentence/requests", "ümlaut"],
    "topic_interactive": ["sentence.requests", "no!"],
    "topic_replay": ["sentence.requests.interactive", "no!"],
    "topic_embeddings": ["sentence.requests", "no!"],
    "topic_scores": ["sentence.embeddings", "no!"],
    "topic_quarantine": ["sentence.scores", "no!"],
    "topic_dead_letters": ["sentence.requests", "sentence.scores", "no!"],
    "topic_replies": ["sentence.requests", "sentence.dead-letters", "no!"],
    "topic_kept_replies": ["sentence.replies", "no!"],
    "topic_alerts": ["sentence.replies", "no!"],
    "topic_models": ["sentence.alerts", "no!"],
    "topic_training": ["sentence.models", "no!"],
    "request_timeout": ["0", "601", "soon"],
    "max_items": ["0", "2049", "x"],
    "max_text": ["0", "1000001", "x"],
    "reply_partition": ["-2", "x"],
    "reply_topics": ["answers,no!", "answers,sentence.requests", "sentence.dead-letters"],
    "partitions": ["0", "10001", "1.5", "many"],
    "replication": ["0", "11", "x"],
    "max_request_bytes": ["9999", "100000001", "1MB"],
    "retention_requests": ["59", "7d"],
    "retention_dead_letters": ["59", "7d"],
    "results_cleanup": ["keep"],
    "retention_results": ["59", "7d"],
    "model_backend": ["tensorflow"],
    "artifacts": ["ftp://host/models", "https://bucket.example"],
    "max_file_bytes": ["999", "100MB"],
    "max_batch_lines": ["0", "x"],
    "models_bytes": ["-1", "2GB"],
    "threads": ["-1", "1025", "all"],
    "token_budget": ["-1", "1000001", "x"],
    "queue_records": ["0", "1000001", "x"],
    "queue_bytes": ["9999", "64MB"],
    "dead_letter_limit": ["10000", "many/hour", "10/fortnight"],
    "retry_attempts": ["0", "101", "x"],
    "retry_seconds": ["0", "x"],
    "publish_text": ["maybe"],
    "quality_records": ["99", "1000001", "x"],
    "quality_seconds": ["0", "x"],
    "quality_least": ["49", "1000001", "x"],
    "quality_watch": ["0", "x"],
    "quality_poor": ["0", "x"],
    "kill_switch_run": ["0", "x"],
    "kill_switch_share": ["0", "1.1", "x"],
    "kill_switch_windows": ["0", "x"],
    "http_port": ["-1", "65536", "http"],
    "cors_origins": ["app.example", "https://app.example/", "ftp://app.example", "https://a.example,b"],
    "max_body_bytes": ["999", "8MB"],
    "receive_seconds": ["0", "601", "soon"],
    "max_inflight_tokens": ["0", "x"],
    "rate_limit": ["600", "many/minute", "10/fortnight"],
    "auth": ["password", "off,jwt", "JWT"],
    "jwt_algorithms": ["none", "HS256", "RS256,HS512", ","],
    "health_port": ["-1", "65536", "http"],
    "stall_seconds": ["0", "nan", "x"],
    "cache_bytes": ["-1", "64MB"],
    "cache_seconds": ["0", "7d"],
    "results_seconds": ["0", "2592001", "1h"],
    "model_precision": ["int4", "x"],
    "otlp_endpoint": ["collector:4317", "grpc://collector:4317"],
    "trace_ratio": ["-0.1", "1.1", "x"],
    "log_level": ["trace", "INFO"],
    "log_format": ["xml"],
    "log_text": ["some"],
}
#: Every secret -> how it is written around a password.
SECRETS = {
    "kafka_sasl_password": "{}",
    "kafka_oauth_client_secret": "{}",
    "schema_registry_password": "{}",
    "redis_url": "redis://worker:{}@redis.example:6379/0",
    "database_url": "postgresql://catalog:{}@db.example/catalog",
    "sentry_dsn": "https://{}@sentry.example/1",
    "notify_urls": "slack://{}/b/c",
}
#: Settings any text will do for; what they name is checked where it is used.
FREE_TEXT = {
    "group",
    "kafka_sasl_username",
    "kafka_oauth_token_url",
    "kafka_oauth_client_id",
    "kafka_oauth_scope",
    "schema_registry_username",
    "model",
    "model_revision",
    "health_host",
    "http_host",
    "jwt_issuer",
    "jwt_audience",
    "jwt_jwks",
    "jwt_roles_claim",
    "roles",
}
#: Of these the line ends with the part that is wrong, or with the parts.
LISTS = {"lanes", "auth", "jwt_algorithms", "cors_origins", "reply_topics"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests gets in."""
    for name in names():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


def variable(name: str) -> str:
    return PREFIX + name.upper()


def test_nothing_set_means_the_defaults() -> None:
    """Bulk and interactive lanes of a broker on this machine, no registry, no security."""
    settings = load()
    assert settings.bootstrap_servers == "localhost:9092"
    assert settings.lanes == (LaneName.BULK, LaneName.INTERACTIVE)
    assert settings.schema_registry_url is None
    assert settings.kafka_security().protocol == "PLAINTEXT"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_one_line_that_names_the_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line begins with the variable and ends with what came, and is no dump of a library's."""
    monkeypatch.setenv(variable(name), value)
    with pytest.raises(SettingsError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith(f"{variable(name)}: ")
    assert "\n" not in message
    assert "pydantic" not in message
    assert message.endswith(f", got {value!r}") or name in LISTS


def test_every_setting_that_can_be_wrong_is_in_the_table() -> None:
    """A new setting gets its wrong values here, or is free text on purpose."""
    paths = {
        name for name, field in Settings.model_fields.items() if Path in (field.annotation, *get_args(field.annotation))
    }
    assert set(Settings.model_fields) == set(WRONG) | SECRETS.keys() | FREE_TEXT | paths


def test_each_wrong_setting_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are told at once, so that nobody has to start five times."""
    for name in ("partitions", "lanes", "log_level"):
        monkeypatch.setenv(variable(name), "wrong")
    with pytest.raises(SettingsError) as caught:
        load()
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["STREAMS_LANES", "STREAMS_PARTITIONS", "STREAMS_LOG_LEVEL"]


def test_a_strange_value_stays_on_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line breaks in a value do not make two lines of one error."""
    monkeypatch.setenv("STREAMS_LOG_LEVEL", "in\nfo")
    with pytest.raises(SettingsError, match=r"STREAMS_LOG_LEVEL: .*, got 'in\\nfo'") as caught:
        load()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bulk", (LaneName.BULK,)),
        (" replay , bulk,", (LaneName.REPLAY, LaneName.BULK)),
        ("bulk,bulk,interactive", (LaneName.BULK, LaneName.INTERACTIVE)),
    ],
)
def test_lanes_are_names_with_commas(
    value: str, expected: tuple[LaneName, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blanks and repeats do no harm."""
    monkeypatch.setenv("STREAMS_LANES", value)
    assert load().lanes == expected


def test_brokers_are_told_apart_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks around them are dropped; IPv6 addresses stand in brackets."""
    monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", "a.example:9092, b_1:9093,[::1]:9094")
    assert load().bootstrap_servers == "a.example:9092,b_1:9093,[::1]:9094"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """`STREAMS_SCHEMA_REGISTRY_URL=` in a compose file means no registry."""
    monkeypatch.setenv("STREAMS_SCHEMA_REGISTRY_URL", "")
    monkeypatch.setenv("STREAMS_PARTITIONS", "")
    assert load().schema_registry_url is None
    assert load().partitions == 8


def test_two_settings_with_one_topic_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two settings with one topic would make a stream that reads what it writes; the line names both."""
    monkeypatch.setenv("STREAMS_TOPIC_REQUESTS", "sentence.scores")
    with pytest.raises(SettingsError, match=r"^STREAMS_TOPIC_SCORES: .* STREAMS_TOPIC_REQUESTS's"):
        load()


# -- secrets --------------------------------------------------------------------------------------------------


def test_the_secrets_are_known() -> None:
    """Every SecretStr of the settings is covered by the tests below."""
    found = [name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)]
    assert sorted(found) == sorted(SECRETS)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_can_come_from_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`NAME_FILE` names it; the line break at its end is no part of it."""
    path = tmp_path / "secret"
    secret = SECRETS[name].format("hunter2 ünd more")
    path.write_text(f"{secret}\n", encoding="utf-8")
    monkeypatch.setenv(f"{variable(name)}_FILE", str(path))
    assert secret_of(Settings(), name) == secret


def test_the_plain_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is empty, which counts as unset."""
    path = tmp_path / "secret"
    path.write_text("from the file")
    monkeypatch.setenv("STREAMS_KAFKA_SASL_PASSWORD_FILE", str(path))
    monkeypatch.setenv("STREAMS_KAFKA_SASL_PASSWORD", "from the variable")
    assert secret_of(Settings(), "kafka_sasl_password") == "from the variable"
    monkeypatch.setenv("STREAMS_KAFKA_SASL_PASSWORD", "")
    assert secret_of(Settings(), "kafka_sasl_password") == "from the file"


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_secret_file_that_cannot_be_read_is_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the variable and the path, never the content."""
    path = {"missing": tmp_path / "none", "folder": tmp_path, "binary": tmp_path / "binary"}[kind]
    (tmp_path / "binary").write_bytes(b"hunter2\xff\xfe")
    monkeypatch.setenv("STREAMS_KAFKA_SASL_PASSWORD_FILE", str(path))
    with pytest.raises(SettingsError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith("STREAMS_KAFKA_SASL_PASSWORD_FILE: ")
    assert str(path) in message
    assert len(message.splitlines()) == 1
    assert "hunter2" not in message


def test_only_secrets_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`STREAMS_MODEL_FILE` is not a setting."""
    path = tmp_path / "model"
    path.write_text("another")
    monkeypatch.setenv("STREAMS_MODEL_FILE", str(path))
    assert load().model != "another"


def test_no_secret_is_ever_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the settings, not by the connection made of them, not by the errors about other settings."""
    for name, form in SECRETS.items():
        monkeypatch.setenv(variable(name), form.format("hunter2"))
    monkeypatch.setenv("STREAMS_KAFKA_SASL_USERNAME", "worker")
    monkeypatch.setenv("STREAMS_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("STREAMS_KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("STREAMS_PARTITIONS", "none")
    shown = [failure(), failure(partitions=8), failure(partitions=8, kafka_sasl_password=["hunter2"])]
    monkeypatch.delenv("STREAMS_KAFKA_OAUTH_CLIENT_SECRET")
    settings = load(partitions=8)
    shown += [repr(settings), str(settings), settings.model_dump_json(), repr(settings.kafka_security())]
    assert not [text for text in shown if "hunter2" in text]


@pytest.mark.parametrize(
    "url",
    [
        "redis.example:6379",
        "http://:hunter2@redis.example",
        "redis://:hunter2@redis.example:hunter2",
        "redis://:hunter2@redis.example?no_such_option=hunter2",
        "redis://:hunter2@redis.example?socket_timeout=hunter2",
    ],
)
def test_a_redis_url_that_is_wrong_is_told_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read is refused at start, not at the first question; the line shows nothing of it."""
    monkeypatch.setenv("STREAMS_REDIS_URL", url)
    assert failure().startswith("STREAMS_REDIS_URL: expected a URL such as redis://")
    assert "hunter2" not in failure()


def test_security_settings_that_do_not_fit_together_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mechanism without its password is told before anything connects."""
    monkeypatch.setenv("STREAMS_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("STREAMS_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("STREAMS_KAFKA_SASL_USERNAME", "worker")
    assert failure().startswith("STREAMS_KAFKA_SASL_PASSWORD: ")
    assert len(failure().splitlines()) == 1


def test_every_setting_is_documented() -> None:
    """`doctor` and the documentation print these."""
    assert all(field.description for field in names().values())
    assert list(names()) == [variable(name) for name in Settings.model_fields]


def failure(**overrides: Any) -> str:
    """Returns what loading complains about."""
    with pytest.raises(SettingsError) as caught:
        load(**overrides)
    return str(caught.value)


def secret_of(settings: Settings, name: str) -> str:
    secret = getattr(settings, name)
    assert isinstance(secret, SecretStr)
    return secret.get_secret_value()
