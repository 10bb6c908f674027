"""`sentence-streams doctor`: is everything there that a worker needs, and what to do where it is not."""

import difflib
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata

import confluent_kafka
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError
from pydantic import SecretStr
from rich.text import Text

from agents.clients import broker, registry_client, request_topics
from agents.console import print_json, table, waiting
from agents.reference import is_secret
from schemas.contracts import current
from schemas.errors import StreamsError
from schemas.records import Alert, Embedding, ModelCommand, Reply, Score, Sentence, TrainingRequest
from streams.brokers.admin import CannotShrink, TopicSpec, TopicState, describe, difference
from streams.settings import PREFIX, Settings, names
from streams.topics import specs

#: Seconds until a broker must have answered.
PATIENCE = 10.0
#: Bytes of free disk below which logs and a model's download are in danger.
ENOUGH_DISK = 2 * 1024**3
COMPATIBILITY = "FULL_TRANSITIVE"
DISTRIBUTIONS = (
    "sentence-streams", "faust-streaming", "aiokafka", "confluent-kafka", "sentence-transformers", "torch",
)  # fmt: skip
HIDDEN = "(hidden)"


class Status(StrEnum):
    """How a check went; only FAIL makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it."""

    check: str
    status: Status
    detail: str
    advice: str = ""


def run(settings: Settings, *, model: bool, as_json: bool) -> int:
    """Runs every check and prints the findings; returns 3 if one failed, else 0."""
    with waiting("checking"):
        findings = list(examine(settings, model=model))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        table(("", "check", "found"), [row for finding in findings for row in _rows(finding)])
    return 3 if any(finding.status is Status.FAIL for finding in findings) else 0


def examine(settings: Settings, *, model: bool) -> Iterator[Finding]:
    """Yields the findings of every check; the model is loaded only where asked for."""
    yield from _settings(settings, os.environ)
    yield from _broker(settings)
    yield from _registry(settings)
    yield _catalog(settings)
    yield _artifacts(settings)
    if model:
        yield from _model(settings)
    yield _port(settings)
    yield _machine()
    yield _versions()


def _rows(finding: Finding) -> Iterator[tuple[str | Text, str, str]]:
    yield Text(finding.status, COLOURS[finding.status]), finding.check, finding.detail
    if finding.advice:
        yield "", "", f"-> {finding.advice}"


# -- settings -------------------------------------------------------------------------------------------------


def _settings(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    fields = names()
    given = [name for name in fields if name.removeprefix(PREFIX).lower() in settings.model_fields_set]
    listed = "\n".join(f"{name}={_shown(settings, name)}" for name in given)
    yield Finding("settings", Status.OK, listed or "all at their defaults")
    accepted = {*fields, *(f"{name}_FILE" for name, field in fields.items() if is_secret(field))}
    for name in environment:
        if name.startswith(PREFIX) and name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1)
            advice = f"did you mean {near[0]}?" if near else "unset it, or look in .env.example for its name"
            yield Finding("settings", Status.WARN, f"{name} is not a setting", advice)


def _shown(settings: Settings, name: str) -> str:
    value = getattr(settings, name.removeprefix(PREFIX).lower())
    if isinstance(value, SecretStr):
        return HIDDEN
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return re.sub(r"//[^/@\s]*@", f"//{HIDDEN}@", text)  # a URL may hold a login


# -- broker and topics ----------------------------------------------------------------------------------------


def _broker(settings: Settings) -> Iterator[Finding]:
    try:
        started = time.monotonic()
        admin = broker(settings, PATIENCE)
        milliseconds = (time.monotonic() - started) * 1000
        count = len(admin.list_topics(timeout=10).brokers)
        wanted = specs(settings)
        states = describe(admin, [spec.name for spec in wanted])
    except StreamsError as error:
        advice = f"check {PREFIX}BOOTSTRAP_SERVERS, {PREFIX}KAFKA_* and that it runs; topics were not checked"
        yield Finding("broker", Status.FAIL, str(error), advice)
        return
    detail = f"{settings.bootstrap_servers} answered in {milliseconds:.0f} ms, {count} in the cluster"
    yield Finding("broker", Status.OK, detail)
    for spec in wanted:
        yield _topic(spec, states[spec.name])


def _topic(spec: TopicSpec, state: TopicState | None) -> Finding:
    check = f"topic {spec.name}"
    if state is None:
        return Finding(check, Status.FAIL, "does not exist", "run `sentence-streams provision`")
    found = f"{state.partitions} partitions, {state.replication} replicas"
    if not state.config:
        return Finding(check, Status.OK, f"{found}, on an embedded broker")
    try:
        change = difference(spec, state)
    except CannotShrink:
        advice = f"set {PREFIX}PARTITIONS to {state.partitions}: Kafka cannot remove partitions"
        return Finding(check, Status.WARN, f"{found}, {spec.partitions} wanted", advice)
    if change.changed or change.grown:
        too_small = "max.message.bytes" in change.changed and _size(state) < _size(spec)
        differs = str(change).removeprefix(f"{spec.name}: ")
        status = Status.FAIL if too_small else Status.WARN
        return Finding(check, status, f"{found}; would be: {differs}", "run `sentence-streams provision`")
    if change.replication:
        advice = f"reassign its partitions, or set {PREFIX}REPLICATION to {state.replication}"
        return Finding(check, Status.WARN, f"{found}, {spec.replication} wanted", advice)
    return Finding(check, Status.OK, found)


def _size(topic: TopicSpec | TopicState) -> int:
    return int(topic.config.get("max.message.bytes", 0))


# -- registry -------------------------------------------------------------------------------------------------


def _registry(settings: Settings) -> Iterator[Finding]:
    client = registry_client(settings)
    if client is None:
        yield Finding("registry", Status.OK, "none configured: values carry the fingerprint of their schema")
        return
    kinds: dict[str, type] = dict.fromkeys(request_topics(settings).values(), Sentence)
    kinds |= dict.fromkeys([settings.topic_replies, settings.topic_kept_replies], Reply)
    kinds |= {settings.topic_embeddings: Embedding, settings.topic_scores: Score}
    kinds |= {settings.topic_alerts: Alert, settings.topic_models: ModelCommand}
    kinds[settings.topic_training] = TrainingRequest
    try:
        with client:
            yield _compatibility(client)
            for topic, kind in kinds.items():
                yield _subject(client, f"{topic}-value", current(kind).text)
    except Exception as error:  # the registry's client lets through errors of the HTTP library below it
        advice = f"check {PREFIX}SCHEMA_REGISTRY_URL, _USERNAME, _PASSWORD and _CAFILE, and that it runs"
        yield Finding("registry", Status.FAIL, _first_line(error), advice)


def _compatibility(client: SchemaRegistryClient) -> Finding:
    level = str(client.get_compatibility())
    detail = f"answers; its compatibility is {level}"
    if level != COMPATIBILITY:
        advice = f"set it to {COMPATIBILITY}, so that nobody can register what breaks readers"
        return Finding("registry", Status.WARN, detail, advice)
    return Finding("registry", Status.OK, detail)


def _subject(client: SchemaRegistryClient, subject: str, schema: str) -> Finding:
    check = f"schema {subject}"
    try:
        versions = client.get_versions(subject)
    except SchemaRegistryError as error:
        if error.http_status_code != 404:
            raise
        return Finding(check, Status.OK, "not registered yet; the first record will")
    if client.test_compatibility(subject, Schema(schema, "AVRO")):
        return Finding(check, Status.OK, f"version {versions[-1]} is compatible")
    advice = "somebody else registered another schema there: use other topics, or remove it"
    return Finding(check, Status.FAIL, f"version {versions[-1]} is not compatible with ours", advice)


# -- catalog and artifacts ------------------------------------------------------------------------------------


def _catalog(settings: Settings) -> Finding:
    from streams.models.database import Database, OtherSchema, head

    advice = f"check {PREFIX}DATABASE_URL; the stream goes on without it, training and batches wait"
    try:
        with closing(Database(settings.database_url)) as database, database.begin():
            pass
    except OtherSchema as error:
        return Finding("catalog", Status.FAIL, str(error), "run `sentence-streams db upgrade`")
    except StreamsError as error:
        return Finding("catalog", Status.WARN, str(error), advice)
    return Finding("catalog", Status.OK, f"{database.name} answers, schema {head()}")


def _artifacts(settings: Settings) -> Finding:
    from streams.models.artifacts import ArtifactMissing, ArtifactStore

    try:
        store = ArtifactStore.at(settings.artifacts)
        store.get("0" * 64)
    except ArtifactMissing:
        return Finding("artifacts", Status.OK, f"{store.place} answers")
    except StreamsError as error:
        advice = f"check {PREFIX}ARTIFACTS, and for a bucket the login that its own variables give (AWS_*, ...)"
        return Finding("artifacts", Status.WARN, str(error), advice)
    return Finding("artifacts", Status.WARN, f"{store.place} holds what nobody could have put there")


# -- model ----------------------------------------------------------------------------------------------------


def _model(settings: Settings) -> Iterator[Finding]:
    from streams.embedding import golden, loader

    if settings.model == loader.DETERMINISTIC:
        advice = f"unset {PREFIX}MODEL for real vectors"
        yield Finding("model", Status.WARN, "deterministic: its vectors mean nothing", advice)
        return
    started = time.monotonic()
    try:
        identity = loader.configured(settings).identity
        detail = f"{identity.name} at {identity.revision}, {identity.precision}, sha256 {identity.digest}"
        yield Finding("model", Status.OK, f"{detail}, loaded in {time.monotonic() - started:.1f} s")
    except StreamsError as error:
        yield Finding("model", Status.FAIL, str(error), f"no worker will start with it; see {PREFIX}MODEL")
        return
    known = golden.stored_vectors(identity) is not None
    detail = (
        "as stored" if known else "of unit length, the same alone and in a batch; none are stored here for this model"
    )
    yield Finding("vectors", Status.OK, detail)


# -- this machine ---------------------------------------------------------------------------------------------


def _port(settings: Settings) -> Finding:
    host, port = settings.health_host, settings.health_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            advice = f"fine where a worker runs already; for another one set {PREFIX}HEALTH_PORT (0 picks one)"
            return Finding("health port", Status.WARN, f"{host}:{port}: {error.strerror}", advice)
    return Finding("health port", Status.OK, f"{host}:{port} is free" if port else "one will be picked")


def _machine() -> Finding:
    disk = shutil.disk_usage(os.path.expanduser("~") if os.path.isdir(os.path.expanduser("~")) else "/")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{cores} processors, {disk.free / 1024**3:.1f} GiB of disk free"
    if disk.free < ENOUGH_DISK:
        return Finding("machine", Status.WARN, detail, "make room: a model that is fetched needs some")
    return Finding("machine", Status.OK, detail)


def _versions() -> Finding:
    found = [f"Python {sys.version.split()[0]}", f"librdkafka {confluent_kafka.libversion()[0]}"]
    return Finding("versions", Status.OK, ", ".join([*found, *map(_version, DISTRIBUTIONS)]))


def _version(distribution: str) -> str:
    try:
        return f"{distribution} {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return f"{distribution} (not installed)"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
