"""The models of a worker: what answers before, while and after a command, and what memory holds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from schemas.errors import ModelLoading, UnknownModel
from schemas.records import ModelKind, Target
from streams.embedding.embedder import ModelError
from streams.embedding.loader import target
from streams.embedding.model import Model
from streams.models import pool as pools
from streams.models.pool import Pool
from streams.models.routing import DEFAULT, Routing, Why, activate, disable, initial, resume, rollback, shadow, trial
from streams.observe.metrics import Metrics
from streams.testing import DeterministicEmbedder

WHY = Why("1", "anna", "a test", 1)
OWN, SECOND, THIRD = (target(name, None, "float32") for name in ("deterministic", "deterministic:2", "deterministic:3"))
NOTHING = Routing()
FRESH = initial(ModelKind.EMBEDDER, DEFAULT)
SMALL = initial(ModelKind.EMBEDDER, "small")


def loaded(wanted: Target) -> Model:
    """The deterministic embedder of that name."""
    return Model(DeterministicEmbedder(variant=wanted.source.partition(":")[2] or "1"))


class Gate:
    """Loads when it is told to, and fails where it is told to."""

    def __init__(self) -> None:
        self.open, self.asked = threading.Event(), list[Target]()
        self.broken = set[str]()

    def load(self, wanted: Target) -> Model:
        self.asked.append(wanted)
        assert self.open.wait(10)
        if wanted.source in self.broken:
            raise ModelError("no such folder")
        return loaded(wanted)


@contextmanager
def started(
    load: Callable[[Target], Model] = loaded, routing: Routing = NOTHING, *, budget: int = 2**40, **more: object
) -> Iterator[Pool]:
    """A pool whose own model is there."""
    with closing(Pool(OWN, load, budget, Metrics(), **more)) as pool:  # type: ignore[arg-type]
        pool.start(routing, loaded(OWN))
        yield pool


def soon(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def name(pool: Pool, asked: str | None = None, sentence: str = "s") -> str:
    return pool.find(asked, sentence).identity.name


def test_without_commands_the_settings_model_answers() -> None:
    """By nothing, by the alias, and by its full name; any other name is refused with the names there are."""
    with started() as pool:
        assert {name(pool, each) for each in (None, DEFAULT, "deterministic")} == {"deterministic"}
        with pytest.raises(UnknownModel, match="expected null or one of default, deterministic, got 'other'"):
            pool.find("other", "s")


def test_the_old_model_answers_until_the_new_one_is_loaded() -> None:
    """Nobody waits for a switch: one record gets the old model, the next the new one."""
    gate, swapped = Gate(), list[Model]()
    with started(gate.load, swapped=swapped.append) as pool:
        pool.follow(Routing().apply(activate(FRESH, SECOND, WHY)))
        soon(lambda: gate.asked == [SECOND])
        assert name(pool) == "deterministic"
        gate.open.set()
        soon(lambda: name(pool) == "deterministic:2")
        assert [model.identity.name for model in swapped] == ["deterministic", "deterministic:2"]


def test_the_way_back_is_at_once() -> None:
    """What answered before is still loaded."""
    with started() as pool:
        state = activate(FRESH, SECOND, WHY)
        pool.follow(Routing().apply(state))
        soon(lambda: name(pool) == "deterministic:2")
        pool.follow(Routing().apply(rollback(state, WHY)))
        assert name(pool) == "deterministic"


def test_a_restart_begins_with_what_commands_say() -> None:
    """The settings' model is not even loaded where another one answers."""
    gate = Gate()
    gate.open.set()
    with closing(Pool(OWN, gate.load, 2**40, Metrics())) as pool:
        pool.start(Routing().apply(activate(FRESH, SECOND, WHY)))
        assert name(pool) == "deterministic:2"
        assert gate.asked == [SECOND]


def test_a_model_that_cannot_be_loaded_changes_nothing_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one answers on, somebody hears why, and once it can be loaded it is."""
    monkeypatch.setattr(pools, "PAUSES", (0.01,))
    gate, told = Gate(), list[str]()
    gate.open.set()
    gate.broken = {SECOND.source}
    with started(gate.load, failed=lambda wanted, why: told.append(f"{wanted.name}: {why}")) as pool:
        pool.follow(Routing().apply(activate(FRESH, SECOND, WHY)))
        soon(lambda: len(told) > 1)
        assert told[0] == "deterministic:2: no such folder"
        assert name(pool) == "deterministic"
        gate.broken.clear()
        soon(lambda: name(pool) == "deterministic:2")


def test_weights_other_than_those_that_were_pinned_are_not_served() -> None:
    """Somebody replaced the model behind its name."""
    told = list[str]()
    with started(failed=lambda _, why: told.append(why)) as pool:
        pool.follow(Routing().apply(activate(FRESH, replace(SECOND, digest="60303ae2"), WHY)))
        soon(lambda: bool(told))
        assert "expected 60303ae2" in told[0]
        assert name(pool) == "deterministic"


def test_a_sentence_may_ask_for_another_alias_or_a_full_name() -> None:
    """Both models answer side by side; while the second is being loaded its sentences wait."""
    gate = Gate()
    with started(gate.load) as pool:
        pool.follow(Routing().apply(activate(SMALL, SECOND, WHY)))
        for asked in ("small", "deterministic:2"):
            with pytest.raises(ModelLoading, match="deterministic:2 is being loaded"):
                pool.find(asked, "s")
        gate.open.set()
        soon(lambda: len(pool._loaded) == 2)
        assert [name(pool, asked) for asked in ("small", "deterministic:2", None)] == ["deterministic:2"] * 2 + [
            "deterministic"
        ]


def test_what_answered_before_can_be_asked_for_by_name() -> None:
    """After a restart it is loaded for the first who asks."""
    state = activate(activate(FRESH, SECOND, WHY), THIRD, WHY)
    with started(routing=Routing().apply(state)) as pool:
        with pytest.raises(ModelLoading):
            pool.find("deterministic:2", "s")
        soon(lambda: len(pool._loaded) == 3)
        assert name(pool, "deterministic:2") == "deterministic:2"
        assert name(pool) == "deterministic:3"


def test_a_trial_answers_its_share_once_it_is_loaded() -> None:
    """Until then, and for everybody else, the active one does; each sentence always gets the same."""
    gate = Gate()
    with started(gate.load) as pool:
        pool.follow(Routing().apply(trial(FRESH, SECOND, 0.25, WHY)))
        assert {name(pool, None, str(n)) for n in range(100)} == {"deterministic"}
        gate.open.set()
        soon(lambda: len(pool._loaded) == 2)
        answers = [name(pool, None, str(n)) for n in range(4_000)]
        assert 900 < answers.count("deterministic:2") < 1_100
        assert answers == [name(pool, DEFAULT, str(n)) for n in range(4_000)]


def test_a_shadow_is_told_apart_from_answers() -> None:
    """It is there for its share, and answers nobody."""
    with started() as pool:
        assert pool.shadow(None, "s") is None
        pool.follow(Routing().apply(shadow(FRESH, SECOND, 1.0, WHY)))
        soon(lambda: pool.shadow(None, "s") is not None)
        assert name(pool) == "deterministic"
        pool.follow(Routing().apply(shadow(shadow(FRESH, SECOND, 1.0, WHY), None, 0, WHY)))
        assert pool.shadow(None, "s") is None


def test_out_of_service_means_refused_and_back_means_answered() -> None:
    """A disabled alias is refused with its name; resumed, it answers as before."""
    with started() as pool:
        state = disable(FRESH, WHY)
        pool.follow(Routing().apply(state))
        with pytest.raises(UnknownModel, match="default is disabled"):
            pool.find(None, "s")
        pool.follow(Routing().apply(resume(state, WHY)))
        assert name(pool) == "deterministic"


def test_what_nobody_needs_is_dropped_when_memory_is_short() -> None:
    """The longest unwanted first; what an alias needs stays, however much that is."""
    sizes = iter(range(0, 10_000, 100))
    with started(budget=250, memory=lambda: next(sizes)) as pool:
        state = FRESH
        for wanted in (SECOND, THIRD, target("deterministic:4", None, "float32")):
            state = activate(state, wanted, WHY)
            pool.follow(Routing().apply(state))
            soon(lambda wanted=wanted: name(pool) == wanted.name)  # type: ignore[misc]
        soon(lambda: SECOND not in pool._loaded)
        assert THIRD in pool._loaded
        assert name(pool) == "deterministic:4"


def test_what_is_being_embedded_keeps_its_model() -> None:
    """A record that was prepared before a switch is embedded by what it was prepared for."""
    with started() as pool:
        before = pool.find(None, "s")
        pool.follow(Routing().apply(activate(FRESH, SECOND, WHY)))
        soon(lambda: name(pool) == "deterministic:2")
        assert before.identity.name == "deterministic"
        assert before.embedder.embed(before.embedder.tokenise(["a"])).shape == (1, 384)


def test_metrics_name_what_is_served() -> None:
    """And nothing that is served no more."""
    metrics = Metrics()
    with closing(Pool(OWN, loaded, 2**40, metrics)) as pool:
        pool.start(Routing(), loaded(OWN))
        pool.follow(Routing().apply(activate(FRESH, SECOND, WHY)))
        soon(lambda: name(pool) == "deterministic:2")
        (family,) = metrics.model.collect()
        assert [(sample.labels["alias"], sample.labels["model"]) for sample in family.samples] == [
            ("default", "deterministic:2")
        ]
        assert (
            metrics.registry.get_sample_value(
                "streams_model_loads_total", {"model": "deterministic:2", "outcome": "loaded"}
            )
            == 1
        )
