"""One suite for the bridge's stores: of one process in memory, and of two replicas that share a real Redis."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from agents.bridge.stores import (
    Begun,
    Done,
    Found,
    Gone,
    Idempotency,
    Mismatch,
    Pending,
    Results,
    Running,
    Unknown,
    shared,
    waiting,
)
from agents.bridge.stores.memory import MemoryIdempotency, MemoryResults
from agents.bridge.stores.shared import RedisIdempotency, RedisResults
from tests.support.kafka import unique
from tests.support.redis import RedisServer

#: So long that it only ends what would never end.
LONG = 60.0
STRANGE = ["", "a" * 5000, "ümläut ☂", "\ud800", "a\0b", '["a","b"]']


@dataclass
class Replicas:
    """Two replicas' stores; in memory there is one process, so they are the same."""

    idempotency: tuple[Idempotency, Idempotency]
    results: tuple[Results, Results]
    short_results: Results  # keeps results for a moment


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def replicas(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replicas]:
    """Each form in turn; no machine is too busy for it, and only a ring wakes who waits."""
    monkeypatch.setattr(shared, "PATIENCE", LONG)
    monkeypatch.setattr(waiting, "LOOK_AGAIN", 10 * LONG)
    if request.param == "memory":
        idempotency, results = MemoryIdempotency(), MemoryResults(600)
        yield Replicas((idempotency, idempotency), (results, results), MemoryResults(0.05))
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    one, other = (shared.connect(SecretStr(server.url)) for _ in range(2))
    results = RedisResults(one, 600), RedisResults(other, 600)
    yield Replicas((RedisIdempotency(one, 600), RedisIdempotency(other, 600)), results, RedisResults(one, 0.05))
    for each in results:
        await each.close()
    await one.aclose()
    await other.aclose()


# -- idempotency ----------------------------------------------------------------------------------------------


async def test_a_key_is_begun_once_and_its_answer_is_kept(replicas: Replicas) -> None:
    """Running for whoever comes meanwhile, the same answer for whoever comes after; on both replicas."""
    key = unique("key")
    assert await replicas.idempotency[0].begin("client", key, "body") == Begun()
    for store in replicas.idempotency:
        assert await store.begin("client", key, "body") == Running()
    await replicas.idempotency[0].finish("client", key, b"answer")
    for store in replicas.idempotency:
        assert await store.begin("client", key, "body") == Done(b"answer")


async def test_another_body_is_told_while_the_first_runs_and_after(replicas: Replicas) -> None:
    """A key stands for one body."""
    key = unique("key")
    await replicas.idempotency[0].begin("client", key, "body")
    assert [await store.begin("client", key, "other") for store in replicas.idempotency] == [Mismatch(), Mismatch()]
    await replicas.idempotency[0].finish("client", key, b"answer")
    assert [await store.begin("client", key, "other") for store in replicas.idempotency] == [Mismatch(), Mismatch()]


async def test_an_abandoned_key_is_free(replicas: Replicas) -> None:
    """With any body, on any replica."""
    key = unique("key")
    await replicas.idempotency[0].begin("client", key, "body")
    await replicas.idempotency[0].abandon("client", key)
    assert await replicas.idempotency[1].begin("client", key, "other") == Begun()


async def test_callers_do_not_share_keys(replicas: Replicas) -> None:
    """Nor is there a way to write one caller's key as another's."""
    store, name = replicas.idempotency[0], unique("client")
    pairs = [(name, "bc"), (f"{name}b", "c"), (name, "b"), (f"{name}bc", ""), (f'{name}","b', "c"), (name, 'b","c')]
    assert [await store.begin(scope, key, "body") for scope, key in pairs] == [Begun()] * len(pairs)


@pytest.mark.parametrize("key", STRANGE, ids=range(len(STRANGE)))
@pytest.mark.parametrize("answer", [b"", bytes(range(256)), bytes(1_000_000)], ids=["empty", "binary", "large"])
async def test_any_key_and_any_answer_will_do(key: str, answer: bytes, replicas: Replicas) -> None:
    """Keys are what clients send, answers are bytes."""
    scope = unique("client")
    assert await replicas.idempotency[0].begin(scope, key, "body") == Begun()
    await replicas.idempotency[0].finish(scope, key, answer)
    assert await replicas.idempotency[1].begin(scope, key, "body") == Done(answer)


async def test_of_a_hundred_callers_at_once_one_begins(replicas: Replicas) -> None:
    """Half of them on each replica; with another body none would."""
    key = unique("key")
    begins = [replicas.idempotency[n % 2].begin("client", key, "body") for n in range(100)]
    assert Counter(map(type, await asyncio.gather(*begins))) == {Begun: 1, Running: 99}
    others = [replicas.idempotency[n % 2].begin("client", key, "other") for n in range(100)]
    assert Counter(map(type, await asyncio.gather(*others))) == {Mismatch: 100}


async def test_of_a_hundred_callers_with_two_bodies_one_begins(replicas: Replicas) -> None:
    """Whoever loses learns whether the winner had its body."""
    key = unique("key")
    begins = [replicas.idempotency[n % 2].begin("client", key, "odd" if n % 4 > 1 else "even") for n in range(100)]
    assert Counter(map(type, await asyncio.gather(*begins))) == {Begun: 1, Running: 49, Mismatch: 50}


async def test_ending_what_was_not_begun_changes_nothing(replicas: Replicas) -> None:
    """Neither a key that nobody has, nor one that has its answer."""
    store, key = replicas.idempotency[0], unique("key")
    await store.finish("client", key, b"no")
    await store.abandon("client", key)
    assert await store.begin("client", key, "body") == Begun()
    await store.finish("client", key, b"first")
    await store.finish("client", key, b"second")
    await store.abandon("client", key)
    assert await store.begin("client", key, "body") == Done(b"first")


# -- results --------------------------------------------------------------------------------------------------


async def test_a_result_is_unknown_then_pending_then_found(replicas: Replicas) -> None:
    """Whichever replica is asked."""
    one, other = replicas.results
    client = unique("client")
    assert await other.get(client, "1") == Unknown()
    await one.expect(client, "1", "2")
    assert [await other.get(client, id) for id in ("1", "2", "3")] == [Pending(), Pending(), Unknown()]
    await one.put(client, "1", b"result")
    assert [await other.get(client, id) for id in ("1", "2")] == [Found(b"result"), Pending()]


async def test_clients_do_not_see_each_others_results(replicas: Replicas) -> None:
    """Another client's id is as unknown as any."""
    one, other = unique("client"), unique("client")
    await replicas.results[0].expect(one, "1")
    await replicas.results[0].put(one, "2", b"result")
    assert [await replicas.results[1].get(other, id) for id in ("1", "2")] == [Unknown(), Unknown()]


@pytest.mark.parametrize("result", [b"", b".", bytes(range(256)), bytes(1_000_000)], ids=range(4))
@pytest.mark.parametrize("id", STRANGE, ids=range(len(STRANGE)))
async def test_any_id_and_any_result_will_do(id: str, result: bytes, replicas: Replicas) -> None:
    """A result need not have been expected, and an empty one is no pending one."""
    client = unique("client")
    await replicas.results[0].put(client, id, result)
    assert await replicas.results[1].get(client, id) == Found(result)


async def test_what_is_sent_again_is_pending_again(replicas: Replicas) -> None:
    """Its old result is not the answer; a later result takes the place of an earlier."""
    one, client = replicas.results[0], unique("client")
    await one.put(client, "1", b"old")
    await one.expect(client, "1")
    assert await one.get(client, "1") == Pending()
    await one.put(client, "1", b"new")
    await one.put(client, "1", b"newer")
    assert await one.get(client, "1") == Found(b"newer")


async def test_expecting_nothing_is_no_error(replicas: Replicas) -> None:
    """A request may have had no sentence that could be sent."""
    await replicas.results[0].expect(unique("client"))


@pytest.mark.parametrize("put", [True, False], ids=["found", "pending"])
async def test_what_is_not_kept_any_more_is_gone(put: bool, replicas: Replicas) -> None:
    """A result after its time, and an id that had none in that time; both are told apart from what never was."""
    store, client = replicas.short_results, unique("client")
    await store.expect(client, "1")
    if put:
        await store.put(client, "1", b"result")
    await until(lambda: store.get(client, "1"), Gone())
    assert await store.get(client, "2") == Unknown()


async def test_who_waits_for_what_is_not_pending_is_answered_at_once(replicas: Replicas) -> None:
    """Found, gone and unknown will not change by waiting."""
    store, client = replicas.short_results, unique("client")
    await store.expect(client, "gone")
    await until(lambda: store.get(client, "gone"), Gone())
    await replicas.results[0].put(client, "found", b"result")
    async with asyncio.timeout(LONG):
        assert await store.wait(client, "gone", 10 * LONG) == Gone()
        assert await store.wait(client, "unknown", 10 * LONG) == Unknown()
        assert await replicas.results[1].wait(client, "found", 10 * LONG) == Found(b"result")
    await store.close()


async def test_who_waits_too_short_is_told_that_it_is_pending(replicas: Replicas) -> None:
    """The time to wait is the caller's, down to none at all."""
    client = unique("client")
    await replicas.results[0].expect(client, "1")
    assert await replicas.results[1].wait(client, "1", 0) == Pending()
    assert await replicas.results[1].wait(client, "1", 0.01) == Pending()


async def test_who_waits_is_woken_by_the_other_replica(replicas: Replicas) -> None:
    """By the put itself: nobody looks again by the clock here."""
    one, other = replicas.results
    client = unique("client")
    await one.expect(client, "1")
    waiter = asyncio.create_task(other.wait(client, "1", 10 * LONG))
    await asyncio.sleep(0.05)
    assert not waiter.done()
    await one.put(client, "1", b"result")
    async with asyncio.timeout(LONG):
        assert await waiter == Found(b"result")


async def test_a_result_that_comes_just_then_is_not_missed(replicas: Replicas) -> None:
    """Whether the put comes before, during or after the first look."""
    one, other = replicas.results
    client = unique("client")
    ids = [str(number) for number in range(100)]
    await one.expect(client, *ids)
    async with asyncio.timeout(LONG):
        for id in ids:
            found, _ = await asyncio.gather(other.wait(client, id, 10 * LONG), one.put(client, id, b"result"))
            assert found == Found(b"result")


async def test_a_thousand_may_wait(replicas: Replicas) -> None:
    """Each for its own, and five hundred for one."""
    one, other = replicas.results
    client = unique("client")
    ids = [str(number) for number in range(500)]
    await one.expect(client, "all", *ids)
    waiters = [asyncio.create_task(other.wait(client, id, 10 * LONG)) for id in ids]
    waiters += [asyncio.create_task(other.wait(client, "all", 10 * LONG)) for _ in range(500)]
    await asyncio.sleep(0.05)
    for id in ("all", *ids):
        await one.put(client, id, id.encode())
    async with asyncio.timeout(LONG):
        found = await asyncio.gather(*waiters)
    assert found == [Found(id.encode()) for id in ids] + [Found(b"all")] * 500


async def test_who_stops_waiting_leaves_nothing_behind(replicas: Replicas) -> None:
    """Callers hang up: nobody keeps a bell for them."""
    store, client = replicas.results[0], unique("client")
    await store.expect(client, "1")
    waiters = [asyncio.create_task(store.wait(client, "1", 10 * LONG)) for _ in range(3)]
    await asyncio.sleep(0.05)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert all(waiter.cancelled() for waiter in waiters)
    assert store._bells._waiting == {}  # type: ignore[attr-defined]


async def until(look: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Looks until it sees what is wanted."""
    async with asyncio.timeout(LONG):
        while await look() != wanted:
            await asyncio.sleep(0.01)


# -- both forms, side by side ---------------------------------------------------------------------------------

few = st.sampled_from(["a", "b"])
keys = st.tuples(st.just("begin"), few, few, few)
ends = st.tuples(st.sampled_from(["finish", "abandon"]), few, few, st.binary(max_size=3))
steps = st.tuples(st.sampled_from(["expect", "put", "get"]), few, few, st.binary(max_size=3))


@given(story=st.lists(st.one_of(keys, ends, steps), max_size=30))
@settings(max_examples=40, deadline=None)
def test_memory_and_redis_tell_the_same_story(
    redis_server: RedisServer, story: list[tuple[str, str, str, object]]
) -> None:
    """Whatever is done in whatever order, the answers are equal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "PATIENCE", LONG)
        asyncio.run(_tell(redis_server.url, story))


async def _tell(url: str, story: list[tuple[str, str, str, object]]) -> None:
    redis, run = shared.connect(SecretStr(url)), unique("story")
    forms = [(MemoryIdempotency(), MemoryResults(600)), (RedisIdempotency(redis, 600), RedisResults(redis, 600))]
    for number, (verb, scope, key, value) in enumerate(story):
        told = [
            await _step(form[verb in {"expect", "put", "get"}], verb, f"{run}{scope}", key, value) for form in forms
        ]
        assert told[0] == told[1], f"step {number} of {story}"
    await redis.aclose()


async def _step(store: Idempotency | Results, verb: str, scope: str, key: str, value: object) -> object:
    needs_value = verb in {"begin", "finish", "put"}
    return await getattr(store, verb)(scope, key, *([value] if needs_value else []))
