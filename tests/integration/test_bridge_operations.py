"""Models, replays and dead letters over HTTP, on a real Kafka: what the commands do, for whoever may."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest

from tests.support.kafka import HasBrokers
from tests.support.stream import PATIENCE, Program, Stream, encoded, wait_until


@dataclass(frozen=True)
class Running:
    """A stream with a worker of each kind, and a bridge."""

    stream: Stream
    bridge: Program

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Asks the bridge."""
        return httpx2.request(method, f"{self.bridge.url}{path}", timeout=PATIENCE, **more)

    def begin(self, path: str, body: dict[str, Any]) -> str:
        """Begins an operation; returns where to look at it."""
        begun = self.ask("POST", path, json={**body, "execute": True})
        assert (begun.status_code, begun.json()["status"]) == (202, "running")
        return begun.headers["location"]

    def end(self, location: str) -> dict[str, Any]:
        """Waits for an operation's end; returns what is told of it."""
        wait_until(lambda: self.ask("GET", location).json()["status"] != "running", f"{location} has ended")
        return self.ask("GET", location).json()


@pytest.fixture(scope="module")
def running(kafka: HasBrokers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All of it, ready, with 20 sentences handled and two dead letters: one is rubbish, one nobody can embed."""
    with Stream(kafka.bootstrap_servers, tmp_path_factory.mktemp("operations"), partitions=2) as stream:
        programs = [stream.start("worker"), stream.start("worker", lanes="replay"), stream.start("bridge")]
        stream.send(
            {"value": encoded(n), "key": b"k-%d" % n, "headers": [("tag", b"ten")][: n // 10]} for n in range(20)
        )
        stream.send([{"value": b"rubbish", "key": b"r"}])
        stream.send([{"value": encoded(99, dimensions=999), "key": b"d"}])
        for program in programs:
            program.ready()
        stream.finish()
        yield Running(stream, programs[-1])
        for program in programs:
            program.stop()


# -- models ---------------------------------------------------------------------------------------------------


def test_what_is_served_comes_from_the_workers(running: Running) -> None:
    """OpenAI's client finds it; revision, sizes and scorers are told, too; an answer that is known is 304."""
    with openai.OpenAI(base_url=f"{running.bridge.url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["deterministic"]
        assert client.models.retrieve("deterministic").owned_by == "sentence-streams"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other/model")
    answer = running.ask("GET", "/v1/models")
    [model] = answer.json()["data"]
    assert (model["revision"], model["dimensions"], model["max_tokens"]) == ("1", 384, 256)
    assert model["scorers"]
    known = {"If-None-Match": answer.headers["etag"]}
    assert running.ask("GET", "/v1/models", headers=known).status_code == 304


# -- dead letters ---------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_and_shown(running: Running) -> None:
    """Why each is one, and its record where that decodes; filters narrow the list, a limit says if there is more."""
    letters = running.ask("GET", "/v1/dead-letters").json()
    assert {letter["reason"] for letter in letters["data"]} == {"bad-bytes", "invalid-field"}
    assert not letters["has_more"]
    assert running.ask("GET", "/v1/dead-letters?limit=1").json()["has_more"]
    [letter] = running.ask("GET", "/v1/dead-letters", params={"reason": "invalid-field"}).json()["data"]
    assert (letter["record"]["id"], letter["key"]) == ("s-99", "d")
    assert running.ask("GET", f"/v1/dead-letters/{letter['place']}").json() == letter
    assert running.ask("GET", "/v1/dead-letters/0@999").status_code == 404
    assert running.ask("GET", "/v1/dead-letters/nowhere").status_code == 422
    assert running.ask("GET", "/v1/dead-letters?from=whenever").json()["errors"][0]["field"] == "query:from"


def test_a_redrive_is_planned_first(running: Running) -> None:
    """Without `execute` nothing is sent; with it, what was planned is, and its end can be seen."""
    plan = running.ask("POST", "/v1/redrives", json={"reason": "bad-bytes"}).json()
    assert plan["plan"]["selected"] == 1
    location = running.begin("/v1/redrives", {"reason": "bad-bytes"})
    ended = running.end(location)
    assert (ended["status"], ended["moved"], ended["executed"]["moved"]) == ("done", 1, 1)
    [again] = running.stream.read(running.stream.settings.topic_replay)[-1:]
    assert again.value == b"rubbish"
    none = running.ask("POST", "/v1/redrives", json={"reason": "nothing-such", "text": "one"})
    assert none.status_code == 422, "a text is for one dead letter"


# -- replays --------------------------------------------------------------------------------------------------


def test_a_replay_is_planned_first(running: Running) -> None:
    """Counts by partition and in all; only with these headers; a topic nobody has is refused."""
    plan = running.ask("POST", "/v1/replays", json={"topic": "requests", "where": {"tag": "ten"}}).json()["plan"]
    assert plan["total"]["moving"] == 10
    assert plan["executed"] is None
    assert running.ask("POST", "/v1/replays", json={"topic": "nothing-such"}).status_code == 422
    assert running.ask("POST", "/v1/replays", json={"topic": "replay"}).status_code == 422
    wrong = running.ask("POST", "/v1/replays", json={"topic": "requests", "from": "whenever"})
    assert wrong.json()["errors"][0]["field"] == "/from"


def test_a_replay_runs_and_ends(running: Running) -> None:
    """It begins at once, tells how far it is, and sends what was planned; twice at the same time it does not run."""
    body = {"topic": "requests", "where": {"tag": "ten"}, "rate": 5, "name": "runs"}
    location = running.begin("/v1/replays", body)
    assert running.ask("POST", "/v1/replays", json={**body, "execute": True}).status_code == 409
    ended = running.end(location)
    assert (ended["status"], ended["moved"]) == ("done", 10)


def test_a_replay_can_be_stopped_and_goes_on(running: Running) -> None:
    """Stopped, it ends early; begun again it sends the rest and nothing twice."""
    body = {"topic": "requests", "rate": 2, "name": "stops"}
    location = running.begin("/v1/replays", body)
    wait_until(lambda: running.ask("GET", location).json()["moved"] > 0, "it has sent something")
    assert running.ask("DELETE", location).status_code == 202
    first = running.end(location)
    assert first["status"] == "stopped"
    rest = running.end(running.begin("/v1/replays", {**body, "rate": 1000}))
    total = running.ask("POST", "/v1/replays", json={**body, "name": "other"}).json()["plan"]["total"]["moving"]
    assert (rest["status"], first["moved"] + rest["moved"]) == ("done", total)


def test_operations_nobody_began(running: Running) -> None:
    """404, to look at as to stop."""
    for method in ("GET", "DELETE"):
        assert running.ask(method, "/v1/replays/replay-none").status_code == 404
        assert running.ask(method, "/v1/redrives/redrive-none").status_code == 404
