"""The models of one worker: loaded in the background, swapped between two records, dropped when memory is short.

An alias goes on with what it has until its new model is loaded and has passed its check. A model that cannot be loaded
changes nothing, and is tried again. Whatever was prepared for a model keeps it alive until it is done, so a swap waits
for nothing and interrupts nothing.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import structlog

from schemas.errors import ModelLoading, Reject, Retry, UnknownModel
from schemas.records import ModelCommand, ModelKind, Target
from streams.embedding.embedder import ModelError
from streams.embedding.loader import WrongWeights
from streams.embedding.model import Model
from streams.models.memory import resident
from streams.models.routing import DEFAULT, Routing, initial, portion
from streams.observe.metrics import Metrics

log = structlog.get_logger(__name__)

#: Seconds before a model that could not be loaded is tried again: grows to the last one.
PAUSES: Final = (1.0, 5.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers under one name, worked out so that a record costs next to nothing."""

    alias: str
    active: Model | None
    #: Why nobody answers; None where somebody does.
    missing: Reject | Retry | None = None
    trial: Model | None = None
    share: float = 0.0
    shadow: Model | None = None
    shadow_share: float = 0.0


@dataclass(slots=True)
class _Loaded:
    model: Model
    #: What the process grew by while it was loaded, in bytes.
    size: int
    #: When it was wanted last, in monotonic seconds.
    wanted: float


@dataclass(slots=True)
class _Failure:
    times: int
    again: float


class Pool:
    """Every model of this worker, by what commands call it; safe to share between threads."""

    def __init__(
        self,
        own: Target,
        load: Callable[[Target], Model],
        budget: int,
        metrics: Metrics,
        *,
        memory: Callable[[], int] = resident,
        failed: Callable[[Target, str], None] = lambda _target, _why: None,
        swapped: Callable[[Model], None] = lambda _model: None,
    ) -> None:
        """`own` is what the settings name, `budget` the bytes that models may take together.

        `load(target)` raises ModelError. `failed` hears of each target that cannot be loaded and why, `swapped` of
        each new default; both are called on threads of the pool or whoever calls `follow`.
        """
        self._own, self._load, self._budget, self._metrics = own, load, budget, metrics
        self._memory, self._tell_failed, self._tell_swapped = memory, failed, swapped
        self._routing = Routing()
        self._routes: Mapping[str | None, Route] = {}
        self._known: Mapping[str, Target] = {}
        self._loaded: dict[Target, _Loaded] = {}
        self._failures: dict[Target, _Failure] = {}
        self._asked: set[Target] = set()
        self._default: Model | None = None
        self._changed = threading.Condition(threading.RLock())
        self._closed = False

    # -- life -------------------------------------------------------------------------------------------------

    def start(self, routing: Routing, own: Model | None = None) -> None:
        """Loads what the default alias stands for, then everything else in the background. Raises ModelError.

        `own` is the settings' model where it is loaded already.
        """
        with self._changed:
            if own is not None:
                self._loaded[self._own] = _Loaded(own, 0, time.monotonic())
            self._routing = routing
            wanted = self._target(routing.state(ModelKind.EMBEDDER, DEFAULT))
            assert wanted is not None  # the default alias always stands for something
            if wanted not in self._loaded:
                self._loaded[wanted] = self._fetch(wanted)
            self._rebuild()
        threading.Thread(target=self._serve, name="models", daemon=True).start()

    def close(self) -> None:
        """Ends the background thread; what it is loading is forgotten."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def follow(self, routing: Routing) -> None:
        """From now on this holds: at once for what is loaded, soon for the rest."""
        with self._changed:
            self._routing = routing
            self._failures.clear()  # somebody may have put right what was wrong
            self._rebuild()
            self._changed.notify_all()

    # -- asking -----------------------------------------------------------------------------------------------

    @property
    def default(self) -> Model:
        """What a sentence gets that asks for none; while that is out of service, what it got last."""
        assert self._default is not None, "the pool has not started"
        return self._default

    def find(self, name: str | None, sentence_id: str) -> Model:
        """The model for a sentence that asks for an alias, a full name, or nothing.

        Raises UnknownModel, or ModelLoading where it will be there soon.
        """
        route = self._routes.get(name)
        if route is None:
            raise self._elsewhere(name or "")
        if route.missing is not None:
            raise type(route.missing)(*route.missing.args)
        if route.trial is not None and portion(route.alias, sentence_id) < route.share:
            return route.trial
        assert route.active is not None
        return route.active

    def shadow(self, name: str | None, sentence_id: str) -> Model | None:
        """What is to embed a sentence as well, for nobody to see; mostly nothing."""
        route = self._routes.get(name)
        if route is None or route.shadow is None or portion(route.alias, sentence_id) >= route.shadow_share:
            return None
        return route.shadow

    def _elsewhere(self, name: str) -> Reject | Retry:
        """Why a name has no route; a model that is known is loaded for whoever asks."""
        with self._changed:
            target = self._known.get(name)
            if target is None:
                names = sorted({str(each) for each in (*self._routes, *self._known) if each is not None})
                return UnknownModel(f"model: expected null or one of {', '.join(names)}, got {name!r}")
            self._asked.add(target)
            self._changed.notify_all()
            return ModelLoading(f"model {name} is being loaded")

    # -- working out ------------------------------------------------------------------------------------------

    def _target(self, state: ModelCommand) -> Target | None:
        if state.active is None:
            return self._own if state.alias == DEFAULT else None
        return self._whole(state.active)

    def _whole(self, target: Target) -> Target:
        """With the settings' precision where it says none, so that equal models are equal targets."""
        return replace(target, precision=target.precision or self._own.precision)

    def _model(self, target: Target | None) -> Model | None:
        if target is None or (found := self._loaded.get(self._whole(target))) is None:
            return None
        found.wanted = time.monotonic()
        return found.model

    def _states(self) -> list[ModelCommand]:
        found = {state.alias: state for (kind, _), state in self._routing.states.items() if kind is ModelKind.EMBEDDER}
        return [*({DEFAULT: initial(ModelKind.EMBEDDER, DEFAULT)} | found).values()]

    def _rebuild(self) -> None:
        """Works out who answers under each name; readers see all of it at once, or nothing yet."""
        states = self._states()
        targets = [target for state in states for target in _known(state)]
        known = {target.name: self._whole(target) for target in [self._own, *reversed(targets)]}
        routes: dict[str | None, Route] = {}
        for target in known.values():
            if (model := self._model(target)) is not None:
                routes[target.name] = routes[model.identity.name] = Route(target.name, model)
        for state in states:
            routes[state.alias] = self._route(state)
        routes[None] = routes[DEFAULT]
        self._known, self._routes = known, routes
        self._note(routes)

    def _route(self, state: ModelCommand) -> Route:
        if state.disabled:
            return Route(state.alias, None, UnknownModel(f"model: expected one in service, {state.alias} is disabled"))
        target, before = self._target(state), self._routes.get(state.alias)
        if target is None:
            return Route(
                state.alias, None, UnknownModel(f"model: expected one in service, {state.alias} stands for none")
            )
        active = self._model(target) or (before.active if before else None)
        if active is None:
            return Route(state.alias, None, ModelLoading(f"model {target.name} is being loaded"))
        trial, shadow = self._model(state.trial), self._model(state.shadow)
        return Route(state.alias, active, None, trial, state.share, shadow, state.shadow_share)

    def _note(self, routes: Mapping[str | None, Route]) -> None:
        """Tells what is served."""
        active = routes[None].active
        if active is not None and active is not self._default:
            if self._default is not None:
                log.info("model-switched", model=active.identity.name, revision=active.identity.revision)
            self._default = active
            self._tell_swapped(active)
        served = {state.alias: routes[state.alias].active for state in self._states()}
        self._metrics.serving(
            (alias, model.identity.name, model.identity.revision, model.identity.digest, model.identity.precision)
            for alias, model in served.items()
            if model is not None
        )

    # -- loading ----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (target := self._next()) is not None:
            try:
                loaded = self._fetch(target)
            except Exception as error:  # whatever a model library raises: the stream goes on with what it has
                self._failed(target, error)
                continue
            with self._changed:
                self._loaded[target] = loaded
                self._failures.pop(target, None)
                self._rebuild()
                self._forget_some()

    def _next(self) -> Target | None:
        """Waits for something to load; None once the pool is closed."""
        with self._changed:
            while not self._closed:
                waiting = [each for each in self._wanted() if each not in self._loaded]
                due = {each: self._failures[each].again if each in self._failures else 0.0 for each in waiting}
                now = time.monotonic()
                ready = [each for each in waiting if due[each] <= now]
                if ready:
                    return ready[0]
                self._changed.wait(min(due.values()) - now if due else None)
            return None

    def _wanted(self) -> list[Target]:
        """What has to be at hand, the most urgent first."""
        states = self._states()
        active = [self._target(state) for state in states]
        beside = [target and self._whole(target) for state in states for target in (state.trial, state.shadow)]
        asked = [target for target in self._asked if target in self._known.values()]
        return list(dict.fromkeys(target for target in [*active, *beside, *asked] if target is not None))

    def _fetch(self, target: Target) -> _Loaded:
        started, before = time.monotonic(), self._memory()
        model = self._load(target)
        digest, size, now = model.identity.digest, max(0, self._memory() - before), time.monotonic()
        if target.digest not in {None, digest}:
            raise WrongWeights(f"model {target.name}: its weights have sha256 {digest}, expected {target.digest}")
        self._metrics.model_loads.labels(target.name, "loaded").inc()
        log.info("model", model=target.name, digest=digest, seconds=round(now - started, 2), bytes=size)
        return _Loaded(model, size, now)

    def _failed(self, target: Target, error: Exception) -> None:
        why = str(error) if isinstance(error, ModelError) else repr(error)
        with self._changed:
            times = self._failures[target].times + 1 if target in self._failures else 1
            pause = PAUSES[min(times, len(PAUSES)) - 1]
            self._failures[target] = _Failure(times, time.monotonic() + pause)
        self._metrics.model_loads.labels(target.name, "failed").inc()
        log.error("model-not-loaded", model=target.name, error=why, again=pause)
        self._tell_failed(target, why)

    def _forget_some(self) -> None:
        """Drops what no alias needs, the longest unwanted first, until the rest fits."""
        aliases = {state.alias for state in self._states()}
        needed = {id(model) for alias in aliases for model in _answering(self._routes[alias])}
        idle = [target for target, loaded in self._loaded.items() if id(loaded.model) not in needed]
        for target in sorted(idle, key=lambda each: self._loaded[each].wanted):
            if sum(loaded.size for loaded in self._loaded.values()) <= self._budget:
                return
            log.info("model-dropped", model=target.name, bytes=self._loaded[target].size)
            del self._loaded[target]
            self._asked.discard(target)
            self._rebuild()


def _known(state: ModelCommand) -> list[Target]:
    """What may be asked for by its full name, what answers now first."""
    return [target for target in (state.active, state.trial, state.shadow, state.previous) if target is not None]


def _answering(route: Route) -> list[Model]:
    return [model for model in (route.active, route.trial, route.shadow) if model is not None]
