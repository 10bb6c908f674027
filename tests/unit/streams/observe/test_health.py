"""The health pages, asked over HTTP on loopback."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from streams.observe.health import Check, HealthServer, Question
from streams.observe.metrics import Metrics


@dataclass
class Pages:
    """A running server whose answers a test can change."""

    server: HealthServer
    metrics: Metrics
    answers: dict[str, Check | Exception]
    session: aiohttp.ClientSession

    async def get(self, path: str) -> aiohttp.ClientResponse:
        """Fetches a page, body read."""
        async with self.session.get(f"http://{self.server.address}{path}") as response:
            await response.read()
            return response


def question(answers: dict[str, Check | Exception], name: str) -> Question:
    async def ask() -> Check:
        answer = answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    """A server on a free port of which every answer is yes."""
    metrics = Metrics()
    answers: dict[str, Check | Exception] = {name: Check(True, f"{name} is fine") for name in NAMES}
    server = HealthServer("127.0.0.1", 0, metrics.registry, **{name: question(answers, name) for name in NAMES})
    await server.start()
    async with aiohttp.ClientSession() as session:
        yield Pages(server, metrics, answers, session)
    await server.stop()


NAMES = ("live", "ready", "startup")


@pytest.mark.parametrize("name", NAMES)
async def test_each_page_answers_its_own_question(pages: Pages, name: str) -> None:
    """200 for yes and 503 for no, with the reason in the body; other pages are not concerned."""
    response = await pages.get(f"/health/{name}")
    assert response.status == 200
    assert await response.json() == {"ok": True, "why": f"{name} is fine"}
    pages.answers[name] = Check(False, "nothing moved for 50 s")
    response = await pages.get(f"/health/{name}")
    assert response.status == 503
    assert await response.json() == {"ok": False, "why": "nothing moved for 50 s"}
    assert [(await pages.get(f"/health/{other}")).status for other in NAMES if other != name] == [200, 200]


async def test_the_answer_is_the_present_one(pages: Pages) -> None:
    """Nothing is remembered: a worker that recovers is well again."""
    for ok, status in ((False, 503), (True, 200), (False, 503)):
        pages.answers["ready"] = Check(ok, "")
        assert (await pages.get("/health/ready")).status == status


async def test_a_question_that_fails_is_not_a_yes(pages: Pages) -> None:
    """A bug in a check never makes a worker look well."""
    pages.answers["live"] = LookupError("a bug")
    assert (await pages.get("/health/live")).status == 500
    assert (await pages.get("/health/ready")).status == 200


async def test_metrics_are_served_in_the_format_of_prometheus(pages: Pages) -> None:
    """With the content type scrapers ask for; figures are those of this moment."""
    pages.metrics.commits.labels("done").inc(3)
    response = await pages.get("/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert 'streams_commits_total{outcome="done"} 3.0' in (await response.text()).splitlines()


async def test_other_pages_are_not_there(pages: Pages) -> None:
    """Nothing but health and metrics is served."""
    assert (await pages.get("/")).status == 404


async def test_a_port_that_is_taken_is_an_error(pages: Pages) -> None:
    """A worker whose health nobody can ask must not start."""
    host, port = pages.server.address.split(":")
    other = HealthServer(host, int(port), pages.metrics.registry, **{name: question({}, name) for name in NAMES})
    with pytest.raises(OSError, match="address already in use"):
        await other.start()
    await other.stop()


async def test_after_the_stop_nobody_answers(pages: Pages) -> None:
    """The port is free again."""
    url = f"http://{pages.server.address}/health/live"
    await pages.server.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await pages.session.get(url)
