"""The commands that train scorers; parsed as in `agents.cli`, which they belong to."""

from typing import Annotated, Any, Literal

import typer

from agents.models import Json
from agents.operate import Since, Until


def train(
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS",
            help="CSV, JSON Lines or Parquet: a file, or a URL with s3://, gs:// or az://; or topic:NAME, as in "
            "topic:sentence.requests.",
        ),
    ],
    scorer: Annotated[str, typer.Option(help="Name of the scorer, part of its scores' keys.")],
    head: Annotated[Literal["logistic", "ridge"], typer.Option(help="What is trained on the vectors.")] = "logistic",
    regularisation: Annotated[float | None, typer.Option(help="L2 penalty.", show_default="0.1, of ridge 1")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="The same data, parameters and seed make the same version.")] = 0,
    text: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the label; of a topic the metadata that has it.")] = "label",
    start: Since = "beginning",
    end: Until = "end",
    as_json: Json = False,
) -> None:
    """Train a scorer from labelled sentences, and print the digest of the version that was made.

    The sentences are embedded with `STREAMS_MODEL`; vectors that earlier runs or workers made are used again, so a run
    that was stopped goes on where it was. The version lies in `STREAMS_ARTIFACTS`; `models activate` puts it into
    service. Needs the extra `training`.
    """
    from agents.train import Job, run
    from streams.models.datasets import Columns
    from streams.models.training import Recipe

    job = Job(
        scorer=scorer,
        source=labels,
        start=start,
        end=end,
        columns=Columns(text, label),
        recipe=Recipe(head, regularisation, folds, seed),
    )
    raise typer.Exit(run(_settings(), job, as_json=as_json))


def _settings() -> Any:
    from streams.observe.logs import configure
    from streams.settings import load

    settings = load()
    configure(settings)
    return settings
