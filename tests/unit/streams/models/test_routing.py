"""What each alias stands for: every decision, and who gets what of it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from schemas.records import ModelCommand, ModelKind, Target
from streams.models.routing import (
    DEFAULT,
    NotPossible,
    Routing,
    Why,
    activate,
    chosen,
    disable,
    initial,
    key,
    portion,
    quarantine,
    resume,
    rollback,
    shadow,
    shadowed,
    trial,
)

OLD, NEW = Target(name="old", source="old"), Target(name="new", source="new")
WHY = Why("1", "anna", "it is better", 17)
FRESH = initial(ModelKind.EMBEDDER, DEFAULT)
IDS = [str(number) for number in range(10_000)]


def test_a_decision_names_who_and_when_and_why() -> None:
    """The record itself is the audit trail."""
    state = activate(FRESH, NEW, WHY)
    assert (state.id, state.by, state.reason, state.at) == ("1", "anna", "it is better", 17)
    assert state.active == NEW


def test_the_key_names_kind_and_alias() -> None:
    """So compaction keeps the last state of each alias."""
    assert key(ModelKind.SCORER, "topic") == b"scorer:topic"


def test_a_rollback_is_the_way_back_and_forth() -> None:
    """What answered before answers again; a second rollback takes back the first."""
    state = activate(activate(FRESH, OLD, WHY), NEW, WHY)
    back = rollback(state, WHY)
    assert (back.active, back.previous) == (OLD, NEW)
    assert rollback(back, WHY).active == NEW


def test_the_first_switch_rolls_back_to_the_settings() -> None:
    """Before any command the settings' model answered, so that is where the way back leads."""
    assert rollback(activate(FRESH, NEW, WHY), WHY).active is None


@pytest.mark.parametrize("state", [FRESH, activate(initial(ModelKind.EMBEDDER, "small"), NEW, WHY)])
def test_where_nothing_answered_before_there_is_no_way_back(state: ModelCommand) -> None:
    """Rolling back would leave the alias without any model."""
    with pytest.raises(NotPossible, match="nothing answered before"):
        rollback(state, WHY)


def test_activating_again_keeps_the_way_back() -> None:
    """The same command twice does not forget what answered before."""
    state = activate(activate(activate(FRESH, OLD, WHY), NEW, WHY), NEW, WHY)
    assert state.previous == OLD


def test_what_becomes_active_is_on_trial_no_more() -> None:
    """A trial or shadow of the very model that now answers everything would be idle work."""
    tried = shadow(trial(FRESH, NEW, 0.1, WHY), NEW, 0.5, WHY)
    state = activate(tried, NEW, WHY)
    assert (state.trial, state.share, state.shadow, state.shadow_share) == (None, 0.0, None, 0.0)


def test_a_rollback_ends_the_trial() -> None:
    """Whoever rolls back wants what was there before, for everybody."""
    assert rollback(trial(activate(FRESH, OLD, WHY), NEW, 0.5, WHY), WHY).trial is None


def test_out_of_service_and_back() -> None:
    """A person resumes what a person or the kill switch took out; nobody resumes what is in."""
    for out in (disable(FRESH, WHY), quarantine(FRESH, WHY)):
        back = resume(out, WHY)
        assert (back.disabled, back.quarantined) == (False, False)
    with pytest.raises(NotPossible, match="in service"):
        resume(FRESH, WHY)


def test_another_version_does_not_lift_the_quarantine() -> None:
    """Only a person who resumes does."""
    assert activate(quarantine(FRESH, WHY), NEW, WHY).quarantined


@pytest.mark.parametrize("decide", [shadow, trial])
@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_is_a_share(decide: Callable[..., ModelCommand], share: float) -> None:
    """More than nothing, and at most all."""
    with pytest.raises(NotPossible, match="share"):
        decide(FRESH, NEW, share, WHY)


def test_a_trial_gets_its_share_and_always_the_same_sentences() -> None:
    """A tenth is about a tenth; a larger share keeps whom the smaller had, so no sentence flips to and fro."""
    state = trial(activate(FRESH, OLD, WHY), NEW, 0.1, WHY)
    tenth = {each for each in IDS if chosen(state, each) == NEW}
    assert 900 < len(tenth) < 1_100
    half = {each for each in IDS if chosen(replace(state, share=0.5), each) == NEW}
    assert tenth < half
    assert {chosen(replace(state, share=1.0), each) for each in IDS} == {NEW}


def test_the_share_is_the_same_on_every_machine() -> None:
    """A changed hash would send sentences to another model after an upgrade."""
    assert portion("default", "sentence-1") == pytest.approx(0.99371, abs=1e-5)


def test_sentences_of_one_call_stay_together() -> None:
    """An answer to many sentences would otherwise hold vectors of two models."""
    assert {portion("default", f"call/{number}") for number in range(100)} == {portion("default", "call/x")}
    assert portion("default", "call-1/0") != portion("default", "call-2/0")


def test_a_shadow_answers_nobody() -> None:
    """It works on its share beside whatever answers."""
    state = shadow(activate(FRESH, OLD, WHY), NEW, 0.25, WHY)
    assert {chosen(state, each) for each in IDS} == {OLD}
    assert 2_300 < sum(shadowed(state, each) == NEW for each in IDS) < 2_700


def test_no_target_ends_trial_and_shadow() -> None:
    """Whatever share was given last."""
    state = trial(shadow(trial(FRESH, NEW, 0.1, WHY), NEW, 0.5, WHY), None, 0.0, WHY)
    assert shadow(state, None, 0.0, WHY) == replace(FRESH, id="1", by="anna", reason="it is better", at=17)


def test_the_last_command_of_an_alias_counts() -> None:
    """And says nothing about other aliases, or a scorer of the same name."""
    routing = Routing().apply(activate(FRESH, OLD, WHY)).apply(activate(FRESH, NEW, WHY))
    assert routing.resolve(ModelKind.EMBEDDER, DEFAULT, "a") == NEW
    assert routing.resolve(ModelKind.SCORER, DEFAULT, "a") is None
    assert routing.resolve(ModelKind.EMBEDDER, "small", "a") is None
    assert routing.forget(ModelKind.EMBEDDER, DEFAULT) == Routing()


def test_everything_that_answers_or_watches_is_needed() -> None:
    """What a rollback would go back to is not, until it happens."""
    state = shadow(activate(activate(FRESH, OLD, WHY), NEW, WHY), Target(name="s", source="s"), 1.0, WHY)
    routing = Routing().apply(state).apply(disable(initial(ModelKind.SCORER, "topic"), WHY))
    assert {target.name for target in routing.targets(ModelKind.EMBEDDER)} == {"new", "s"}
    assert routing.targets(ModelKind.SCORER) == frozenset()
