"""From sentences to replies, or to the problem that says why not: admission, then the question, then what came back."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.bridge.calls import Attached, Call
from agents.bridge.problems import LISTED, Kind, Problem
from agents.bridge.replies import NotAnswered, TooLarge, Unreachable
from schemas.records import ModelKind, Reply, ReplyError, Sentence, Served, Target
from streams.models.routing import DEFAULT

#: Characters of a token, roughly: the bridge has no tokeniser, and admission only needs a measure of work.
TOKEN_CHARACTERS = 4
#: What a worker's refusal means to a caller; every other reason is a failure of ours.
KINDS = {
    "invalid-field": Kind.REFUSED,
    "text-too-long": Kind.REFUSED,
    "unknown-scorer": Kind.REFUSED,
    "unknown-model": Kind.NOT_FOUND,
    "expired": Kind.DEADLINE,
}

#: Gives the place of a sentence in the body, as in /input/3, by its index.
Name = Callable[[int], str]


def served(call: Call) -> Served:
    """Returns what is served; raises Problem 503 where no worker has said so yet."""
    if (model := call.bridge.replies.served) is None:
        raise unavailable("no worker has answered yet")
    return model


async def ask(call: Call, sentences: Sequence[Sentence], name: Name) -> list[Reply]:
    """Returns the reply to each sentence: none of them is a refusal, and all come from one model.

    `name` gives the place of each sentence in the body. Raises Problem, and HungUp.
    """
    with call.bridge.admission.admit(_tokens(sentences, served(call)), call.left):
        async with Attached(call.request):
            started = time.monotonic()
            replies = await _replies(call, sentences, name)
    call.note.replies(replies, time.monotonic() - started)
    refused = [(index, reply.error) for index, reply in enumerate(replies) if reply.error is not None]
    if refused:
        kind = KINDS.get(refused[0][1].reason, Kind.FAILED)
        raise _refused(kind, [_entry(name(index), why) for index, why in refused])
    if any(reply.served.identity != replies[0].served.identity for reply in replies):
        raise switching()
    return replies


async def _replies(call: Call, sentences: Sequence[Sentence], name: Name) -> list[Reply]:
    try:
        return await call.bridge.replies.ask(sentences, call.deadline, call.trace)
    except NotAnswered as error:
        raise Problem(Kind.DEADLINE, str(error)) from None
    except Unreachable as error:
        raise unavailable(str(error)) from None
    except TooLarge as error:
        why = ReplyError(reason="record-too-large", stage="publish", message="text: expected a shorter one")
        raise _refused(Kind.REFUSED, [_entry(name(error.index), why)]) from None


def _tokens(sentences: Sequence[Sentence], model: Served) -> int:
    return sum(min(model.max_tokens, len(each.text) // TOKEN_CHARACTERS + 1) for each in sentences)


def settled(call: Call, name: str | None) -> Served | None:
    """Returns what answers whoever asks for a model by this name, or for none; None where that may be changing.

    Commands are heard here as soon as anywhere. From one on, nothing that is known counts until a worker has answered
    with the model that it names: until then each worker answers with what it has, and says so.
    """
    replies, routing = call.bridge.replies, call.bridge.control.routing
    alias = name or DEFAULT
    found = replies.served if alias == DEFAULT else replies.said.get(alias)
    state = routing.states.get((ModelKind.EMBEDDER, alias))
    if found is None or state is None:
        return found if alias not in routing.names(ModelKind.EMBEDDER) else None
    if state.disabled or state.trial is not None:
        return None
    if state.active is None:  # what the workers' settings say: whatever it is, not what was before
        return None if state.previous is not None and _is(state.previous, found) else found
    return found if _is(state.active, found) else None


def _is(target: Target, found: Served) -> bool:
    told = (
        (target.revision, found.revision),
        (target.digest, found.weights_digest),
        (target.precision, found.precision),
    )
    return target.name == found.model and all(wanted in {None, has} for wanted, has in told)


def check_model(call: Call, wanted: str | None, model: Served, field: str = "/model") -> None:
    """Raises Problem where a caller wants a model that is neither served nor named by any command."""
    if wanted in {None, DEFAULT, model.model} or wanted in call.bridge.control.routing.names(ModelKind.EMBEDDER):
        return
    error = {"field": field, "expected": f"{model.model}, or no model at all", "reason": "model_not_found"}
    raise Problem(Kind.NOT_FOUND, f"no such model is served; {model.model} is", errors=[error])


def switching() -> Problem:
    """Returns the problem of an answer that two models would have a part in."""
    return unavailable("the model is being switched")


def unavailable(detail: str) -> Problem:
    """Returns the problem of a stream that cannot answer now."""
    return Problem(Kind.UNAVAILABLE, detail, headers={"Retry-After": "1"})


def _refused(kind: Kind, errors: Sequence[Mapping[str, Any]]) -> Problem:
    first, more = errors[0], f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    # The same text fails again: a client that tries a 5xx again by itself is told not to.
    headers = {"x-should-retry": "false"} if kind is Kind.FAILED else {}
    detail = f"{first['field']}: {first['reason']}: {first['detail']}{more}"
    return Problem(kind, detail, errors=errors[:LISTED], headers=headers)


def _entry(field: str, why: ReplyError) -> dict[str, str]:
    # The worker's messages are as in "text: expected 256 tokens at most".
    expected = why.message.partition("expected ")[2] or "another text"
    return {"field": field, "expected": expected, "reason": why.reason, "detail": why.message}
