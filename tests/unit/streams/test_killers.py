"""Lives of a worker, one after the other, with texts among its records over which it dies each time."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import EmbeddingFailed, Reject
from streams.lanes import Lane, LaneName
from streams.observe.metrics import Metrics
from streams.pipeline import Pipeline, Retries
from streams.records import Outgoing, Record, TopicPartition
from streams.suspects import Suspicion
from streams.testing import PublishedRecord

LANES = (Lane(LaneName.INTERACTIVE, "urgent", 0.0), Lane(LaneName.BULK, "requests", 2.0))
PLACES = (TopicPartition("requests", 0), TopicPartition("requests", 1), TopicPartition("urgent", 0))
#: Lives after which a killer that was not found never will be.
LIVES = 60

Log = Mapping[TopicPartition, Sequence[bytes]]
Place = tuple[TopicPartition, int]


@dataclass
class World:
    """What outlives a worker: the records, the commits, and what was published."""

    log: Log
    commits: dict[TopicPartition, tuple[int, str]] = field(default_factory=lambda: defaultdict(lambda: (0, "")))
    answers: Counter[Place] = field(default_factory=Counter)
    letters: Counter[Place] = field(default_factory=Counter)
    deaths: int = 0


@dataclass(frozen=True)
class Work:
    """A record; its value says when it kills."""

    record: Record
    size: int = 4
    deadline: int | None = None


class Life:
    """One process, from the commits it finds to its death or to the end of the log: stage and publisher in one."""

    name = "fake"

    def __init__(self, world: World, concurrency: int, atomic: bool, fetch: int, attempts: int) -> None:
        self.world, self.concurrency, self.atomic, self._fetch = world, concurrency, atomic, fetch
        self._dead, self._over = threading.Event(), threading.Event()
        self.crashes: list[BaseException] = []
        self.pipeline: Pipeline[Work] = Pipeline(
            self,
            LANES,
            self,
            lambda record, reason, _: [Outgoing("letters", None, reason.reason.encode(), [(place(record), None)])],
            Metrics(),
            budget=12,
            max_records=1000,
            max_bytes=1_000_000,
            on_crash=self._crashed,
            remember=self._remember,
            retries=Retries(attempts, delays=(0.0,)),
        )

    async def live(self) -> None:
        """Lives."""
        await self.pipeline.start()
        found = {tp: self.world.commits[tp] for tp in PLACES}
        self.pipeline.assign(
            {tp: at for tp, (at, _) in found.items()},
            {tp: Suspicion.parse(note, at) for tp, (at, note) in found.items()},
        )
        work = [asyncio.create_task(self._feed(tp, at)) for tp, (at, _) in found.items()]
        work.append(asyncio.create_task(self._commit()))
        async with asyncio.timeout(60):
            while not (self._dead.is_set() or self._done()):
                await asyncio.sleep(0.001)
        self.world.deaths += self._dead.is_set()
        self._dead.set()  # whatever happens from now on did not happen
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self.pipeline.stop()
        self._over.set()
        for thread in self.pipeline._threads:
            await asyncio.to_thread(thread.join, 10)
        assert not self.crashes

    def _crashed(self, error: BaseException) -> None:
        if not self._dead.is_set():
            self.crashes.append(error)

    def _done(self) -> bool:
        return all(self.world.commits[tp][0] == len(self.world.log[tp]) for tp in PLACES)

    async def _feed(self, tp: TopicPartition, at: int) -> None:
        for start in range(at, len(self.world.log[tp]), self._fetch):
            values = self.world.log[tp][start : start + self._fetch]
            records = [PublishedRecord(*tp, start + number, 0, None, value, ()) for number, value in enumerate(values)]
            await self.pipeline.accept(self.pipeline.epoch, {tp: records}, {tp: start + len(values)})

    async def _commit(self) -> None:
        while not self.atomic:
            for tp, at in self.pipeline.positions().items():
                if not self._dead.is_set() and self.world.commits[tp][0] != at:
                    self.world.commits[tp] = (at, "")
            await asyncio.sleep(0.003)

    async def _remember(self, tp: TopicPartition, position: int, note: str) -> None:
        await asyncio.sleep(0.001)
        await self._stands_still()
        assert position >= self.world.commits[tp][0], "a commit went back"
        self.world.commits[tp] = (position, note)
        await asyncio.sleep(0.001)
        await self._stands_still()

    async def _stands_still(self) -> None:
        if self._dead.is_set():
            await asyncio.Event().wait()

    # -- the publisher --------------------------------------------------------------------------------------------

    async def assign(self, _: object) -> None:
        """Takes everything."""

    async def publish(self, _: Sequence[Outgoing]) -> Mapping[int, Reject]:
        """Tells nobody."""
        return {}

    async def deliver(self, records: Sequence[Outgoing], source: TopicPartition, position: int) -> Mapping[int, Reject]:
        """Publishes, and where it is atomic commits, all at once."""
        await asyncio.sleep(0.001)
        await self._stands_still()
        for record in records:
            (tp, offset) = named(record.headers[0][0])
            (self.world.letters if record.topic == "letters" else self.world.answers)[tp, offset] += 1
        if self.atomic:
            self.world.commits[source] = (position, "")
        return {}

    # -- the stage ------------------------------------------------------------------------------------------------

    def prepare(self, records: Sequence[Record]) -> list[Work | list[Outgoing] | Reject]:
        """Reads, and dies over what kills then."""
        self._die_of(records, b"kills prepare")
        return [Work(record) for record in records]

    def run(self, batch: Sequence[Work]) -> list[list[Outgoing] | Reject]:
        """Works, and dies over what kills then."""
        self._die_of([work.record for work in batch], b"kills run")
        if any(work.record.value == b"fails" for work in batch):
            raise RuntimeError("fails")
        return [[Outgoing("answers", None, b"", [(place(work.record), None)])] for work in batch]

    def _die_of(self, records: Sequence[Record], killer: bytes) -> None:
        if any(record.value == killer for record in records):
            time.sleep(0.005)  # the death takes its time, so that somebody else could be named meanwhile
            self._dead.set()
        if self._dead.is_set():
            self._over.wait(60)
            raise SystemExit

    def failed(self, error: Exception) -> Reject:
        """Has nothing to add."""
        return EmbeddingFailed(str(error))


def place(record: Record) -> str:
    """A record's place as text."""
    return f"{record.topic}/{record.partition}/{record.offset}"


def named(text: str) -> Place:
    """The place that a text names."""
    topic, partition, offset = text.split("/")
    return TopicPartition(topic, int(partition)), int(offset)


def settle(log: Log, concurrency: int, atomic: bool, fetch: int, attempts: int) -> World:
    """Has workers live one after the other until all is done; returns what they left."""
    world = World(log)
    while any(world.commits[tp][0] < len(log[tp]) for tp in PLACES):
        assert world.deaths < LIVES, f"stuck at {dict(world.commits)}"
        asyncio.run(Life(world, concurrency, atomic, fetch, attempts).live())
    return world


def assert_each_has_its_own(world: World) -> None:
    """Killers and what fails are letters, everybody else is answered, and nobody is both."""
    every = {(tp, offset): value for tp, values in world.log.items() for offset, value in enumerate(values)}
    assert set(world.letters) == {at for at, value in every.items() if value != b"fine"}
    assert set(world.answers) == {at for at, value in every.items() if value == b"fine"}


values = st.sampled_from([b"fine"] * 12 + [b"kills run", b"kills prepare", b"fails"])
logs = st.fixed_dictionaries({tp: st.lists(values, max_size=14) for tp in PLACES}).filter(
    lambda log: sum(value.startswith(b"kills") for values in log.values() for value in values) <= 4
)


@settings(max_examples=25, deadline=None)
@given(logs, st.integers(1, 2), st.booleans(), st.integers(1, 14), st.integers(1, 2))
def test_only_killers_are_found(log: Log, concurrency: int, atomic: bool, fetch: int, attempts: int) -> None:
    """Whoever kills, on any partition, thread and step: each is found, and no neighbour is accused even once."""
    assert_each_has_its_own(settle(log, concurrency, atomic, fetch, attempts))


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("atomic", [False, True])
def test_killers_of_all_partitions_at_once_are_found(concurrency: int, atomic: bool) -> None:
    """Several threads and partitions, each with a killer between neighbours, and one that is the first of its own."""
    log = {
        PLACES[0]: [b"fine", b"kills run", b"fine", b"fine", b"kills prepare", b"fine", b"kills prepare"],
        PLACES[1]: [b"kills run", *[b"fine"] * 8],
        PLACES[2]: [*[b"fine"] * 8, b"kills prepare", b"fine"],
    }
    world = settle(log, concurrency, atomic, fetch=5, attempts=1)
    assert_each_has_its_own(world)
    if atomic:
        assert {*world.letters.values(), *world.answers.values()} == {1}, "exactly once, whoever dies"
