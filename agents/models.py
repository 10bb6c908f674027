"""The commands about models; parsed as in `agents.cli`, which they belong to."""

from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any, Literal

import typer

models = typer.Typer(
    help="Prepare models for the onnx backend, and list them. Settings and exit codes are those of `sentence-streams`.",
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
