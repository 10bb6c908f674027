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
    "topic_quarantine",
    "topic_dead_letters",
    "topic_replies",
    "topic_kept_replies",
    "topic_alerts",
    "topic_models",
    "topic_training",
)
#: What Kafka allows as a topic's name, and what a client can connect to.
TOPIC = re.compile(r"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}")
SERVER = re.compile(r"([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}")
#: Signatures that need a public key only: with HS256 or none, whoever may check a token could make one.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
ORIGIN = re.compile(r"\*|https?://[a-zA-Z0-9._-]+(:[0-9]{1,5})?")


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
    topic_quarantine: str = Field(
        "sentence.scores.quarantine", description="Scores that the kill switch keeps from subscribers."
    )
    topic_dead_letters: str = Field("sentence.dead-letters", description="Records that cannot be handled.")
    topic_replies: str = Field("sentence.replies", description="Replies to requests that name this topic for them.")
    topic_kept_replies: str = Field(
        "sentence.replies.kept", description="Replies that the bridge keeps for whoever asks for them by id."
    )
    topic_alerts: str = Field("sentence.alerts", description="What a person should look at.")
    topic_models: str = Field("sentence.models", description="What each alias of a model stands for.")
    topic_training: str = Field("sentence.training", description="Scorers to train.")
    reply_topics: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further topics that requests may name for their replies, separated by commas."
    )
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
    model_backend: Literal["auto", "torch", "onnx", "openvino"] = Field(
        "auto", description="What runs the model; auto: onnx where it is prepared for that, else torch."
    )
    model_precision: Literal["float32", "int8", "float16"] = Field(
        "float32", description="How exactly it computes: int8 on the backend onnx, float16 on a CUDA device."
    )
    models_dir: Path | None = Field(
        None,
        description="Folder of the models that `models prepare` made; unset: ~/.cache/sentence-streams/models.",
    )
    artifacts: str | None = Field(
        None,
        description="Where trained models and files lie: a folder, or s3://, gs:// or az:// with a bucket; unset: ~/.local/share/sentence-streams/artifacts.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="The catalog of models, files and batches: sqlite:///file.db, or postgresql://user:password@host/name; unset: ~/.local/share/sentence-streams/catalog.db.",
    )
    max_file_bytes: int = Field(
        100_000_000, ge=1_000, le=5_000_000_000, description="Largest file that the bridge takes for a batch."
    )
    max_batch_lines: int = Field(50_000, ge=1, le=10_000_000, description="Most lines of a batch's file.")
    models_bytes: int = Field(
        2 * 1024**3,
        ge=0,
        description="Memory that loaded models may take together; beyond it those that nothing needs are dropped.",
    )
    threads: int = Field(0, ge=0, le=1024, description="Processor threads of the model; 0: one a processor.")
    token_budget: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Tokens in one micro-batch, padding included; 0: what suits the model's backend and this machine.",
    )
    queue_records: int = Field(
        512, ge=1, le=1_000_000, description="Records of one lane that may be in the worker at once."
    )
    queue_bytes: int = Field(
        64 * 1024 * 1024,
        ge=10_000,
        description="Bytes of one lane that may be in the worker at once, as records, texts and results.",
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

    # Quality of scores
    quality_records: int = Field(
        1000, ge=100, le=1_000_000, description="Sentences of a window in which a scorer's scores are judged."
    )
    quality_seconds: float = Field(
        300.0, gt=0, description="Seconds after which a window ends with fewer, if they are quality_least."
    )
    quality_least: int = Field(
        300, ge=50, le=1_000_000, description="Least sentences of a window; the index of fewer is mostly noise."
    )
    quality_watch: float = Field(
        0.1, gt=0, description="Population stability index from which on a window is worth an alert."
    )
    quality_poor: float = Field(
        0.25, gt=0, description="Population stability index from which on a fallback answers for the scorer."
    )
    kill_switch_run: int = Field(
        50, ge=1, description="A scorer is quarantined after so many scores in a row that are none (NaN, out of range),"
    )
    kill_switch_share: float = Field(
        0.2, gt=0, le=1, description="or after a window in which this share of its scores was none,"
    )
    kill_switch_windows: int = Field(2, ge=1, description="or after so many poor windows in a row.")

    # Bridge: its port
    http_host: str = Field("127.0.0.1", description="Address the bridge listens on; in a container 0.0.0.0.")
    http_port: int = Field(8000, ge=0, le=65_535, description="Port of the bridge; 0 picks one.")
    http_tls_certfile: Path | None = Field(
        None, description="PEM file of the bridge's certificate and its chain (TLS)."
    )
    http_tls_keyfile: Path | None = Field(None, description="PEM file of the bridge's key (TLS).")
    http_tls_client_cafile: Path | None = Field(
        None, description="PEM file of the authorities whose clients may connect (mutual TLS); nobody else can."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the bridge, as in https://app.example; none: no page may."
    )
    max_body_bytes: int = Field(8_000_000, ge=1_000, le=1_000_000_000, description="Largest body of an HTTP request.")
    receive_seconds: float = Field(
        10.0, gt=0, le=600, description="How long a request may take to arrive; a slower sender is cut off."
    )
    max_inflight_tokens: int = Field(
        500_000, ge=1, description="Tokens that may wait for answers in one bridge; beyond it, callers get a 429."
    )
    rate_limit: str = Field(
        "none", description="Sentences a client may send in a time, as in 600/minute; none: as many as it likes."
    )

    # Bridge: asking
    request_timeout: float = Field(
        30.0, ge=0.1, le=600, description="Longest time for an answer; a caller may ask for less by `Request-Timeout`."
    )
    max_items: int = Field(2048, ge=1, le=2048, description="Most sentences in one request.")
    max_text: int = Field(100_000, ge=1, le=1_000_000, description="Longest text of a sentence, in characters.")
    reply_partition: int = Field(
        -1, ge=-1, description="Partition of the reply topic that this bridge reads; -1: one at random."
    )

    # Bridge: who may do what
    auth: Annotated[tuple[Literal["off", "jwt", "api-key"], ...], NoDecode] = Field(
        (),
        description="How callers prove who they are: jwt, api-key, or off; unset: off on loopback, refused elsewhere.",
    )
    jwt_issuer: str | None = Field(None, description="`iss` of valid tokens.")
    jwt_audience: str | None = Field(None, description="`aud` of valid tokens.")
    jwt_jwks: str | None = Field(
        None, description="Keys that sign tokens: a file, or a URL with https (http on loopback only)."
    )
    jwt_algorithms: Annotated[tuple[Algorithm, ...], NoDecode] = Field(
        ("RS256", "ES256", "EdDSA"), description="Signature algorithms of valid tokens, separated by commas."
    )
    jwt_roles_claim: str = Field(
        "roles", description="Claim with a caller's roles; a dot goes deeper, as in realm_access.roles."
    )
    roles: str = Field(
        "reader=embed+score+models,operator=embed+score+models+replay+dead-letters,admin=all",
        description="Scopes of each role: embed, score, models, replay, dead-letters, admin, or all.",
    )
    api_keys_file: Path | None = Field(
        None, description="File of the API keys' hashes, a line each as `sentence-streams api-key` prints it."
    )

    # What is kept for a while
    redis_url: SecretStr | None = Field(
        None,
        description="Redis that processes share, as in rediss://user:password@host:6379/0; unset: each keeps its own in memory.",
    )
    cache_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Bytes of vectors that a process keeps in memory; 0: none."
    )
    cache_seconds: int = Field(7 * 86_400, ge=1, description="How long Redis keeps a vector.")
    results_seconds: int = Field(
        3600, ge=1, le=30 * 86_400, description="How long the bridge keeps results for those who ask for them by id."
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
    notify_urls: SecretStr | None = Field(
        None,
        description="Who hears of critical alerts: Apprise URLs separated by spaces, as in mailto://... slack://...; unset: nobody.",
    )
    otlp_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector (OTLP over HTTP) that gets traces, as in http://collector:4318; unset: none.",
    )
    trace_ratio: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of the bridge's requests without a trace of their own that start a recorded one.",
    )
    sentry_dsn: SecretStr | None = Field(None, description="Sentry project that gets errors; unset: none.")

    @field_validator("dead_letter_limit", "rate_limit")
    @classmethod
    def _limit(cls, value: str) -> str:
        try:
            parse("1/hour" if value == "none" else value)
        except ValueError:
            raise ValueError("expected none, or a number and a time as in 100/minute") from None
        return value

    @field_validator("lanes", "auth", "jwt_algorithms", "cors_origins", "reply_topics", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("lanes")
    @classmethod
    def _some_lane(cls, value: tuple[LaneName, ...]) -> tuple[LaneName, ...]:
        if not value:
            raise ValueError("expected at least one of bulk, interactive, replay")
        return tuple(dict.fromkeys(value))

    @field_validator("auth")
    @classmethod
    def _off_alone(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "off" in value and len(set(value)) > 1:
            raise ValueError("expected either off, or jwt and api-key")
        return value

    @field_validator("jwt_algorithms")
    @classmethod
    def _some_algorithm(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one algorithm")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(ORIGIN.fullmatch(origin) for origin in value):
            raise ValueError("expected origins as in https://app.example, separated by commas, or *")
        return value

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",")]
        if not all(SERVER.fullmatch(server) for server in servers):
            raise ValueError("expected host:port, several separated by commas")
        return ",".join(servers)

    @field_validator("schema_registry_url", "otlp_endpoint")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("expected a URL that begins with https:// or http://")
        return value

    @field_validator("artifacts")
    @classmethod
    def _place(cls, value: str | None) -> str | None:
        if value is not None and "://" in value and not value.startswith(("s3://", "gs://", "az://")):
            raise ValueError("expected a folder, or a URL that begins with s3://, gs:// or az://")
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.match(r"(sqlite|postgres(ql)?)(\+\w+)?://", value.get_secret_value()):
            raise ValueError("expected a URL such as sqlite:///catalog.db or postgresql://host/name")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_redis(value.get_secret_value())
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

    @field_validator("reply_topics")
    @classmethod
    def _reply_topics(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        others = {info.data.get(name) for name in TOPICS if name != "topic_replies"}
        if others & set(value) or not all(TOPIC.fullmatch(name) for name in value):
            raise ValueError("expected names of topics, separated by commas, and none of the stream's own")
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


def _check_redis(url: str) -> None:
    """Has the library read it, as it will later; its own complaints could show a part of the password."""
    from redis import ConnectionPool  # only where it is used: it takes longer to import than the rest of this module

    try:
        pool = ConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError):
        raise ValueError("expected a URL such as redis://host:6379/0, with rediss:// for TLS") from None


def _is_secret(field: Any) -> bool:
    return SecretStr in getattr(field.annotation, "__args__", (field.annotation,))


def names() -> dict[str, Any]:
    """Returns environment variable -> pydantic field, in the order of the documentation."""
    return {PREFIX + name.upper(): field for name, field in Settings.model_fields.items()}
