"""The Confluent registry: what it remembers, whom it asks, and what an outage looks like."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest
from confluent_kafka.schema_registry import RegisteredSchema, Schema, SchemaRegistryError

from schemas.confluent import MAX_ID, ConfluentRegistry, RegistryAccess, Remembered
from schemas.errors import RegistryUnavailable, UnknownSchema
from schemas.registry import WriterSchema

UNKNOWN = SchemaRegistryError(404, 40403, "Schema not found")


class CountingClient:
    """Stands for SchemaRegistryClient: knows what it is given, and counts what it is asked."""

    def __init__(self):
        self.schemas = {}
        self.asked = Counter()
        self.error = None

    def get_schema(self, schema_id):
        return self._answer("id", schema_id)

    def get_schema_by_guid(self, guid):
        return self._answer("guid", guid)

    def lookup_schema(self, subject_name, schema):
        found = self._answer("lookup", (subject_name, schema.schema_str))
        return RegisteredSchema(subject_name, 1, found, None, schema)

    def register_schema(self, subject_name, schema):
        return self._answer("register", (subject_name, schema.schema_str))

    def _answer(self, question, key):
        self.asked[question] += 1
        if self.error:
            raise self.error
        if (question, key) not in self.schemas:
            raise UNKNOWN
        return self.schemas[question, key]


class Clock:
    """A clock that stands until it is moved."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def client():
    """A client that knows id 7."""
    client = CountingClient()
    client.schemas["id", 7] = Schema('"string"', "AVRO")
    return client


@pytest.fixture
def clock():
    """A clock under the test's control."""
    return Clock()


@pytest.fixture
def registry(client, clock):
    """A registry over the counting client."""
    return ConfluentRegistry(client, unknown_for=60, clock=clock)


def test_a_known_id_is_asked_for_once(registry, client, clock):
    """What an id means never changes, so it is never asked again, however long ago it was."""
    assert registry.by_id(7) == WriterSchema('"string"')
    clock.now += 1_000_000
    assert registry.by_id(7) == WriterSchema('"string"')
    assert client.asked == {"id": 1}


def test_an_unknown_id_is_remembered_as_unknown_for_a_while(registry, client, clock):
    """Records with an unknown id cost one question a minute; a schema registered late is found then."""
    for _ in range(5):
        with pytest.raises(UnknownSchema, match="8: the registry does not have it"):
            registry.by_id(8)
    clock.now += 59
    with pytest.raises(UnknownSchema):
        registry.by_id(8)
    assert client.asked == {"id": 1}
    client.schemas["id", 8] = Schema('"long"', "AVRO")
    clock.now += 2
    assert registry.by_id(8).text == '"long"'
    assert client.asked == {"id": 2}


def test_an_impossible_id_is_not_asked_for(registry, client):
    """An id beyond what registries give out is unknown without a question."""
    with pytest.raises(UnknownSchema, match="expected 2147483647 at most"):
        registry.by_id(MAX_ID + 1)
    assert not client.asked


def test_guids_are_remembered_too(registry, client):
    """Schemas by GUID are kept like schemas by id."""
    client.schemas["guid", str(UUID(int=9))] = Schema('"long"', "AVRO")
    for _ in range(3):
        assert registry.by_guid(UUID(int=9)).text == '"long"'
        with pytest.raises(UnknownSchema):
            registry.by_guid(UUID(int=10))
    assert client.asked == {"guid": 2}


def test_a_registry_without_guids_knows_none(registry, client):
    """A plain 404 for a GUID is an unknown schema: such a record must not hold its partition for ever."""
    client.error = SchemaRegistryError(404, 0, "no resource")
    with pytest.raises(UnknownSchema):
        registry.by_guid(UUID(int=9))


def test_what_the_registry_says_of_a_schema_is_kept(registry, client):
    """Its language and whether it refers to others reach the codec, which refuses what it cannot read."""
    client.schemas["id", 8] = Schema("syntax", "PROTOBUF", references=[object()])
    client.schemas["id", 9] = Schema(None, None)
    assert registry.by_id(8) == WriterSchema("syntax", "PROTOBUF", references=True)
    assert registry.by_id(9) == WriterSchema("", "None")


def test_a_registered_schema_is_looked_up_not_registered(registry, client):
    """Where the schema is there already nothing is written, so a reader's rights are enough."""
    client.schemas["lookup", ("t-value", '"x"')] = 5
    assert [registry.id_of("t-value", '"x"') for _ in range(3)] == [5, 5, 5]
    assert client.asked == {"lookup": 1}


def test_a_new_schema_is_registered_once(registry, client):
    """Where the schema is not there yet it is registered."""
    client.schemas["register", ("t-value", '"x"')] = 6
    assert [registry.id_of("t-value", '"x"') for _ in range(3)] == [6, 6, 6]
    assert client.asked == {"lookup": 1, "register": 1}


@pytest.mark.parametrize(
    "error",
    [
        SchemaRegistryError(500, 50001, "store"),
        SchemaRegistryError(404, 404, "HTTP 404 Not Found"),
        SchemaRegistryError(404, -1, "<html>"),
        SchemaRegistryError(401, 40101, "who are you"),
        SchemaRegistryError(429, None, "slow down"),
        ConnectionError("refused"),
        TimeoutError("late"),
        ValueError("not JSON"),
    ],
    ids=str,
)
def test_every_other_failure_is_a_retry(registry, client, error):
    """An outage, wrong credentials or a wrong address make records wait, and are not remembered."""
    client.error = error
    for _ in range(2):
        with pytest.raises(RegistryUnavailable):
            registry.by_id(8)
        with pytest.raises(RegistryUnavailable, match="t-value"):
            registry.id_of("t-value", '"x"')
    assert client.asked == {"id": 2, "lookup": 2}


def test_a_refused_schema_is_a_retry(registry, client):
    """A subject that refuses our schema is for an operator to settle: results wait, none is lost."""
    client.register_schema = lambda *_: (_ for _ in ()).throw(SchemaRegistryError(409, 409, "incompatible"))
    with pytest.raises(RegistryUnavailable, match=r"subject t-value: .*answered 409: incompatible"):
        registry.id_of("t-value", '"x"')


def test_threads_that_want_the_same_answer_ask_once():
    """While one thread asks, the others wait for its answer; a question for another key is not held up."""
    asked, going = Counter(), threading.Event()

    def ask(key):
        asked[key] += 1
        if key == "slow":
            assert going.wait(10)
        return key.upper()

    remembered = Remembered(ask, 60, Clock())
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(remembered, "slow") for _ in range(6)]
        assert pool.submit(remembered, "fast").result(5) == "FAST"
        going.set()
        assert [future.result(5) for future in slow] == ["SLOW"] * 6
    assert asked == {"slow": 1, "fast": 1}


def test_threads_that_wait_are_told_of_a_failure():
    """A failure reaches every thread that waited for the answer, and the next one asks anew."""
    asked, going = Counter(), threading.Event()

    def ask(key):
        asked[key] += 1
        assert going.wait(10)
        raise RegistryUnavailable("away")

    remembered = Remembered(ask, 60, Clock())
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(remembered, "a") for _ in range(4)]
        while not asked:
            pass
        going.set()
        assert all(isinstance(future.exception(5), RegistryUnavailable) for future in waiting)
    with pytest.raises(RegistryUnavailable):
        remembered("a")


def test_memory_is_bounded():
    """However many keys are asked for, known or unknown, a bounded number is remembered."""
    remembered = Remembered(lambda key: key, 60, Clock())
    for key in range(1_000):
        remembered(key)
    assert len(remembered._known) == 256

    def never(key):
        raise UnknownSchema(str(key))

    remembered = Remembered(never, 60, Clock())
    for key in range(12_000):
        with pytest.raises(UnknownSchema):
            remembered(key)
    assert len(remembered._unknown) == 10_000


class Handler(BaseHTTPRequestHandler):
    """Answers every question with what the server was told to."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture
def server():
    """An HTTP server on loopback that answers as told."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def access(server, **more):
    """Access to the server, with short patience."""
    return RegistryAccess(url=f"http://127.0.0.1:{server.server_port}", timeout=2, **more)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b'{"error_code": 40403, "message": "Schema not found"}', UnknownSchema),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}', RegistryUnavailable),
        (404, b"<html>no such page</html>", RegistryUnavailable),
        (401, b"", RegistryUnavailable),
        (500, b'{"error_code": 50001, "message": "store"}', RegistryUnavailable),
        (503, b"starting", RegistryUnavailable),
        (200, b"<html>log in here</html>", RegistryUnavailable),
        (200, b"[]", RegistryUnavailable),
    ],
)
def test_what_http_answers_mean(server, status, body, error):
    """Over HTTP, only the registry's own "not found" makes a schema unknown; all else is an outage."""
    server.answer = status, body
    with access(server).connect() as client, pytest.raises(error):
        ConfluentRegistry(client).by_id(7)


def test_user_and_password_are_sent_and_never_shown(server):
    """Credentials travel as basic authentication and are not in the settings' text."""
    server.answer = 200, b'{"schema": "\\"string\\""}'
    settings = access(server, user="ann", password="s3cret")
    with settings.connect() as client:
        assert ConfluentRegistry(client).by_id(7).text == '"string"'
    assert server.seen == [("/schemas/ids/7", "Basic YW5uOnMzY3JldA==")]
    assert "s3cret" not in repr(settings)


def test_nobody_there_is_an_outage():
    """A registry that is not there is an outage, found out within seconds."""
    with (
        RegistryAccess(url="http://127.0.0.1:9", timeout=1).connect() as client,
        pytest.raises(RegistryUnavailable),
    ):
        ConfluentRegistry(client).by_id(7)


def test_files_for_tls_reach_the_client(tmp_path):
    """CA, certificate and key are taken from the files named; one that is missing is an error at once."""
    files = {name: str(tmp_path / name) for name in ("cafile", "certfile", "keyfile")}
    with pytest.raises(FileNotFoundError):
        RegistryAccess(url="https://127.0.0.1:9", **files).connect()
