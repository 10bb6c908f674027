"""Where writer schemas are looked up.

`Registry` is the protocol; `schemas.confluent` has the real one and `schemas.testing` the one in memory.
"""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class WriterSchema:
    """What a registry answers for an id; nothing in it has been checked."""

    text: str
    #: AVRO, JSON, PROTOBUF or whatever else the registry says.
    language: str = "AVRO"
    #: True where the schema uses others that the registry holds apart.
    references: bool = False


class Registry(Protocol):
    """Schemas by id. Safe to share between threads; each method may block or raise RegistryUnavailable."""

    def by_id(self, schema_id: int) -> WriterSchema:
        """The schema under an id; raises UnknownSchema."""

    def by_guid(self, guid: UUID) -> WriterSchema:
        """The schema under a GUID; raises UnknownSchema."""

    def id_of(self, subject: str, schema: str) -> int:
        """The id of an Avro schema under a subject; registers it where it is not there yet."""
