"""A registry that speaks Confluent's REST interface, as Karapace, Redpanda and Apicurio do, with a memory.

A schema never changes under its id, so what is known stays known. An unknown id stays unknown for a while:
hostile records cost the registry one question, not one each.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar
from uuid import UUID

from cachetools import LRUCache, TTLCache
from confluent_kafka.schema_registry import (
    RegisteredSchema,
    Schema,
    SchemaRegistryClient,
    SchemaRegistryError,
)

from schemas.errors import RegistryUnavailable, UnknownSchema
from schemas.registry import WriterSchema

#: Registries give out signed ids, though the wire format has room for more.
MAX_ID: Final = 0x7FFF_FFFF

#: How many answers to remember.
_KNOWN: Final = 256
_UNKNOWN: Final = 10_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """How to reach a registry; the files are PEM, `timeout` is in seconds and for one request."""

    url: str = field(repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    timeout: float = 5.0

    def connect(self) -> SchemaRegistryClient:
        """A client with these settings; it opens no connection yet."""
        given = {
            "url": self.url,
            "timeout": self.timeout,
            # One more try hides a connection that idled out; longer outages are the caller's to wait for.
            "max.retries": 1,
            "retries.wait.ms": 100,
            "basic.auth.user.info": None if self.user is None else f"{self.user}:{self.password or ''}",
            "ssl.ca.location": self.cafile,
            "ssl.certificate.location": self.certfile,
            "ssl.key.location": self.keyfile,
        }
        return SchemaRegistryClient({key: value for key, value in given.items() if value is not None})


class Client(Protocol):
    """The part of confluent-kafka's SchemaRegistryClient that is used here."""

    def get_schema(self, schema_id: int) -> Schema: ...

    def get_schema_by_guid(self, guid: str) -> Schema: ...

    def lookup_schema(self, subject_name: str, schema: Schema) -> RegisteredSchema: ...

    def register_schema(self, subject_name: str, schema: Schema) -> int: ...


class ConfluentRegistry:
    """The registry behind a client; an unknown id stays unknown for `unknown_for` seconds."""

    def __init__(self, client: Client, *, unknown_for: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        self._client = client
        self._schemas: Remembered[int | UUID, WriterSchema] = Remembered(self._find, unknown_for, clock)
        self._ids: Remembered[tuple[str, str], int] = Remembered(self._register, unknown_for, clock)

    def by_id(self, schema_id: int) -> WriterSchema:
        """The schema under an id; raises UnknownSchema or RegistryUnavailable."""
        if schema_id > MAX_ID:
            raise UnknownSchema(f"schema id {schema_id}: expected {MAX_ID} at most")
        return self._schemas(schema_id)

    def by_guid(self, guid: UUID) -> WriterSchema:
        """The schema under a GUID; raises UnknownSchema or RegistryUnavailable."""
        return self._schemas(guid)

    def id_of(self, subject: str, schema: str) -> int:
        """The id of an Avro schema under a subject, registered if need be; raises RegistryUnavailable."""
        return self._ids((subject, schema))

    def _find(self, key: int | UUID) -> WriterSchema:
        try:
            found = self._get(key)
        except Exception as error:
            # Not every registry has an address for GUIDs: that 404 must not hold the partition for ever.
            if _not_found(error) or (isinstance(key, UUID) and getattr(error, "http_status_code", 0) == 404):
                raise UnknownSchema(f"schema {key}: the registry does not have it") from None
            raise _unavailable(error, f"schema {key}") from error
        return WriterSchema(str(found.schema_str or ""), str(found.schema_type), bool(found.references))

    def _get(self, key: int | UUID) -> Schema:
        if isinstance(key, int):
            return self._client.get_schema(key)
        return self._client.get_schema_by_guid(str(key))

    def _register(self, key: tuple[str, str]) -> int:
        subject, text = key
        schema = Schema(text, "AVRO")
        try:
            return self._known(subject, schema) or self._client.register_schema(subject, schema)
        except Exception as error:
            raise _unavailable(error, f"subject {subject}") from error

    def _known(self, subject: str, schema: Schema) -> int | None:
        """The id where the schema is there already: asking needs no right to write."""
        try:
            found: int | None = self._client.lookup_schema(subject, schema).schema_id
            return found
        except SchemaRegistryError as error:
            if _not_found(error):
                return None
            raise


class Remembered(Generic[K, V]):
    """Answers to a question that is asked once: a find is kept, UnknownSchema for `unknown_for` seconds.

    While one thread asks, others that want the same answer wait for it. Any other error goes to all who
    wait and is forgotten.
    """

    def __init__(self, ask: Callable[[K], V], unknown_for: float, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._known: LRUCache[K, V] = LRUCache(_KNOWN)
        self._unknown: TTLCache[K, str] = TTLCache(_UNKNOWN, unknown_for, clock)
        self._asking: dict[K, Future[V]] = {}

    def __call__(self, key: K) -> V:
        with self._lock:
            if key in self._known:
                return self._known[key]
            if (message := self._unknown.get(key)) is not None:
                raise UnknownSchema(message)
            answer = self._asking.get(key)
            first = answer is None
            if answer is None:
                answer = self._asking[key] = Future()
        if first:
            self._settle(key, answer)
        return answer.result()

    def _settle(self, key: K, answer: "Future[V]") -> None:
        try:
            found = self._ask(key)
        except BaseException as error:
            with self._lock:
                del self._asking[key]
                if isinstance(error, UnknownSchema):
                    self._unknown[key] = str(error)
            answer.set_exception(error)
        else:
            with self._lock:
                del self._asking[key]
                self._known[key] = found
            answer.set_result(found)


def _not_found(error: Exception) -> bool:
    """Whether the registry itself says so, by a code from 40400 to 40499; a plain 404 is a wrong address."""
    code = getattr(error, "error_code", None)
    return isinstance(code, int) and code // 100 == 404


def _unavailable(error: Exception, about: str) -> RegistryUnavailable:
    """Whatever came instead of an answer, from a refused connection to a page that is not JSON."""
    if isinstance(error, SchemaRegistryError):
        told = f"answered {error.http_status_code}: {error.error_message}"
    else:
        told = f"did not answer: {type(error).__name__}: {error}"
    return RegistryUnavailable(f"{about}: the registry {told}"[:500])
