"""The command line: parses, reads the settings and hands over. What a command needs is imported when it runs."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from agents import db, models, operate, training
from streams.lanes import LaneName

EPILOG = """\
Settings come from the environment: `STREAMS_BOOTSTRAP_SERVERS` and others, see `.env.example`.

Exit codes:

- 0: all is well
- 1: something failed
- 2: wrong usage or settings
- 3: `doctor`: a check failed; `produce`: some sentences were malformed or have no receipt; `replay` and
  `dead-letters redrive`: some records could not be sent; `batch`: some lines failed
- 130: interrupted
"""

app = typer.Typer(
    help="Sentences in as Avro events on Kafka, embeddings and scores out.",
    epilog=EPILOG,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on stdout.")]


def main() -> None:
    """Runs the command line; what goes wrong is one clear line on stderr and an exit code."""
    try:
        app(prog_name="sentence-streams")
    except Exception as error:
        from confluent_kafka import KafkaException

        from schemas.errors import StreamsError
        from streams.settings import SettingsError

        if isinstance(error, SettingsError):
            sys.stderr.write(f"{error}\n")
            sys.exit(2)
        if isinstance(error, StreamsError | KafkaException):
            sys.stderr.write(f"sentence-streams: {error}\n")
            sys.exit(1)
        raise


def _settings() -> Any:
    import structlog

    from streams.settings import load

    # What a tool logs by the way must not mix with its results.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return load()


# -- what runs ------------------------------------------------------------------------------------------------


@app.command()
def dev(
    sentences: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="Text to stream through first, a sentence a line."),
    ] = None,
) -> None:
    """Run the whole stream on this machine: an embedded broker, a worker and a scorer."""
    from agents.dev import dev as run

    raise typer.Exit(run(_settings(), sentences))


@app.command()
def worker() -> None:
    """Run a worker: sentences in, embeddings out. It ends cleanly on SIGTERM."""
    from agents.embed import worker as run

    run(_logging(_settings()))


@app.command()
def score() -> None:
    """Run a scorer: embeddings in, scores out. It ends cleanly on SIGTERM."""
    from agents.score import score as run

    run(_logging(_settings()))


@app.command()
def trainer() -> None:
    """Run a trainer: it trains the scorers that `sentence.training` asks for. It ends cleanly on SIGTERM."""
    from agents.train import trainer as run

    run(_logging(_settings()))


@app.command()
def bridge() -> None:
    """Run a bridge: HTTP on one side, the stream on the other. It ends cleanly on SIGTERM."""
    from agents.bridge.server import bridge as run

    run(_logging(_settings()))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the bridge; docs/openapi.json holds it."""
    from agents.bridge.docs import document

    sys.stdout.write(document())


def _logging(settings: Any) -> Any:
    from streams.observe.errors import report_errors
    from streams.observe.logs import configure

    configure(settings)
    report_errors(settings)
    return settings


# -- tools ----------------------------------------------------------------------------------------------------


@app.command()
def provision(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Make the stream's topics on the broker, as the settings want them.

    A second run changes nothing. Partitions are added where there are too few; a topic with too many is refused
    with exit code 1 before anything is changed, since Kafka cannot remove any.
    """
    from agents.provision import run

    raise typer.Exit(run(_settings(), dry_run=dry_run, as_json=as_json))


def _file(text: str | Path) -> Path:
    # Typer's own check of a path does not let "-" through; it hands over the default, too.
    path = Path(text)
    if str(path) != "-" and (path.is_dir() or not os.access(path, os.R_OK)):
        raise typer.BadParameter(f"expected a file that can be read, or - for stdin, got {str(path)!r}")
    return path


@app.command()
def produce(
    file: Annotated[Path, typer.Argument(parser=_file, metavar="FILE", help="File to read; - is stdin.")] = Path("-"),
    form: Annotated[
        Literal["text", "jsonl", "csv"] | None,
        typer.Option("--format", help="How the file holds sentences, see above.", show_default="by the file's name"),
    ] = None,
    lane: Annotated[LaneName, typer.Option(help="Lane to send to.")] = LaneName.BULK,
    key_by: Annotated[
        Literal["none", "id"],
        typer.Option(help="Key of a sentence that names none; without a key it may go to any partition."),
    ] = "none",
    model: Annotated[str | None, typer.Option(help="Model for sentences that name none.")] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Leading dimensions to keep, for sentences that do not say.")
    ] = None,
    scorers: Annotated[
        str, typer.Option(help="Scorers for sentences that name none, separated by spaces or commas.")
    ] = "",
    overflow: Annotated[
        Literal["truncate", "reject", "chunk"],
        typer.Option(help="What to do with over-long texts, for sentences that do not say."),
    ] = "truncate",
    limit: Annotated[int | None, typer.Option(min=1, help="Most sentences to send.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Most sentences to send a second.")] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds the broker may take to answer, and for each receipt.")
    ] = 30.0,
    as_json: Json = False,
) -> None:
    """Send sentences from a file to a request topic, and count the broker's receipts.

    How the file holds them:

    - text: a sentence a line
    - jsonl: an object a line with the fields of a Sentence and, if it is to have one, a `key`; only `text` is
      required
    - csv: a row that names the columns, then a sentence a row; `text` is required, `id`, `key`, `model`,
      `dimensions`, `scorers` (separated by spaces), `overflow` and `encoding` are known, all others become metadata

    A sentence without an id gets one made of file name, line number and text: the same file again updates, it
    does not add. Malformed lines are named and left out, the others are sent.
    """
    from agents.inputs import Defaults, Format, UnusableInput
    from agents.produce import Job, run
    from schemas.records import Overflow

    names = tuple(scorers.replace(",", " ").split())
    job = Job(
        source=file,
        form=Format(form) if form else None,
        lane=lane,
        defaults=Defaults(file.name, model, dimensions, names, Overflow(overflow)),
        key_by_id=key_by == "id",
        limit=limit,
        rate=rate,
        timeout=timeout,
    )
    try:
        code = run(_settings(), job, as_json=as_json)
    except UnusableInput as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(code)


def _start(text: str) -> Any:
    from agents.consume import start_at

    try:
        return start_at(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected beginning, latest, a time as in 2025-01-31T12:00:00Z, or epoch milliseconds, got {text!r}"
        ) from None


@app.command()
def consume(
    topic: Annotated[
        str,
        typer.Argument(
            help="embeddings, scores, replies, dead-letters, alerts, models, training, requests, interactive or "
            "replay (the request topics of those lanes); or the name of any topic."
        ),
    ] = "embeddings",
    form: Annotated[Literal["text", "jsonl", "csv"], typer.Option("--format", help="How to print records.")] = "text",
    start: Annotated[
        Any,
        typer.Option(
            "--from",
            parser=_start,
            metavar="beginning|latest|TIME",
            help="Where to start; TIME is ISO 8601 (UTC where it names no zone) or epoch milliseconds.",
        ),
    ] = "beginning",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more at the end, instead of stopping there.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Most records to print.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Seconds without a record after which to give up; exit code 1, but 0 with --follow and no --limit.",
            show_default="30, with --follow for ever",
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Print only records with this key.")] = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="Print vectors too, in any format.")] = False,
) -> None:
    """Print what is on a topic: results, dead letters, alerts or requests.

    Reads committed records up to where the topic ends when the command starts. It joins no consumer group and
    commits nothing, so nobody is disturbed. What cannot be decoded is named on stderr and left out. A dead letter
    is shown with its reason, where it was read, and its record where that can be decoded.

    - text: a short line a record, partition@offset first
    - jsonl: an object a line with the record's place and, under `record`, its fields
    - csv: the same as columns
    """
    from agents.consume import Job, run
    from agents.show import Form

    job = Job(
        topic=topic,
        form=Form(form),
        start=start,
        follow=follow,
        limit=limit,
        timeout=timeout,
        vectors=vectors,
        key=key,
    )
    raise typer.Exit(run(_settings(), job))


@app.command()
def doctor(
    model: Annotated[
        bool, typer.Option("--model/--no-model", help="Load the model and check its vectors: takes some seconds.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Check settings, broker, topics, registry and model, and say what to do about each trouble.

    Secrets are never shown. Exit code 3 when a check failed; warnings are no failures.
    """
    from agents.doctor import run

    raise typer.Exit(run(_settings(), model=model, as_json=as_json))


@app.command("api-key")
def api_key(
    name: Annotated[str, typer.Argument(help="Whose key it is: a-z, 0-9 and -; limits and logs go by it.")],
    roles: Annotated[
        str, typer.Option(help="What the caller may do, separated by commas; see STREAMS_ROLES.")
    ] = "reader",
    as_json: Json = False,
) -> None:
    """Make an API key for a caller of the bridge.

    Prints the key, which is kept nowhere, and the line with its hash for `STREAMS_API_KEYS_FILE`. To replace a key,
    add the new line, hand out the new key, and take the old line away.
    """
    from agents.api_key import run

    try:
        code = run(_settings(), name, roles, as_json=as_json)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(code)


@app.command()
def capacity(
    sentences: Annotated[
        Path | None,
        typer.Argument(
            exists=True, dir_okay=False, help="Sentences as yours are, one a line.", show_default="a sample"
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=600, help="How long to measure, each of worker and scorer.")
    ] = 10.0,
    as_json: Json = False,
) -> None:
    """Measure what one worker and one scorer do on this machine, and print the autoscaler's thresholds.

    Needs the model, and no broker. `lagThreshold` is what one worker drains in the time that a record of the lane may
    wait; texts count by their length, so give it sentences like yours.
    """
    from agents.capacity import run

    raise typer.Exit(run(_logging(_settings()), sentences, seconds=seconds, as_json=as_json))


@app.command()
def batch(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="Lines to work through.")],
    output: Annotated[
        Path | None, typer.Option(help="Where the vectors go.", show_default="FILE with .vectors before its ending")
    ] = None,
    errors: Annotated[
        Path | None, typer.Option(help="Where lines that failed go.", show_default="FILE with .errors.jsonl")
    ] = None,
    as_json: Json = False,
) -> None:
    """Embed a file of sentences through the replay lane, behind all live traffic; as `/v1/batches` does.

    FILE is JSON Lines in the shape of OpenAI's batches, or CSV or Parquet with a column `text`; its ending says which.
    The output has the same format. Interrupted or killed, the same command goes on where it ended: answers are kept in
    `STREAMS_ARTIFACTS` until the end. Needs a worker of the lane `replay`. Exit code 3 where lines failed.
    """
    from agents.batch import Request, run

    request = Request(
        source=file,
        output=output or file.with_name(f"{file.stem}.vectors{file.suffix}"),
        errors=errors or file.with_name(f"{file.stem}.errors.jsonl"),
    )
    raise typer.Exit(run(_settings(), request, as_json=as_json))


app.add_typer(operate.dead_letters, name="dead-letters")
for each in (training.train, training.runs, training.cancel):
    models.models.command()(each)
app.add_typer(models.models, name="models")
app.add_typer(db.db, name="db")
app.command()(operate.replay)


@app.command(hidden=True)
def settings(
    env: Annotated[bool, typer.Option("--env", help="Print .env.example.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table for the documentation.")] = False,
) -> None:
    """Print every setting with its default, for `.env.example` or the documentation."""
    from agents import reference

    if env == markdown:
        raise typer.BadParameter("expected one of --env and --markdown")
    sys.stdout.write(reference.env() if env else reference.markdown())


if __name__ == "__main__":
    main()
