"""The commands that train scorers; parsed as in `agents.cli`, which they belong to."""

from collections.abc import Iterator
from contextlib import contextmanager
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


def runs(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most runs to list.")] = 20, as_json: Json = False
) -> None:
    """List the runs of the trainer, the latest first: how far each is, and what came of it."""
    from agents.console import print_json, remark, table
    from agents.runs import summary

    with _catalog() as catalog:
        found = [summary(run) for run in catalog.runs(limit)]
    if as_json:
        print_json(found)
    elif found:
        table(
            ("run", "scorer", "status", "progress", "version", "by", "changed", "detail"), [_row(run) for run in found]
        )
    else:
        remark("the trainer was asked for nothing yet")


def cancel(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Its id, as `models runs` lists it.")], as_json: Json = False
) -> None:
    """Cancel a run of the trainer, at its next step where it has begun. One that has ended stays as it is."""
    from agents.console import print_json, remark
    from agents.runs import summary

    with _catalog() as catalog:
        found = summary(catalog.cancel_run(run))
    if as_json:
        print_json(found)
    else:
        remark(f"run {run}: {found['status']}")


@contextmanager
def _catalog() -> Iterator[Any]:
    from contextlib import closing

    from streams.models.catalog import Catalog

    catalog = Catalog.open(_settings().database_url)
    with closing(catalog.database):
        yield catalog


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    from datetime import UTC, datetime

    progress = run["progress"]
    return (
        run["id"],
        run["scorer"],
        run["status"],
        f"{progress['step']} {progress['done']:,} of {progress['of']:,}" if progress else "",
        (run["version"] or "")[:12],
        run["request"].get("by", ""),
        datetime.fromtimestamp(run["updated_at"] / 1000, UTC).isoformat(timespec="seconds"),
        run["detail"],
    )


def _settings() -> Any:
    from streams.observe.logs import configure
    from streams.settings import load

    settings = load()
    configure(settings)
    return settings
