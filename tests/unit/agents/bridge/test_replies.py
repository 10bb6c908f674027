"""Asking and hearing: whose answer is whose, what is no answer, and what is known of the path."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from agents.bridge import replies as module
from agents.bridge.app import Bridge
from agents.bridge.replies import NotAnswered, Replies, TooLarge, Unreachable
from schemas.errors import ResultTooLarge
from schemas.records import Reply, Sentence
from streams.testing import PublishedRecord
from tests.support.bridge import CODEC, Loopback


def soon() -> float:
    """A deadline."""
    return time.monotonic() + 5


def sentences(*texts: str) -> list[Sentence]:
    """A sentence for each text."""
    return [Sentence(id=f"s-{n}", text=text) for n, text in enumerate(texts)]


@pytest.fixture
def replies(bridge: Bridge) -> Replies:
    """What is tested here."""
    return bridge.replies


def outcomes(bridge: Bridge) -> dict[str, float]:
    """How many replies had which outcome."""
    samples = bridge.metrics.replies.collect()[0].samples
    return {each.labels["outcome"]: each.value for each in samples if each.name.endswith("_total")}


def captured(stream: Loopback, monkeypatch: pytest.MonkeyPatch) -> list[PublishedRecord]:
    """Collects the replies of the stream instead of handing them over."""
    found: list[PublishedRecord] = []

    async def take(records: list[PublishedRecord]) -> None:
        found.extend(records)

    monkeypatch.setattr(stream.bridge.replies, "_take", take)
    return found


async def test_answers_stand_in_the_order_of_the_questions(
    replies: Replies, stream: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever order the replies come in."""
    take = replies._take
    found = captured(stream, monkeypatch)
    asking = asyncio.create_task(replies.ask(sentences("a", "b", "c"), soon()))
    while len(found) < 3:
        await asyncio.sleep(0)
    for record in reversed(found):
        await take([record])
    assert [reply.embedding and reply.embedding.sentence_id for reply in await asking] == ["s-0", "s-1", "s-2"]


async def test_strangers_repeats_and_rubbish_are_passed_over(
    bridge: Bridge, replies: Replies, stream: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is counted for what it is; none of them answers anything or raises."""
    take, before = replies._take, outcomes(bridge)
    found = captured(stream, monkeypatch)
    asking = asyncio.create_task(replies.ask(sentences("a", "b"), soon()))
    while len(found) < 2:
        await asyncio.sleep(0)
    first, second = found
    stranger = [("correlation-id", b"x" * 20)]
    beyond = [("correlation-id", dict(first.headers)["correlation-id"][:16] + b"\xff" * 4)]
    stranger_record, nobodys = replace(first, headers=stranger), replace(first, headers=[])
    await take([stranger_record, nobodys, replace(first, value=b"rubbish")])
    await take([first, first, replace(first, headers=beyond)])
    assert not asking.done()
    await take([second])
    assert len(await asking) == 2
    await take([second])
    gained = {name: value - before.get(name, 0) for name, value in outcomes(bridge).items()}
    assert gained == {"unknown": 3, "unreadable": 1, "taken": 2, "repeated": 2}


async def test_many_replies_are_decoded_off_the_loop(
    replies: Replies, stream: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nobody else waits for them; the answers are the same."""
    threads: list[bool] = []
    decode = replies._decode

    def watched(records: Any) -> list[Reply | None]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            threads.append(True)
        return decode(records)

    monkeypatch.setattr(replies, "_decode", watched)
    found = await replies.ask(sentences(*map(str, range(module.AT_ONCE + 1))), soon())
    assert len(found) == module.AT_ONCE + 1
    assert threads == [True]


async def test_no_answer_before_the_deadline(replies: Replies, stream: Loopback) -> None:
    """NotAnswered, which says how many are missing; nobody waits for them any more."""
    stream.working.clear()
    with pytest.raises(NotAnswered, match="2 of 2"):
        await replies.ask(sentences("a", "b"), time.monotonic() + 0.05)
    assert replies.asked == 0


@pytest.mark.parametrize("late", [0.05, -1])
async def test_a_broker_gets_a_moment(replies: Replies, stream: Loopback, late: float) -> None:
    """A deadline that is too short, or has passed, says nothing about the brokers."""
    stream.up = False
    with pytest.raises(NotAnswered):
        await replies.ask(sentences("a"), time.monotonic() + late)


async def test_a_path_that_gave_no_answer_lately(replies: Replies, stream: Loopback) -> None:
    """Unreachable at once, without asking; a probe that comes back mends it."""
    replies._heard -= module.SILENCE
    with pytest.raises(Unreachable):
        await replies.ask(sentences("a"), soon())
    assert stream.published == []
    await replies.probe()
    assert await replies.ask(sentences("a"), soon())


async def test_a_record_that_is_too_large(replies: Replies, stream: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """TooLarge names the sentence."""

    async def refuse(_records: Any) -> Any:
        return {1: ResultTooLarge("too large")}

    monkeypatch.setattr(stream, "publish", refuse)
    with pytest.raises(TooLarge) as large:
        await replies.ask(sentences("a", "b"), soon())
    assert large.value.index == 1


async def test_probes_go_on_through_failures(
    replies: Replies, stream: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is probed until it works, again while it does, and not while callers keep it busy."""
    for name, seconds in {"PROBE": 0.05, "PROBE_AGAIN": 0.01, "PROBE_TIMEOUT": 0.02, "SILENCE": 0.1}.items():
        monkeypatch.setattr(module, name, seconds)
    stream.working.clear()
    replies._heard = float("-inf")
    probing = asyncio.create_task(replies._probe())
    await asyncio.sleep(0.05)
    assert stream.published == [], "nobody could be told where to answer yet"
    replies.hears.set()
    while len(stream.published) < 3:
        await asyncio.sleep(0.01)
    assert not replies.alive
    stream.working.set()
    while not replies.alive:
        await asyncio.sleep(0.01)
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    assert all(CODEC.decode(Sentence, record.value, record.headers).id == "probe" for record in stream.published)
