"""The commands about models; parsed as in `agents.cli`, which they belong to."""

from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any, Literal

import typer

models = typer.Typer(
    help="Prepare models, and switch them while the stream runs. Settings and exit codes: as `sentence-streams`.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on stdout.")]


@models.command()
def prepare(
    model: Annotated[
        str | None, typer.Option(help="Name or folder of the model.", show_default="that of the settings")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of the model's repository.")] = None,
    precision: Annotated[
        Literal["float32", "int8"] | None,
        typer.Option(help="How exactly it computes.", show_default="that of the settings"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a model for onnxruntime, once, into `STREAMS_MODELS_DIR`; workers then start without torch.

    int8 is about twice as fast as float32, and kept only if held-out sentences keep their vectors: mean cosine and
    rank correlation at least 0.995 against float32, and no dependence on the batch. A model that is prepared already
    is left as it is. Needs the extra `onnx-export`.
    """
    from agents.console import print_json, remark, waiting

    settings = _settings()
    chosen = model or settings.model
    if revision is None and chosen == settings.model:
        revision = settings.model_revision
    exactness = precision or settings.model_precision
    if exactness == "float16":
        raise typer.BadParameter("float16 needs no preparation: a worker on a CUDA device makes it when it starts")
    with waiting(f"Preparing {chosen}") as say:
        made = _workshop(settings, say).prepare(chosen, revision, exactness)
    if as_json:
        print_json(_summary(made))
        return
    found = made.manifest.quality
    remark(f"mean cosine {found.mean_cosine:.5f}, rank correlation {found.spearman:.5f} to float32 in {made.folder}")


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List the prepared models in `STREAMS_MODELS_DIR`, the latest first."""
    from agents.console import print_json, remark, table
    from streams.embedding import prepared

    folder = _settings().models_dir or prepared.default_folder()
    found = [_summary(each) for each in prepared.listing(folder)]
    if as_json:
        print_json(found)
    elif found:
        headings = ("model", "revision", "precision", "cosine", "rank", "MB", "made", "folder")
        table(headings, [_row(each) for each in found])
    else:
        remark(f"nothing is prepared in {folder}")


# -- what is served -------------------------------------------------------------------------------------------

Alias = Annotated[
    str,
    typer.Argument(help="default, or another alias of an embedder; scorer:NAME for a scorer.", show_default=True),
]
As = Annotated[str, typer.Option("--as", help="Alias of an embedder; scorer:NAME for a scorer.")]
WhyText = Annotated[str, typer.Option("--why", help="The reason, kept with the decision.")]
By = Annotated[str | None, typer.Option(help="Who decides.", show_default="the login name")]
Source = Annotated[str, typer.Argument(help="Name or folder of a model; of a trained scorer the artifact's digest.")]
Revision = Annotated[str | None, typer.Option(help="Commit, tag or branch of the model's repository.")]
Precision = Annotated[
    Literal["float32", "int8", "float16"] | None,
    typer.Option(help="How exactly it computes.", show_default="that of the worker's settings"),
]
Digest = Annotated[str | None, typer.Option(help="sha256 that the weights must have.")]
Share = Annotated[float, typer.Option(min=0, max=1, help="Share of the sentences; 0 ends it.")]


@models.command()
def activate(
    source: Source,
    why: WhyText,
    alias: As = "default",
    revision: Revision = None,
    precision: Precision = None,
    digest: Digest = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Have a model answer from now on: every worker loads it, checks it, and swaps between two records.

    Until a worker has it, the model before goes on answering there; `rollback` brings that back in seconds.
    """
    from streams.models import routing

    named = _named(source, revision, precision, digest)
    _decide(
        alias, "activate", lambda at: lambda state, reason: routing.activate(state, named(at), reason), why, by, as_json
    )


@models.command()
def shadow(
    source: Source,
    why: WhyText,
    share: Share = 0.1,
    alias: As = "default",
    revision: Revision = None,
    precision: Precision = None,
    digest: Digest = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Have a model work on a share of the sentences as well, for its metrics alone: nothing of it is published."""
    from streams.models import routing

    named = _named(source, revision, precision, digest)
    _decide(
        alias,
        "shadow",
        lambda at: lambda state, reason: routing.shadow(state, named(at) if share else None, share, reason),
        why,
        by,
        as_json,
    )


@models.command()
def trial(
    source: Source,
    why: WhyText,
    share: Share = 0.1,
    alias: As = "default",
    revision: Revision = None,
    precision: Precision = None,
    digest: Digest = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Have a model answer a share of the sentences, always the same ones; every record names who answered."""
    from streams.models import routing

    named = _named(source, revision, precision, digest)
    _decide(
        alias,
        "trial",
        lambda at: lambda state, reason: routing.trial(state, named(at) if share else None, share, reason),
        why,
        by,
        as_json,
    )


@models.command()
def rollback(why: WhyText, alias: Alias = "default", by: By = None, as_json: Json = False) -> None:
    """Have the model answer that did before; a second time takes the first back."""
    from streams.models import routing

    _decide(alias, "rollback", lambda _: routing.rollback, why, by, as_json)


@models.command()
def disable(why: WhyText, alias: Alias = "default", by: By = None, as_json: Json = False) -> None:
    """Take an alias out of service: sentences that ask for it are refused, until `resume`."""
    from streams.models import routing

    _decide(alias, "disable", lambda _: routing.disable, why, by, as_json)


@models.command()
def resume(why: WhyText, alias: Alias = "default", by: By = None, as_json: Json = False) -> None:
    """Put an alias back into service, whether a person or the kill switch took it out."""
    from streams.models import routing

    _decide(alias, "resume", lambda _: routing.resume, why, by, as_json)


@models.command()
def aliases(as_json: Json = False) -> None:
    """Show what each alias stands for, who decided so, when and why; others are as the workers' settings say."""
    import asyncio

    from agents.clients import codec
    from agents.console import print_json, remark, table
    from agents.switching import read, summary

    settings = _settings()
    with codec(settings) as records:
        found = asyncio.run(read(settings, records)).states
    states = [found[place] for place in sorted(found)]
    if as_json:
        print_json([summary(state) for state in states])
    elif states:
        headings = ("alias", "active", "previous", "trial", "shadow", "in service", "by", "at", "why")
        table(headings, [_state_row(state) for state in states])
    else:
        remark("nothing was decided: every worker serves what its settings say")


def _named(source: str, revision: str | None, precision: str | None, digest: str | None) -> Callable[[Any], Any]:
    from agents.switching import target

    return lambda at: target(at, source, revision, precision, digest)


def _decide(name: str, action: str, change: Callable[[Any], Any], why: str, by: str | None, as_json: bool) -> None:
    import asyncio
    import getpass

    from agents.clients import codec
    from agents.console import print_json, remark
    from agents.switching import Decision, command, summary

    settings, who = _settings(), by or getpass.getuser()
    with codec(settings) as records:
        state = asyncio.run(command(settings, records, name, lambda at: Decision(action, change(at), who, why)))
    if as_json:
        print_json(summary(state))
    else:
        remark(f"{state.kind} {state.alias}: {_told(state)}")


def _told(state: Any) -> str:
    parts = [f"{state.active.name if state.active else 'what the settings say'} answers"]
    if state.trial:
        parts.append(f"{state.trial.name} answers {state.share:.0%} on trial")
    if state.shadow:
        parts.append(f"{state.shadow.name} works on {state.shadow_share:.0%} as a shadow")
    return ", ".join([*parts, *(["out of service"] if state.disabled or state.quarantined else [])])


def _state_row(state: Any) -> tuple[str, ...]:
    from datetime import UTC, datetime

    out = "disabled" if state.disabled else "quarantined" if state.quarantined else "yes"
    names = [each.name if each else "" for each in (state.active, state.previous, state.trial, state.shadow)]
    when = datetime.fromtimestamp(state.at / 1000, UTC).isoformat(timespec="seconds")
    return (f"{state.kind}:{state.alias}", *names, out, state.by, when, state.reason)


def _settings() -> Any:
    from streams.observe.logs import configure
    from streams.settings import load

    settings = load()
    configure(settings)
    return settings


def _workshop(settings: Any, tell: Callable[[str], None]) -> Any:
    from streams.embedding import prepared
    from streams.embedding.prepare import Sentences, Workshop

    sample = (files("agents") / "samples" / "sentences.txt").read_text(encoding="utf-8")
    folder = settings.models_dir or prepared.default_folder()
    return Workshop(folder, Sentences.split(sample.splitlines()), tell)


def _summary(each: Any) -> dict[str, Any]:
    manifest = each.manifest
    return {
        "model": manifest.identity.name,
        "revision": manifest.identity.revision,
        "precision": manifest.identity.precision,
        "dimensions": manifest.identity.dimensions,
        "weights_digest": manifest.identity.digest,
        "mean_cosine": manifest.quality.mean_cosine,
        "spearman": manifest.quality.spearman,
        "token_budget": manifest.budget and manifest.budget.tokens,
        "bytes": each.size(),
        "made": manifest.made,
        "folder": str(each.folder),
    }


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        found["model"],
        found["revision"][:12],
        found["precision"],
        f"{found['mean_cosine']:.5f}",
        f"{found['spearman']:.5f}",
        f"{found['bytes'] / 1e6:.0f}",
        found["made"][:16],
        found["folder"],
    )
