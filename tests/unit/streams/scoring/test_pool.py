"""The scorers of a process: the settings' own, and what commands put in their place while it runs."""

from collections.abc import Sequence
from typing import Any

from schemas.errors import Retry
from schemas.records import ModelKind, Target
from streams.models.routing import Routing, Why, activate, disable, initial, rollback, shadow, trial
from streams.scoring.pool import ScorerPool
from streams.scoring.scorer import Scorer, Verdict

WHY = Why("1", "anna", "a test", 0)
ONE, TWO = Target(name="mood", source="1" * 64), Target(name="mood", source="2" * 64)
STATE = initial(ModelKind.SCORER, "mood")


class Named:
    """A scorer that is only looked at."""

    needs, bounds, reference = "vector", (0.0, 1.0), None

    def __init__(self, name: str, version: str, model: str | None = None) -> None:
        self.name, self.version, self.model = name, version, model

    def score(self, inputs: Sequence[Any]) -> list[Verdict]:
        raise AssertionError


class Store:
    """Loads versions; `away` are those it cannot load now."""

    def __init__(self) -> None:
        self.loaded: list[Target] = []
        self.away: set[Target] = set()
        self.model: str | None = None

    def __call__(self, target: Target) -> Scorer:
        if target in self.away:
            raise Retry("the store is away")
        self.loaded.append(target)
        return Named(target.name, target.source[:12], self.model)  # type: ignore[return-value]


def pool(store: Store, *own: str) -> ScorerPool:
    return ScorerPool({name: Named(name, "own") for name in own}, store)  # type: ignore[misc]


def versions(scorers: ScorerPool) -> dict[str, str]:
    return {name: scorer.version for name, scorer in scorers.items()}


def test_without_commands_the_settings_answer() -> None:
    """Nothing is loaded, and nothing is missing."""
    scorers = pool(Store(), "similarity")
    assert scorers.follow(Routing())
    assert versions(scorers) == {"similarity": "own"}


def test_an_activated_version_joins_the_others_or_takes_the_place_of_one() -> None:
    """Under the alias's name; a rollback brings back what answered before, without loading it again."""
    store = Store()
    scorers = pool(store, "similarity", "mood")
    first = activate(STATE, ONE, WHY)
    second = activate(first, TWO, WHY)
    for state, version, before in [(first, "1" * 12, "own"), (second, "2" * 12, "1" * 12)]:
        assert scorers.follow(Routing().apply(state))
        assert versions(scorers) == {"similarity": "own", "mood": version}
        previous = scorers.previous("mood")
        assert previous is not None
        assert previous.version == before
    assert scorers.follow(Routing().apply(rollback(second, WHY)))
    assert versions(scorers)["mood"] == "1" * 12
    assert store.loaded == [ONE, TWO]


def test_a_version_that_cannot_be_loaded_changes_nothing() -> None:
    """What answered goes on, the other scorers are swapped all the same, and a later try works."""
    store = Store()
    scorers = pool(store, "similarity")
    first = Routing().apply(activate(STATE, ONE, WHY))
    assert scorers.follow(first)
    store.away.add(TWO)
    second = first.apply(activate(activate(STATE, ONE, WHY), TWO, WHY))
    assert not scorers.follow(second)
    assert versions(scorers)["mood"] == "1" * 12
    store.away.clear()
    assert scorers.follow(second)
    assert versions(scorers)["mood"] == "2" * 12


def test_a_version_that_was_never_there_has_no_name_yet() -> None:
    """Sentences that ask for it are refused with the names that there are."""
    store = Store()
    store.away.add(ONE)
    scorers = pool(store, "similarity")
    assert not scorers.follow(Routing().apply(activate(STATE, ONE, WHY)))
    assert versions(scorers) == {"similarity": "own"}
    assert len(scorers) == 1


def test_a_disabled_scorer_is_gone() -> None:
    """Whether it is trained or the settings' own."""
    scorers = pool(Store(), "similarity", "mood")
    own = disable(initial(ModelKind.SCORER, "similarity"), WHY)
    assert scorers.follow(Routing().apply(disable(activate(STATE, ONE, WHY), WHY)).apply(own))
    assert versions(scorers) == {}


def answering(scorers: ScorerPool, model: str = "a" * 64, sentence_id: str = "s") -> dict[str, str]:
    """Versions by name, where a model has scorers of its own called `mood` and `similarity`."""
    own = {name: Named(name, "own", model) for name in ("mood", "similarity")}
    return {name: scorer.version for name, scorer in scorers.of(model, sentence_id, own).items()}  # type: ignore[arg-type]


def test_each_model_has_its_own_scorers_and_what_commands_say_of_them() -> None:
    """A trained version answers for vectors that it understands, and a disabled scorer for none."""
    scorers = pool(store := Store())
    own = scorers.of("a" * 64, "s", same := {"mood": Named("mood", "own")})  # type: ignore[dict-item]
    assert own is same
    store.model = "a" * 64
    activated = Routing().apply(activate(STATE, ONE, WHY))
    assert scorers.follow(activated)
    assert answering(scorers) == {"mood": "1" * 12, "similarity": "own"}
    assert answering(scorers, model="b" * 64) == {"mood": "own", "similarity": "own"}
    assert scorers.follow(activated.apply(disable(initial(ModelKind.SCORER, "similarity"), WHY)))
    assert answering(scorers) == {"mood": "1" * 12}
    assert answering(scorers, model="b" * 64) == {"mood": "own"}


def test_a_trial_answers_its_share_of_the_sentences() -> None:
    """Always the same ones, and only those of a model that it understands."""
    scorers = pool(store := Store())
    store.model = "a" * 64
    assert scorers.follow(Routing().apply(trial(STATE, ONE, 0.25, WHY)))
    ids = [f"s-{n}" for n in range(1000)]
    first, again = ([answering(scorers, sentence_id=each)["mood"] for each in ids] for _ in range(2))
    assert first == again
    assert 200 < first.count("1" * 12) < 300
    assert {answering(scorers, "b" * 64, each)["mood"] for each in ids} == {"own"}
    assert scorers.follow(Routing().apply(trial(STATE, None, 0, WHY)))
    assert {answering(scorers, sentence_id=each)["mood"] for each in ids} == {"own"}


def test_a_shadow_is_loaded_and_answers_nothing() -> None:
    """It is there under the name that it works for, until the command that ends it."""
    scorers = pool(Store(), "mood")
    assert scorers.follow(Routing().apply(state := shadow(STATE, ONE, 0.5, WHY)))
    assert versions(scorers) == {"mood": "own"}
    found = scorers.shadow("mood")
    assert found is not None
    assert (found[0], found[1].version) == (state, "1" * 12)
    assert scorers.follow(Routing().apply(shadow(state, None, 0, WHY)))
    assert scorers.shadow("mood") is None
