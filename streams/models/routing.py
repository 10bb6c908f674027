"""What each alias stands for, and how one decision about it leads to the next.

The whole state of an alias is its last `ModelCommand` on `sentence.models`. Nothing here reads or writes that topic:
every function takes a state and returns the next one, so that the command line, the bridge and the kill switch decide
alike, and every worker that has read the same commands serves the same models.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from schemas.errors import StreamsError
from schemas.records import ModelCommand, ModelKind, Target

#: The alias of sentences that name no model.
DEFAULT: Final = "default"

Alias = tuple[ModelKind, str]


class NotPossible(StreamsError):
    """The alias is in no state for this; the message says why."""


@dataclass(frozen=True, slots=True)
class Why:
    """Who decides something, when and why."""

    id: str
    by: str
    reason: str
    #: Milliseconds since 1970 UTC.
    at: int


def initial(kind: ModelKind, alias: str) -> ModelCommand:
    """The state of an alias that nobody has decided anything about: what the worker's settings say."""
    return ModelCommand(id="", kind=kind, alias=alias, at=0)


def key(kind: ModelKind, alias: str) -> bytes:
    """The key of an alias's commands on `sentence.models`."""
    return f"{kind}:{alias}".encode()


def activate(state: ModelCommand, target: Target, why: Why) -> ModelCommand:
    """`target` answers from now on; what answered until now is what a rollback goes back to."""
    if target == state.active:
        return _decided(replace(state, disabled=False), why)
    state = replace(state, active=target, previous=state.active, disabled=False)
    if state.shadow == target:
        state = replace(state, shadow=None, shadow_share=0.0)
    if state.trial == target:
        state = replace(state, trial=None, share=0.0)
    return _decided(state, why)


def shadow(state: ModelCommand, target: Target | None, share: float, why: Why) -> ModelCommand:
    """`target` works beside the active one on a share of the sentences, and publishes nothing; None ends it."""
    share = _share(share) if target else 0.0
    return _decided(replace(state, shadow=target, shadow_share=share), why)


def trial(state: ModelCommand, target: Target | None, share: float, why: Why) -> ModelCommand:
    """`target` answers a share of the sentences in place of the active one; None ends it."""
    return _decided(replace(state, trial=target, share=_share(share) if target else 0.0), why)


def rollback(state: ModelCommand, why: Why) -> ModelCommand:
    """What answered before answers again, alone; doing it twice is where one began. Raises NotPossible."""
    if state.previous is None and (state.active is None or not _has_fallback(state)):
        raise NotPossible(f"{state.kind} {state.alias}: nothing answered before, so there is nothing to go back to")
    state = replace(state, active=state.previous, previous=state.active, disabled=False, trial=None, share=0.0)
    return _decided(state, why)


def disable(state: ModelCommand, why: Why) -> ModelCommand:
    """Out of service: sentences that ask for the alias are refused."""
    return _decided(replace(state, disabled=True), why)


def quarantine(state: ModelCommand, why: Why) -> ModelCommand:
    """The kill switch: what the alias says is not published until a person resumes it."""
    return _decided(replace(state, quarantined=True), why)


def resume(state: ModelCommand, why: Why) -> ModelCommand:
    """In service again, whether a person or the kill switch took it out. Raises NotPossible where it is not out."""
    if not (state.disabled or state.quarantined):
        raise NotPossible(f"{state.kind} {state.alias}: it is in service")
    return _decided(replace(state, disabled=False, quarantined=False), why)


def _decided(state: ModelCommand, why: Why) -> ModelCommand:
    return replace(state, id=why.id, by=why.by, reason=why.reason, at=why.at)


def _share(share: float) -> float:
    if not 0 < share <= 1:
        raise NotPossible(f"share: expected more than 0 and at most 1, got {share:g}")
    return share


def _has_fallback(state: ModelCommand) -> bool:
    """Whether the worker's settings may know the alias: they know one embedder, and any number of scorers."""
    return state.kind is ModelKind.SCORER or state.alias == DEFAULT


def portion(alias: str, sentence_id: str) -> float:
    """Where a sentence lies between 0 and 1, the same everywhere: those below a share belong to it.

    Sentences whose ids differ only behind the last slash lie together: those of one call, or of one document, are
    never answered by two models.
    """
    together = sentence_id.rpartition("/")[0] or sentence_id
    return zlib.crc32(f"{alias}\0{together}".encode()) / 2**32


def chosen(state: ModelCommand, sentence_id: str) -> Target | None:
    """What answers a sentence; None: what the worker's settings say."""
    if state.trial is not None and portion(state.alias, sentence_id) < state.share:
        return state.trial
    return state.active


def shadowed(state: ModelCommand, sentence_id: str) -> Target | None:
    """What works on a sentence as well, unpublished; None: nothing does."""
    if state.shadow is not None and portion(state.alias, sentence_id) < state.shadow_share:
        return state.shadow
    return None


@dataclass(frozen=True, slots=True)
class Routing:
    """What all commands so far amount to; another one makes another Routing."""

    states: Mapping[Alias, ModelCommand] = field(default_factory=dict)

    def apply(self, command: ModelCommand) -> "Routing":
        """With one more command: the last of an alias is all that counts."""
        return Routing({**self.states, (command.kind, command.alias): command})

    def forget(self, kind: ModelKind, alias: str) -> "Routing":
        """With no command for an alias: what the settings say."""
        return Routing({place: state for place, state in self.states.items() if place != (kind, alias)})

    def state(self, kind: ModelKind, alias: str) -> ModelCommand:
        """The state of an alias, also of one that nobody decided about."""
        return self.states.get((kind, alias)) or initial(kind, alias)

    def resolve(self, kind: ModelKind, alias: str, sentence_id: str) -> Target | None:
        """What answers a sentence that asks for an alias; None: what the worker's settings say."""
        state = self.states.get((kind, alias))
        return None if state is None else chosen(state, sentence_id)

    def names(self, kind: ModelKind) -> frozenset[str]:
        """Everything that a sentence may ask for by name, as far as commands say: aliases, and what they name."""
        states = [state for state in self.states.values() if state.kind is kind]
        targets = [each for state in states for each in (state.active, state.previous, state.shadow, state.trial)]
        aliases = {state.alias for state in states}
        return frozenset(aliases | {target.name for target in targets if target is not None})

    def targets(self, kind: ModelKind) -> frozenset[Target]:
        """Everything that has to be at hand to answer now."""
        states = [state for state in self.states.values() if state.kind is kind]
        wanted = [target for state in states for target in (state.active, state.shadow, state.trial)]
        return frozenset(target for target in wanted if target is not None)
