"""Every setting, typed and documented; the environment (prefix `STREAMS_`) is their only source.

A secret can also come from a file: `STREAMS_KAFKA_SASL_PASSWORD_FILE=/run/secrets/kafka`.
"""

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from limits import parse
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from streams.brokers.security import KafkaSecurity
from streams.lanes import LaneName

PREFIX = "STREAMS_"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TOPICS = (
    "topic_requests",
    "topic_interactive",
    "topic_replay",
    "topic_embeddings",
    "topic_scores",
    "topic_dead_letters",
)
#: What Kafka allows as a topic's name, and what a client can connect to.
TOPIC = re.compile(r"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}")
SERVER = re.compile(r"([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}")


class LogText(StrEnum):
    """What of a sentence's text may appear in logs."""

    NONE = "none"
    HASH = "hash"
    FULL = "full"


class SecretFiles(PydanticBaseSettingsSource):
    """Reads `NAME_FILE` wherever the setting `NAME` is a secret; the plain variable wins when both are set."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{PREFIX}{field_name.upper()}_FILE")
        if path is None or not _is_secret(field):
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except OSError as error:
            raise SettingsError(f"{PREFIX}{field_name.upper()}_FILE: cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{PREFIX}{field_name.upper()}_FILE: expected UTF-8 text in {path}") from None

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class SettingsError(Exception):
    """A setting is wrong; the message has one line a setting: its name, what was expected, what came."""


class Settings(BaseSettings):
    """What an operator can set. Times are seconds, sizes bytes, unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    # Broker
    bootstrap_servers: str = Field("localhost:9092", description="Kafka brokers, host:port separated by commas.")
    group: str = Field(
        "sentence-streams",
        min_length=1,
        description="Consumer group of the worker; the scorer adds `-score`, the replay lane `-replay`.",
    )
    lanes: Annotated[tuple[LaneName, ...], NoDecode] = Field(
        (LaneName.BULK, LaneName.INTERACTIVE),
        description="Lanes this worker serves: bulk, interactive, replay.",
    )
    delivery: Literal["at_least_once", "exactly_once"] = Field(
        "at_least_once", description="Delivery guarantee of results."
    )
    session_timeout: float = Field(
        10.0, ge=1, le=300, description="A worker that sends no heartbeat this long has lost its partitions."
    )
    commit_interval: float = Field(0.1, gt=0, le=60, description="How often finished offsets are committed.")
    drain_timeout: float = Field(
        25.0, gt=0, le=600, description="How long a leaving worker may take to finish what is in flight."
    )

    # Security to the broker
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to speak to the brokers."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        None, description="SASL mechanism, with a SASL_ protocol."
    )
    kafka_sasl_username: str | None = Field(None, description="User of PLAIN and SCRAM.")
    kafka_sasl_password: SecretStr | None = Field(None, description="Password of PLAIN and SCRAM.")
    kafka_ssl_cafile: Path | None = Field(
        None, description="PEM file of the authorities that sign the brokers' certificates."
    )
    kafka_ssl_certfile: Path | None = Field(None, description="PEM file of this client's certificate (mutual TLS).")
    kafka_ssl_keyfile: Path | None = Field(None, description="PEM file of this client's key (mutual TLS).")
    kafka_oauth_token_url: str | None = Field(None, description="Token endpoint of OAUTHBEARER (client credentials).")
    kafka_oauth_client_id: str | None = Field(None, description="Client id of OAUTHBEARER.")
    kafka_oauth_client_secret: SecretStr | None = Field(None, description="Client secret of OAUTHBEARER.")
    kafka_oauth_scope: str | None = Field(None, description="Scope asked of the token endpoint.")

    # Schema registry
    schema_registry_url: str | None = Field(
        None, description="Confluent-compatible registry; unset: Avro single-object encoding, no registry."
    )
    schema_registry_username: str | None = Field(None, description="User of the registry.")
    schema_registry_password: SecretStr | None = Field(None, description="Password of the registry.")
    schema_registry_cafile: Path | None = Field(
        None, description="PEM file of the authorities that sign the registry's certificate."
    )

    # Topics
    topic_requests: str = Field("sentence.requests", description="Requests of the bulk lane.")
    topic_interactive: str = Field("sentence.requests.interactive", description="Requests of the interactive lane.")
    topic_replay: str = Field("sentence.requests.replay", description="Requests of the replay lane.")
    topic_embeddings: str = Field("sentence.embeddings", description="Embedding results.")
    topic_scores: str = Field("sentence.scores", description="Score results.")
    topic_dead_letters: str = Field("sentence.dead-letters", description="Records that cannot be handled.")
    partitions: int = Field(8, ge=1, le=10_000, description="Partitions of every topic that `provision` creates.")
    replication: int = Field(1, ge=1, le=10, description="Replicas of every topic that `provision` creates.")
    max_request_bytes: int = Field(
        1_000_000,
        ge=10_000,
        le=100_000_000,
        description="Largest request record; dead letters get room for it and their headers.",
    )
    retention_requests: int = Field(
        7 * 86_400, ge=60, description="How long requests are kept, so how far back a replay reaches."
    )
    retention_dead_letters: int = Field(30 * 86_400, ge=60, description="How long dead letters are kept.")
    results_cleanup: Literal["compact", "delete", "compact,delete"] = Field(
        "compact", description="cleanup.policy of the result topics."
    )
    retention_results: int = Field(
        30 * 86_400, ge=60, description="How long results are kept where their cleanup deletes."
    )

    # Model
    model: str = Field(DEFAULT_MODEL, description="Model name, a folder, or `deterministic` (cheap, for tests).")
    model_revision: str | None = Field(None, description="Revision of the model; the default model is pinned.")
    model_backend: Literal["auto", "torch"] = Field("auto", description="What runs the model.")
    threads: int = Field(0, ge=0, le=1024, description="Processor threads of the model; 0: one a processor.")
    token_budget: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Tokens in one micro-batch, padding included; 0: what suits the model's backend.",
    )
    queue_records: int = Field(
        512, ge=1, le=1_000_000, description="Records of one lane that may be in the worker at once."
    )
    queue_bytes: int = Field(
        64 * 1024 * 1024, ge=10_000, description="Bytes of one lane that may be in the worker at once."
    )
    retry_attempts: int = Field(
        2,
        ge=1,
        le=100,
        description="Tries of a record that fails alone, or kills its process, before it is a dead letter.",
    )
    retry_seconds: float = Field(
        300.0,
        gt=0,
        description="Seconds after which a record that fails alone is a dead letter, however often it was tried.",
    )
    dead_letter_limit: str = Field(
        "100000/hour",
        description="Dead letters a worker may write in a time, as in 100/minute; beyond it partitions wait. none: no limit.",
    )
    publish_text: bool = Field(
        True, description="Whether an embedding carries its text (scorers that read text need it)."
    )
    scorers_file: Path | None = Field(
        None, description="TOML or YAML file of the similarity scorers; unset: the bundled example."
    )

    # Watching
    health_port: int = Field(9100, ge=0, le=65_535, description="Port of health and metrics of a worker; 0 picks one.")
    health_host: str = Field("127.0.0.1", description="Address of health and metrics; in a container 0.0.0.0.")
    stall_seconds: float = Field(
        45.0, gt=0, description="Liveness fails when work waits this long without any progress."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["json", "console"] = Field("json", description="One JSON object a line, or coloured text.")
    log_text: LogText = Field(LogText.NONE, description="Whether logs may hold texts: none, their hash, or full.")

    @field_validator("dead_letter_limit")
    @classmethod
    def _limit(cls, value: str) -> str:
        try:
            parse("1/hour" if value == "none" else value)
        except ValueError:
            raise ValueError("expected none, or a number and a time as in 100/minute") from None
        return value

    @field_validator("lanes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("lanes")
    @classmethod
    def _some_lane(cls, value: tuple[LaneName, ...]) -> tuple[LaneName, ...]:
        if not value:
            raise ValueError("expected at least one of bulk, interactive, replay")
        return tuple(dict.fromkeys(value))

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",")]
        if not all(SERVER.fullmatch(server) for server in servers):
            raise ValueError("expected host:port, several separated by commas")
        return ",".join(servers)

    @field_validator("schema_registry_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("expected a URL that begins with https:// or http://")
        return value

    @field_validator(*TOPICS)
    @classmethod
    def _topic(cls, value: str, info: ValidationInfo) -> str:
        if not TOPIC.fullmatch(value):
            raise ValueError("expected a topic's name: 1 to 249 of a-z, A-Z, 0-9, '.', '_', '-'")
        for other in TOPICS:
            if info.data.get(other) == value:  # a stream that read what it writes would never end
                raise ValueError(f"expected a topic of its own, this is {PREFIX}{other.upper()}'s")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, SecretFiles(settings_cls)

    def kafka_security(self) -> KafkaSecurity:
        """Returns how every Kafka client reaches the brokers; raises SettingsError where that is inconsistent."""
        try:
            return KafkaSecurity(
                protocol=self.kafka_security_protocol,
                mechanism=self.kafka_sasl_mechanism,
                username=self.kafka_sasl_username,
                password=self.kafka_sasl_password,
                cafile=self.kafka_ssl_cafile,
                certfile=self.kafka_ssl_certfile,
                keyfile=self.kafka_ssl_keyfile,
                oauth_token_url=self.kafka_oauth_token_url,
                oauth_client_id=self.kafka_oauth_client_id,
                oauth_client_secret=self.kafka_oauth_client_secret,
                oauth_scope=self.kafka_oauth_scope,
            )
        except ValueError as error:
            raise SettingsError(str(error)) from None


def load(**overrides: Any) -> Settings:
    """Reads the environment; raises SettingsError with one line for each wrong setting."""
    try:
        settings = Settings(**overrides)
        settings.kafka_security()
    except ValidationError as error:
        raise SettingsError("\n".join(_line(item) for item in error.errors(include_url=False))) from None
    return settings


def _line(item: Any) -> str:
    name = PREFIX + str(item["loc"][0]).upper() if item["loc"] else PREFIX.rstrip("_")
    message = item["msg"].removeprefix("Value error, ")
    field = Settings.model_fields.get(str(item["loc"][0])) if item["loc"] else None
    got = "" if field and _is_secret(field) else f", got {item['input']!r}"
    return f"{name}: {message[0].lower()}{message[1:]}{got}"


def _is_secret(field: Any) -> bool:
    return SecretStr in getattr(field.annotation, "__args__", (field.annotation,))


def names() -> dict[str, Any]:
    """Returns environment variable -> pydantic field, in the order of the documentation."""
    return {PREFIX + name.upper(): field for name, field in Settings.model_fields.items()}
