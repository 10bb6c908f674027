"""A registry in memory, for tests of ours and of whoever uses this product."""

from collections import defaultdict
from threading import Lock
from uuid import NAMESPACE_OID, UUID, uuid5

from schemas.errors import RegistryUnavailable, UnknownSchema
from schemas.registry import WriterSchema


class FakeRegistry:
    """Gives out ids from 1 in the order of registration; the same schema has the same id under every subject.

    Set `away` to make every question fail as if the registry were down. `asked` counts the questions,
    `subjects` has the ids that were registered under each.
    """

    def __init__(self) -> None:
        self.away = False
        self.asked = 0
        self.subjects: defaultdict[str, set[int]] = defaultdict(set)
        self._lock = Lock()
        self._schemas: dict[int, WriterSchema] = {}

    def by_id(self, schema_id: int) -> WriterSchema:
        """The schema under an id; raises UnknownSchema, or RegistryUnavailable while `away`."""
        self._count()
        if schema_id not in self._schemas:
            raise UnknownSchema(f"schema id {schema_id}: the registry does not have it")
        return self._schemas[schema_id]

    def by_guid(self, guid: UUID) -> WriterSchema:
        """The schema under a GUID; raises UnknownSchema, or RegistryUnavailable while `away`."""
        self._count()
        for schema_id, schema in self._schemas.items():
            if self.guid_of(schema_id) == guid:
                return schema
        raise UnknownSchema(f"schema GUID {guid}: the registry does not have it")

    def id_of(self, subject: str, schema: str) -> int:
        """The id of an Avro schema; every subject takes every schema."""
        self._count()
        schema_id = self.add(WriterSchema(schema))
        self.subjects[subject].add(schema_id)
        return schema_id

    def add(self, schema: WriterSchema) -> int:
        """The id of any schema at all, also one that is not Avro."""
        with self._lock:
            for schema_id, known in self._schemas.items():
                if known == schema:
                    return schema_id
            schema_id = len(self._schemas) + 1
            self._schemas[schema_id] = schema
            return schema_id

    @staticmethod
    def guid_of(schema_id: int) -> UUID:
        """The GUID that this registry gives the schema under an id."""
        return uuid5(NAMESPACE_OID, str(schema_id))

    def _count(self) -> None:
        self.asked += 1
        if self.away:
            raise RegistryUnavailable("the registry is away")
