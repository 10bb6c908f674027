"""What is told of every request: ids, one line in the log, metrics, timings; texts as far as a setting allows."""

import re
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from agents.bridge.app import Bridge
from streams.settings import LogText
from tests.support.bridge import client, looped_back


async def embed(http: httpx2.AsyncClient, given: Any = "a", **headers: str) -> httpx2.Response:
    """Asks for a vector."""
    return await http.post("/v1/embeddings", json={"input": given}, headers=headers)


async def logged(http: httpx2.AsyncClient, given: Any = "a", **headers: str) -> dict[str, Any]:
    """Asks for a vector; returns the line that is logged."""
    with capture_logs() as lines:
        await embed(http, given, **headers)
    [line] = [line for line in lines if line["event"] == "request"]
    return dict(line)


async def test_a_request_keeps_its_callers_id(http: httpx2.AsyncClient) -> None:
    """The id is in the answer, in the log and in problems."""
    answer = await embed(http, "", **{"X-Request-Id": "mine.1"})
    assert (answer.headers["x-request-id"], answer.json()["instance"]) == ("mine.1", "mine.1")
    assert (await logged(http, "a", **{"X-Request-Id": "mine.1"}))["request_id"] == "mine.1"


@pytest.mark.parametrize("wrong", ["with space", "x" * 129, "new\tline", "a/b"])
async def test_ids_that_could_harm_a_log_are_replaced(http: httpx2.AsyncClient, wrong: str) -> None:
    """Anything but letters, digits and . _ - gets an id of ours."""
    found = (await embed(http, **{"X-Request-Id": wrong})).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", found)


async def test_a_line_tells_who_asked_what_and_how_long_it_took(http: httpx2.AsyncClient) -> None:
    """Client, route, status, counts and steps; what was cached asked nobody, so it has no steps."""
    line = await logged(http, ["a", "b"])
    assert (line["client"], line["address"]) == ("anonymous:127.0.0.1", "127.0.0.1")
    assert (line["method"], line["route"], line["status"], line["log_level"]) == ("POST", "/v1/embeddings", 200, "info")
    assert (line["model"], line["sentences"], line["cached"]) == ("deterministic", 2, 0)
    assert 0 <= line["embed"] <= line["ask"] <= line["seconds"]
    again = await logged(http, ["a", "c"])
    assert again["cached"] == 1
    assert "ask" not in await logged(http, "a")


async def test_a_problem_is_in_the_line(http: httpx2.AsyncClient) -> None:
    """Its kind and detail, without the text."""
    line = await logged(http, ["a", "poison apple"])
    assert line["status"] == 502
    assert line["problem"].startswith("failed-sentences: /input/1: embedding-failed")
    assert "apple" not in str(line)


@pytest.mark.parametrize(
    ("policy", "field", "expected"),
    [(LogText.NONE, None, None), (LogText.HASH, "text_sha256s", 16), (LogText.FULL, "texts", "A secret.")],
)
async def test_texts_are_logged_as_far_as_a_setting_allows(policy: LogText, field: str | None, expected: Any) -> None:
    """Not at all, as a hash, or in full."""
    async with looped_back(log_text=policy) as (bridge, _), client(bridge) as http:
        line = await logged(http, "A secret.")
    if field is None:
        assert "secret" not in str(line)
    else:
        assert line[field] == [expected] if policy is LogText.FULL else len(line[field][0]) == expected


async def test_health_and_metrics_are_no_news(http: httpx2.AsyncClient) -> None:
    """They are asked every few seconds."""
    with capture_logs() as lines:
        await http.get("/health/live")
        await http.get("/metrics")
    assert {line["log_level"] for line in lines} == {"debug"}


async def test_timings_are_in_the_answer(http: httpx2.AsyncClient) -> None:
    """Queue, tokenise and embed as the workers measured them, in milliseconds, and the total."""
    steps = dict(part.split(";dur=") for part in (await embed(http)).headers["server-timing"].split(", "))
    assert list(steps) == ["queue", "tokenise", "embed", "total"]
    assert all(float(duration) >= 0 for duration in steps.values())
    assert (await embed(http)).headers["server-timing"].startswith("total;dur=")


async def test_requests_are_counted_by_route(http: httpx2.AsyncClient, bridge: Bridge) -> None:
    """Paths that nobody has share a name: a stranger must not fill the metrics."""
    await embed(http)
    await http.get("/v1/sentences/11111111-1111-1111-1111-111111111111/results")
    await http.get("/nobody/has/this")
    text = (await http.get("/metrics")).text
    assert 'streams_http_requests_total{route="/v1/embeddings",status="200"} 1.0' in text
    assert 'streams_http_requests_total{route="/v1/sentences/{id}/results",status="404"} 1.0' in text
    assert 'streams_http_requests_total{route="none",status="404"} 1.0' in text
    assert 'streams_http_seconds_count{route="/v1/embeddings"} 1.0' in text
    assert bridge.metrics.in_flight._value.get() == 0


async def test_limits_tell_what_is_left() -> None:
    """Answers and refusals have the headers of the rate limit; sentences count, not requests."""
    async with looped_back(rate_limit="10/minute") as (bridge, _), client(bridge) as http:
        answer = await embed(http, ["a"] * 8)
        assert answer.headers["ratelimit"].startswith('"default";r=2;')
        refused = await embed(http, ["a"] * 3)
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/rate-limited")
        assert int(refused.headers["retry-after"]) > 0


# -- health ---------------------------------------------------------------------------------------------------


async def health(http: httpx2.AsyncClient, page: str) -> tuple[int, bool]:
    """Status and answer of a health page."""
    answer = await http.get(f"/health/{page}")
    return answer.status_code, answer.json()["ok"]


async def test_ready_while_answers_come_back(http: httpx2.AsyncClient, bridge: Bridge) -> None:
    """Not once none came for a while, and not when it is leaving."""
    assert await health(http, "ready") == (200, True)
    bridge.leaving = True
    assert await health(http, "ready") == (503, False)
    bridge.leaving = False
    bridge.replies._heard -= 3600
    assert await health(http, "ready") == (503, False)


async def test_live_while_it_hears(http: httpx2.AsyncClient, bridge: Bridge) -> None:
    """Live while the task that hears the stream runs; started once that is connected."""
    assert await health(http, "live") == (503, False)
    assert await health(http, "startup") == (503, False)
    bridge.replies.hears.set()
    assert await health(http, "startup") == (200, True)
