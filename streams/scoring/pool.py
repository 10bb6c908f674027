"""The scorers of one process: those of its settings, and the trained ones that commands put into service."""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import structlog

from schemas.errors import StreamsError
from schemas.records import ModelCommand, ModelKind, Target
from streams.models.routing import Routing, portion
from streams.scoring.scorer import Scorer

log = structlog.get_logger(__name__)


class _Now(NamedTuple):
    """What commands come to."""

    answering: Mapping[str, Scorer]
    before: Mapping[str, Scorer] = {}
    #: Taken out of service, the settings' too.
    out: frozenset[str] = frozenset()
    #: What answers a share of the sentences.
    trials: tuple[tuple[ModelCommand, Scorer], ...] = ()
    #: What scores a share of the sentences, unpublished.
    shadows: Mapping[str, tuple[ModelCommand, Scorer]] = {}


class ScorerPool(Mapping[str, Scorer]):
    """Scorers by name, as commands say. Any number of threads may read while one follows."""

    def __init__(self, own: Mapping[str, Scorer], load: Callable[[Target], Scorer]) -> None:
        """`own` are the settings'; `load` raises StreamsError."""
        self._own, self._load = own, load
        self._loaded: dict[Target, Scorer] = {}
        self._now = _Now(dict(own))
        self._lock = threading.Lock()

    def follow(self, routing: Routing) -> bool:
        """Swaps to what commands say, at once and as a whole; loads what is missing, so it blocks.

        Returns False where a version could not be loaded: what answered under its name goes on, and a later try may
        work. Nothing else waits for it.
        """
        states = [state for (kind, _), state in routing.states.items() if kind is ModelKind.SCORER]
        with self._lock:
            self._load_all([each for state in states for each in (*_wanted(state), state.previous) if each])
            now, before = dict(self._own), dict[str, Scorer]()
            for state in states:
                active = self._of(state.active, self._now.answering.get(state.alias), now.get(state.alias))
                previous = self._of(state.previous, None, self._own.get(state.alias))
                now.pop(state.alias, None)
                if active is not None and not state.disabled:
                    now[state.alias] = active
                if previous is not None:
                    before[state.alias] = previous
            out = frozenset(state.alias for state in states if state.disabled)
            trials = [(state, self._loaded[state.trial]) for state in states if state.trial in self._loaded]
            shadows = {
                state.alias: (state, self._loaded[state.shadow]) for state in states if state.shadow in self._loaded
            }
            self._now = _Now(now, before, out, tuple(trials), shadows)
            return all(target in self._loaded for state in states for target in _wanted(state) if target)

    def of(self, model: str, sentence_id: str, own: Mapping[str, Scorer]) -> Mapping[str, Scorer]:
        """What answers for a sentence's vector, given the digest of its model's weights.

        `own` are the settings' scorers for that model. They answer where commands say nothing, and where what commands
        say does not understand the vector.
        """
        now = self._now
        if not now.out and not now.trials and now.answering == self._own:
            return own
        found = {name: scorer for name, scorer in own.items() if name not in now.out}
        found |= {name: scorer for name, scorer in now.answering.items() if scorer.model in {None, model}}
        for state, scorer in now.trials:
            if (
                state.alias in found
                and scorer.model in {None, model}
                and portion(state.alias, sentence_id) < state.share
            ):
                found[state.alias] = scorer
        return found

    def previous(self, name: str) -> Scorer | None:
        """What answered under a name before, if anything."""
        return self._now.before.get(name)

    def shadow(self, name: str) -> tuple[ModelCommand, Scorer] | None:
        """What scores a share of what is scored under a name, and what commands say of it."""
        return self._now.shadows.get(name)

    def __getitem__(self, name: str) -> Scorer:
        return self._now.answering[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now.answering)

    def __len__(self) -> int:
        return len(self._now.answering)

    def _of(self, target: Target | None, meanwhile: Scorer | None, own: Scorer | None) -> Scorer | None:
        """What a target stands for: loaded, or `meanwhile` until it is; without a target, the settings' own."""
        return own if target is None else self._loaded.get(target, meanwhile)

    def _load_all(self, wanted: list[Target]) -> None:
        self._loaded = {target: scorer for target, scorer in self._loaded.items() if target in wanted}
        for target in dict.fromkeys(wanted):
            if target in self._loaded:
                continue
            try:
                self._loaded[target] = self._load(target)
            except StreamsError as error:
                log.error("scorer-not-loaded", scorer=target.name, source=target.source[:12], error=str(error))
            else:
                log.info("scorer", scorer=target.name, version=self._loaded[target].version)


def _wanted(state: ModelCommand) -> tuple[Target | None, ...]:
    return state.active, state.trial, state.shadow
