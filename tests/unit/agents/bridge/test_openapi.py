"""The OpenAPI document: checked in as it is, complete, and never broken for callers who know an older one."""

import copy
import json
import re
from typing import Any

import httpx2
import pytest

from agents.bridge.docs import document
from tests.support.openapi import METHODS, breaks
from tests.support.stream import ROOT

#: The document as it was last released; a release replaces it.
RELEASED = ROOT / "docs" / "openapi.released.json"


@pytest.fixture
def current() -> dict[str, Any]:
    """The document of this code."""
    return json.loads(document())  # type: ignore[no-any-return]


def operations(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every operation, with its method and path."""
    return [
        (f"{method} {path}", each)
        for path, methods in found["paths"].items()
        for method, each in methods.items()
        if method in METHODS
    ]


def test_the_document_is_checked_in() -> None:
    """docs/openapi.json is what `sentence-streams openapi` prints."""
    checked_in = (ROOT / "docs" / "openapi.json").read_text()
    assert checked_in == document(), "run: sentence-streams openapi > docs/openapi.json"


def test_nothing_breaks_those_who_know_the_released_one(current: dict[str, Any]) -> None:
    """No path or field is gone, nothing new is required, nothing that was allowed is refused."""
    assert breaks(json.loads(RELEASED.read_text()), current) == []


def _remove_path(found: dict[str, Any]) -> None:
    del found["paths"]["/v1/scores"]


def _schema(found: dict[str, Any], name: str) -> dict[str, Any]:
    return found["components"]["schemas"][name]  # type: ignore[no-any-return]


BREAKS: dict[str, Any] = {
    "POST /v1/scores: removed": _remove_path,
    "POST /v1/embeddings body/user: refused now": lambda d: _schema(d, "EmbeddingRequest")["properties"].pop("user"),
    "POST /v1/scores body/model: required now": lambda d: _schema(d, "ScoresRequest")["required"].append("model"),
    "POST /v1/embeddings body/encoding_format: takes no float any more": lambda d: _schema(d, "EmbeddingRequest")[
        "properties"
    ]["encoding_format"]["enum"].remove("float"),
    "POST /v1/sentences body/sentences: maxItems is 5 now": lambda d: _schema(d, "SentencesRequest")["properties"][
        "sentences"
    ].update(maxItems=5),
    "POST /v1/similarity 200/data/*/similarity: removed": lambda d: _schema(d, "SimilarityItem")["properties"].pop(
        "similarity"
    ),
    "POST /v1/embeddings 200/usage: not always there any more": lambda d: _schema(d, "EmbeddingResponse")[
        "required"
    ].remove("usage"),
    "GET /v1/dead-letters: header request-timeout: removed": lambda d: d["paths"]["/v1/dead-letters"]["get"][
        "parameters"
    ].pop(),
    "GET /v1/dead-letters: query reason: required now": lambda d: d["paths"]["/v1/dead-letters"]["get"]["parameters"][
        0
    ].update(required=True),
    "POST /v1/sentences: answers 202 no more": lambda d: d["paths"]["/v1/sentences"]["post"]["responses"].pop("202"),
}


@pytest.mark.parametrize("expected", BREAKS)
def test_a_break_is_found(current: dict[str, Any], expected: str) -> None:
    """Each kind of change that would break somebody is named."""
    changed = copy.deepcopy(current)
    BREAKS[expected](changed)
    assert expected in breaks(current, changed)


def test_additions_are_no_break(current: dict[str, Any]) -> None:
    """A new path, an optional field and another field in an answer harm nobody."""
    changed = copy.deepcopy(current)
    changed["paths"]["/v1/new"] = changed["paths"]["/v1/scores"]
    _schema(changed, "EmbeddingRequest")["properties"]["new"] = {"type": "string"}
    _schema(changed, "EmbeddingResponse")["properties"]["new"] = {"type": "string"}
    assert breaks(current, changed) == []


def test_operations_are_documented(current: dict[str, Any]) -> None:
    """Each has a name, a description and its errors; each JSON body has an example; each of /v1 needs a caller."""
    for name, each in operations(current):
        assert re.fullmatch(r"[a-z_]+", each["operationId"]), name
        assert each["description"], name
        if "/v1/" in name:
            assert each["security"], name
            assert {"401", "403"} <= each["responses"].keys(), name
        if json_body := each.get("requestBody", {}).get("content", {}).get("application/json"):
            assert _schema(current, json_body["schema"]["$ref"].rpartition("/")[2])["examples"], name


async def test_swagger_asks_nobody_else(http: httpx2.AsyncClient) -> None:
    """The page and all it needs come from the bridge."""
    page = (await http.get("/docs")).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in [*links, "/openapi.json"]:
        assert link.startswith("/"), link
        assert (await http.get(link)).status_code == 200, link


async def test_the_served_document_is_the_same(http: httpx2.AsyncClient, current: dict[str, Any]) -> None:
    """What a client generator fetches from a bridge is what is checked in."""
    assert (await http.get("/openapi.json")).json() == current
