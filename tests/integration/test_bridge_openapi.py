"""Whatever the OpenAPI document allows, and much that it does not: no request makes the bridge fail.

`SCHEMATHESIS_EXAMPLES` says how many random cases each operation gets; `make test-long` asks for a thousand.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from agents.bridge.api_keys import make
from tests.support.kafka import HasBrokers
from tests.support.stream import PATIENCE, ROOT, Stream, encoded

DOCUMENT = ROOT / "docs" / "openapi.json"
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "10"))

CONFIG = {
    # What the document allows can still be refused: more dimensions than the model has, or one request too many.
    "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "410", "413", "422", "429"]}},
}


SCHEMA = schemathesis.openapi.from_path(DOCUMENT, config=SchemathesisConfig.from_dict(CONFIG))


@dataclass(frozen=True)
class Api:
    """A bridge, and the headers of a caller who may do everything."""

    url: str
    headers: dict[str, str]


@pytest.fixture(scope="module")
def api(kafka: HasBrokers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A bridge that asks for keys, over a stream that has something to replay and to redrive."""
    folder = tmp_path_factory.mktemp("openapi")
    key, line = make("tester", ["admin"])
    (folder / "keys").write_text(f"{line}\n")
    with Stream(kafka.bootstrap_servers, folder, auth="api-key", api_keys_file=str(folder / "keys")) as stream:
        worker, bridge = stream.start("worker"), stream.start("bridge")
        stream.send([{"value": encoded(n), "key": b"k-%d" % n} for n in range(20)] + [{"value": b"rubbish"}])
        worker.ready()
        bridge.ready()
        stream.finish()
        yield Api(bridge.url, {"Authorization": f"Bearer {key}"})
        assert bridge.running
        worker.stop()
        bridge.stop()


def _is_valid(seconds: object) -> bool:
    try:
        return 0 < float(str(seconds)) < float("inf")
    except ValueError:
        return False


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
def test_no_request_breaks_the_bridge(case: schemathesis.Case, api: Api) -> None:
    """Each answer is one that the document has, in the shape it says; none is a server's error."""
    known = {parameter.name.lower() for parameter in case.operation.iter_parameters()}
    if {name.lower() for name in [*(case.headers or ()), *(case.query or ())]} - known:
        return  # HTTP lets anybody send headers and queries that nobody knows
    if _is_valid((case.headers or {}).get("request-timeout", "")):
        case.headers["request-timeout"] = "30"  # a caller who waits no time at all rightly gets a 504
    if isinstance(case.body, dict) and case.body.get("dimensions") in (1, 2):
        case.body["dimensions"] = 3  # the deterministic model's vectors may begin with zeros: no direction is left
    case.call_and_validate(base_url=api.url, headers=api.headers, timeout=PATIENCE)
