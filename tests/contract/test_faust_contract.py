"""What agents/transport.py takes from Faust and aiokafka, and what would break it.

Both are overridden below their public interfaces. A new version may change what is underneath without a word, so each
piece of theirs that ours replaces or rests on is pinned here by a fingerprint of its source. A test that fails is no
bug yet: read what changed, check what the message says, then put the new fingerprint in.
"""

import ast
import hashlib
import inspect
import itertools
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher, FetchResult, MemoryRecords, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.app.base import BootStrategy
from faust.tables.recovery import Recovery
from faust.transport import consumer as base
from faust.transport.drivers import aiokafka as driver
from mode import threads

from agents import batches, transport
from agents.app import StreamApp
from tests.support.kafka import HasBrokers
from tests.support.observed import HOOKS
from tests.support.stream import Program, Stream, wait_until


def fingerprint(thing: Any) -> str:
    """A hash of a function's code: comments, docstrings and layout do not count."""
    source = textwrap.dedent(inspect.getsource(getattr(thing, "fun", thing)))  # mode wraps its service tasks
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            docstring = node.body[0]
            lines[docstring.lineno - 1 : docstring.end_lineno] = [""] * (docstring.end_lineno - docstring.lineno + 1)
    code = "\n".join("".join(line.split()) for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return hashlib.sha256(code.encode()).hexdigest()[:12]


#: What to check -> what it rests on, and the fingerprint that was checked.
PINS: dict[str, list[tuple[Any, str]]] = {
    "`_drain_messages` is ours: who calls it, how it is cancelled, and what a fetch may still do after that": [
        (base.Consumer._drain_messages, "3c7356856d79"),
        (base.Fetcher._fetcher, "34a85562a69c"),
        (base.Fetcher.on_stop, "d7682cd5e888"),
    ],
    "`stop_flow` starts a new epoch, and `resume_flow` waits for the end of a rebalance: who calls them, and when": [
        (base.Consumer.stop_flow, "e455210b1239"),
        (base.Consumer.resume_flow, "27386b6fa201"),
        (faust.App._stop_consumer, "3727218c2d8b"),
    ],
    "a rebalance calls on_partitions_revoked, wait_empty, on_partitions_assigned, perform_seek, in this order": [
        (driver.ConsumerRebalanceListener, "20e413b52f21"),
        (base.ThreadDelegateConsumer.threadsafe_partitions_revoked, "59ddd408717e"),
        (base.ThreadDelegateConsumer.threadsafe_partitions_assigned, "664780964970"),
        (base.Consumer.on_partitions_revoked, "5a3beac83ee3"),
        (base.Consumer.on_partitions_assigned, "4e015e54ffb1"),
        (faust.App._on_partitions_revoked, "29b76c2a371a"),
        (faust.App._on_partitions_assigned, "ca54ddb01d38"),
        (faust.App._consumer_wait_empty, "c3561d8ad01f"),
        (Recovery.on_rebalance, "db8048a4ea78"),
        (Recovery._resume_streams, "c29a4d671e2b"),
        (GroupCoordinator._on_join_prepare, "8a7a1ad86674"),
    ],
    "`perform_seek` is ours: what it did, and that these still seek and tell positions": [
        (base.Consumer.perform_seek, "663049d15c24"),
        (base.ThreadDelegateConsumer.seek_to_committed, "9ab819b04d95"),
        (base.ThreadDelegateConsumer.position, "1382e6768ca3"),
        (driver.AIOKafkaConsumerThread.seek_to_committed, "545a61dabe1c"),
        (driver.AIOKafkaConsumerThread.position, "f11dd0287fa1"),
        (AIOKafkaConsumer.seek_to_committed, "375102d957c8"),
        (AIOKafkaConsumer.position, "7b1b355d32b1"),
    ],
    "`wait_empty` and `force_commit` are ours: the timer, a rebalance and the end must pass through them": [
        (base.Consumer.wait_empty, "418dca95cfc1"),
        (base.Consumer.on_stop, "38c832301882"),
        (base.Consumer.commit, "9946c874c85c"),
        (base.Consumer.maybe_wait_for_commit_to_finish, "298d80bea6e6"),
        (base.Consumer._commit_handler, "976fb7662da4"),
        (base.Consumer.force_commit, "8c75d9855a37"),
    ],
    "`commit_notes` does what `commit_offsets` does, in one generation only": [
        (GroupCoordinator.commit_offsets, "fad3cab856c7"),
        (GroupCoordinator._do_commit_offsets, "23c39148bb3d"),
        (GroupCoordinator.ensure_coordinator_known, "7d6ad05a9951"),
        (GroupCoordinator.reset_generation, "d23b80352b67"),
        (GroupCoordinator.fetch_committed_offsets, "68a890104f44"),
        (GroupCoordinator.request_rejoin, "e3a19aa5dd8e"),
    ],
    "`verify_event_path` is silenced: only the stall detector calls it": [
        (base.Consumer.verify_all_partitions_active, "6895b643cb04"),
        (driver.Consumer.verify_event_path, "6760a49f3c1b"),
    ],
    "the consumer's thread and the aiokafka consumer in it are ours: what Faust's own would be given": [
        (base.Consumer.__init__, "b3f31611082d"),
        (base.ThreadDelegateConsumer.__init__, "a9934d9cadb1"),
        (driver.Consumer._new_consumer_thread, "f975180b1581"),
        (driver.AIOKafkaConsumerThread.on_start, "80e63549b581"),
        (driver.AIOKafkaConsumerThread.on_thread_stop, "606c37380f35"),
        (driver.AIOKafkaConsumerThread._create_consumer, "93de3a462f6e"),
        (driver.AIOKafkaConsumerThread._create_worker_consumer, "9cd064715251"),
        (driver.AIOKafkaConsumerThread.subscribe, "88384e3b4920"),
        (driver.Transport.create_consumer, "84b134fec33e"),
    ],
    "`fetch` takes records and then positions: what is skipped (markers, compacted offsets) must still move them": [
        (AIOKafkaConsumer.getmany, "9d9df4077b23"),
        (AIOKafkaConsumer.last_stable_offset, "753718b5852b"),
        (Fetcher.fetched_records, "5bdbdedd80a0"),
        (Fetcher._update_fetch_positions, "55a9dc0b859f"),
    ],
    "agents/batches.py stands for MemoryRecords and PartitionRecords: what is asked of both, and in which order": [
        (Fetcher._proc_fetch_request, "4b8f3760801e"),
        (FetchResult, "ad2b134ddc5f"),
        (PartitionRecords, "2b0d44f335f5"),
    ],
    "a thread that crashed answers no call any more, and its end is waited for": [
        (threads.QueueServiceThread.call_thread, "3846d7147584"),
        (threads.MethodQueueWorker, "dd206b59d124"),
        (threads.ServiceThread.stop, "0dd314a0b0c5"),
        (threads.ServiceThread._serve, "0e5b7786c207"),
    ],
    "nothing is written to disk, and neither Faust's producer nor its web server starts": [
        (faust.App._create_directories, "c0df2eab311c"),
        (BootStrategy.kafka_producer, "ffe59c03ce3f"),
        (BootStrategy._should_enable_kafka_producer, "12c85437cb44"),
        (BootStrategy.web_server, "d5d07f10d0cd"),
        (BootStrategy.kafka_consumer, "42e35afc6e47"),
    ],
}


@pytest.mark.parametrize(
    ("what", "thing", "pinned"),
    [
        pytest.param(what, thing, pinned, id=getattr(thing, "fun", thing).__qualname__)
        for what, pins in PINS.items()
        for thing, pinned in pins
    ],
)
def test_what_is_underneath_has_not_changed(what: str, thing: Any, pinned: str) -> None:
    """The code of Faust and aiokafka that ours replaces or rests on is the code that was read."""
    name = f"{thing.__module__}.{getattr(thing, 'fun', thing).__qualname__}"
    found = fingerprint(thing)
    assert found == pinned, f"{name} is not what it was (now {found}). Check in agents/transport.py: {what}"


def test_every_override_is_pinned() -> None:
    """Whatever our transport overrides of Faust's is pinned above."""
    pinned = {getattr(thing, "fun", thing).__qualname__.split(".")[-1] for pins in PINS.values() for thing, _ in pins}
    pairs = (
        (transport.Consumer, driver.Consumer),
        (transport.ConsumerThread, driver.AIOKafkaConsumerThread),
        (StreamApp, faust.App),
    )
    overridden = {
        name
        for ours, theirs in pairs
        for name, value in vars(ours).items()
        if inspect.isfunction(value) and hasattr(theirs, name)
    }
    assert overridden - pinned == set()
    assert {"_drain_messages", "force_commit", "wait_empty", "perform_seek", "_create_directories"} <= overridden


def test_aiokafka_takes_what_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument of the consumer exists, and the one that is set behind its back still cannot be passed."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(transport, "AIOKafkaConsumer", lambda **arguments: seen.update(arguments))
    monkeypatch.setattr(transport, "guard", lambda limit: None)
    conf = SimpleNamespace(
        id="group", broker_session_timeout=10.0, broker_heartbeat_interval=2.5, broker_rebalance_timeout=35.0
    )
    connection = {"bootstrap_servers": "x:1", "client_id": "c"}
    thread = SimpleNamespace(app=SimpleNamespace(connection=connection, conf=conf, unpack_limit=1))
    transport.ConsumerThread._create_worker_consumer(thread, None)  # type: ignore[arg-type]
    assert seen.keys() <= inspect.signature(AIOKafkaConsumer).parameters.keys()
    assert (seen["isolation_level"], seen["enable_auto_commit"]) == ("read_committed", False)
    assert "prefetch_backoff" in inspect.signature(Fetcher).parameters
    assert "prefetch_backoff" not in inspect.signature(AIOKafkaConsumer).parameters, (
        "pass it, in place of the attribute"
    )


def test_batches_can_stand_for_what_aiokafka_has() -> None:
    """Ours has every method of its memory records, and aiokafka finds both classes where ours are put."""
    theirs = {name for name in vars(MemoryRecords) if name.islower() and not name.startswith("_")}
    assert theirs <= vars(batches.Batches).keys()
    assert {"MemoryRecords", "PartitionRecords"} <= set(Fetcher._proc_fetch_request.__code__.co_names)


def test_faust_starts_neither_producer_nor_web_server() -> None:
    """The flags of our boot strategy still mean what they meant."""
    strategy = StreamApp.BootStrategy(SimpleNamespace(conf=SimpleNamespace(web_enabled=True)))
    assert list(strategy.kafka_producer()) == []
    assert list(strategy.web_server()) == []


def test_a_rebalance_goes_through_our_hands_in_order(kafka: HasBrokers, tmp_path: Path) -> None:
    """Flow stopped, work finished and committed, old partitions let go, new ones sought, flow resumed."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        first = stream.start(module="tests.support.observed").ready()
        joined = hooks(first)
        assert joined == [name for name in HOOKS if name != "wait_empty"], "nothing is held at first"
        stream.start().ready()
        wait_until(lambda: hooks(first)[-1] == "resume_flow", "the rebalance is over")
        assert hooks(first) == [*joined, *HOOKS]
        first.stop()
        assert hooks(first) == [*joined, *HOOKS, "stop_flow", "wait_empty"]


def hooks(program: Program) -> list[str]:
    """The hooks that were called; one that is called several times in a row counts once."""
    called = [line["name"] for line in program.lines() if line["event"] == "hook"]
    return [name for name, _ in itertools.groupby(called)]
