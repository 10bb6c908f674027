"""The commands that read dead letters and send records again; parsed as in `agents.cli`, which they belong to."""

from typing import Annotated, Any, Literal

import typer

dead_letters = typer.Typer(
    help="Read dead letters, and send them again. Settings and exit codes are those of `sentence-streams`.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on stdout.")]


def _settings() -> Any:
    from streams.observe.logs import configure
    from streams.settings import load

    settings = load()
    configure(settings)
    return settings


def _bound(text: Any) -> Any:
    from streams.ranges import Bound

    try:
        return text if isinstance(text, Bound) else Bound.parse(text)
    except ValueError:
        raise typer.BadParameter(
            "expected beginning, end, an offset, a time as in 2025-01-31T12:00:00Z, or epoch milliseconds, "
            f"got {text!r}"
        ) from None


def _place(text: Any) -> Any:
    from streams.redrive import Place

    try:
        return text if isinstance(text, Place) else Place.parse(text)
    except ValueError:
        raise typer.BadParameter(f"expected PARTITION@OFFSET as in 3@17, got {text!r}") from None


def _where(text: Any) -> Any:
    name, equals, value = text if isinstance(text, tuple) else text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"expected NAME=VALUE, got {text!r}")
    return name, equals, value


Reason = Annotated[str | None, typer.Option(help="Only with this reason, as in bad-bytes.")]
Stage = Annotated[str | None, typer.Option(help="Only from this stage: decode, validate, embed, score or publish.")]
Original = Annotated[
    str | None, typer.Option("--topic", help="Only of records read from, or first sent to, this topic.")
]
LetterKey = Annotated[str | None, typer.Option(help="Only with this key.")]
Since = Annotated[
    Any, typer.Option("--from", parser=_bound, metavar="TIME", help="Only those written at this time or later.")
]
Until = Annotated[Any, typer.Option("--to", parser=_bound, metavar="TIME", help="Only those written before this time.")]
Rate = Annotated[float, typer.Option(min=0.001, help="Most records to send a second.")]
Execute = Annotated[bool, typer.Option("--execute/--dry-run", help="Do it, instead of only saying what would be done.")]
Superseded = Annotated[
    bool,
    typer.Option("--include-superseded", help="Send also what a newer record of the same key replaced or deleted."),
]


@dead_letters.command("list")
def list_dead_letters(
    reason: Reason = None,
    stage: Stage = None,
    topic: Original = None,
    key: LetterKey = None,
    start: Since = "beginning",
    end: Until = "end",
    limit: Annotated[int | None, typer.Option(min=1, help="Most dead letters to print.")] = None,
    form: Annotated[Literal["text", "jsonl", "csv"], typer.Option("--format", help="How to print them.")] = "text",
    summary: Annotated[bool, typer.Option("--summary", help="Print only how many have which reason.")] = False,
) -> None:
    """Print dead letters, PARTITION@OFFSET first: why each is one, where it was read, and its record if that decodes.

    How many have which reason is said on stderr at the end.
    """
    from agents.dead_letters import show_list
    from agents.show import Form
    from streams.redrive import Selection

    selection = Selection(reason=reason, stage=stage, topic=topic, key=key, start=start, end=end)
    raise typer.Exit(show_list(_settings(), selection, form=Form(form), limit=limit, summary=summary))


@dead_letters.command()
def show(
    place: Annotated[Any, typer.Argument(parser=_place, metavar="PARTITION@OFFSET", help="As `list` prints it.")],
    as_json: Json = False,
) -> None:
    """Print all there is to one dead letter: every header in readable form, and its record, or a dump of its bytes."""
    from agents.dead_letters import show_one

    raise typer.Exit(show_one(_settings(), place, as_json=as_json))


@dead_letters.command()
def redrive(
    places: Annotated[
        list[Any] | None,
        typer.Argument(parser=_place, metavar="[PARTITION@OFFSET]...", help="Only these, as `list` prints them."),
    ] = None,
    reason: Reason = None,
    stage: Stage = None,
    topic: Original = None,
    key: LetterKey = None,
    start: Since = "beginning",
    end: Until = "end",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most dead letters to send in this run, oldest first.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--set-text", help="Text that the one selected record gets; its id stays.")
    ] = None,
    rate: Rate = 500.0,
    max_attempts: Annotated[
        int, typer.Option(min=1, help="A record that was redriven so often is left: it would only fail again.")
    ] = 3,
    include_superseded: Superseded = False,
    execute: Execute = False,
    as_json: Json = False,
) -> None:
    """Send selected dead letters once more, through the replay lane; without --execute only say which.

    Key, value and the record's own headers stay as they are, but for a deadline and an address for replies: whoever
    waited has gone. Results carry the original coordinates. A worker with `STREAMS_LANES=replay` does the work.

    A run that is stopped, or killed, goes on where it was when the same command is given again: nothing is redriven
    twice. What fails again is a new dead letter, which counts how often it was redriven.
    """
    from agents.redrive import Job, run
    from streams.redrive import Selection

    selection = Selection(
        reason=reason, stage=stage, topic=topic, key=key, start=start, end=end, places=tuple(places or ())
    )
    job = Job(
        selection=selection,
        text=text,
        limit=limit,
        rate=rate,
        max_attempts=max_attempts,
        include_superseded=include_superseded,
        execute=execute,
    )
    raise typer.Exit(run(_settings(), job, as_json=as_json))


def replay(
    topic: Annotated[
        str,
        typer.Option(
            help="Topic to replay: requests, interactive, embeddings (with --re-score), or the name of any topic."
        ),
    ],
    start: Annotated[
        Any,
        typer.Option(
            "--from",
            parser=_bound,
            metavar="beginning|OFFSET|TIME",
            help="Where to start. TIME is ISO 8601 (UTC where it names no zone) or epoch milliseconds.",
        ),
    ] = "beginning",
    end: Annotated[
        Any, typer.Option("--to", parser=_bound, metavar="end|OFFSET|TIME", help="Where to end, itself not included.")
    ] = "end",
    key: LetterKey = None,
    where: Annotated[
        list[Any] | None,
        typer.Option(parser=_where, metavar="NAME=VALUE", help="Only with this header; several must all be there."),
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--re-score", help="Score embeddings again, here and now, without embedding anything.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Embed with this model, here and now, into --output-topic.")] = None,
    output: Annotated[
        str | None, typer.Option("--output-topic", help="Topic of its own for the embeddings of --model.")
    ] = None,
    rate: Rate = 500.0,
    max_live_lag: Annotated[
        int, typer.Option(min=0, help="Pause while live traffic lags by more records than this.")
    ] = 1_000,
    include_superseded: Superseded = False,
    name: Annotated[str | None, typer.Option(help="Names a new run of a replay that was done before.")] = None,
    execute: Execute = False,
    as_json: Json = False,
) -> None:
    """Send old requests once more, through the replay lane; without --execute only say how many, and how long.

    Results keep their ids and original coordinates, so they replace what is there. The live group's offsets stay as
    they are. A worker with `STREAMS_LANES=replay` does the work. A record whose key has a newer record, or was
    deleted, is left out, also when that happens meanwhile.

    A run that is stopped, or killed, goes on where it was when the same command is given again: nothing is sent
    twice. Dead letters are replayed as `dead-letters redrive` does it: there, `--where` knows reason, stage and topic.
    """
    from agents.consume import known
    from agents.replay import NAME, Job, run
    from streams.replay import Selection

    if (model is None) != (output is None):
        raise typer.BadParameter("expected --model and --output-topic together: vectors of two models never mix")
    if rescore and model:
        raise typer.BadParameter("expected one of --re-score and --model")
    settings = _settings()
    topic = known(settings).get(topic, (topic, None))[0]
    wanted = {header: value for header, _, value in where or ()}
    if topic == settings.topic_dead_letters and not (model or rescore):
        if unknown := wanted.keys() - {"reason", "stage", "topic"}:
            raise typer.BadParameter(f"--where: expected reason, stage or topic of dead letters, got {min(unknown)}")
        redrive(
            None, wanted.get("reason"), wanted.get("stage"), wanted.get("topic"), key, start, end,
            rate=rate, include_superseded=include_superseded, execute=execute, as_json=as_json,
        )  # fmt: skip
    if name is not None and not NAME.fullmatch(name):
        raise typer.BadParameter("--name: expected 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-'")
    selection = Selection(
        topic=topic, start=start, end=end, key=key, where=tuple(wanted.items()), include_superseded=include_superseded
    )
    job = Job(
        selection=selection,
        name=name,
        rescore=rescore,
        model=model,
        output=output,
        rate=rate,
        max_live_lag=max_live_lag,
        execute=execute,
    )
    raise typer.Exit(run(settings, job, as_json=as_json))
