"""The commands for dead letters and replays without a broker: help, usage, and what is shown of bytes."""

import sys

import pytest
import typer

from agents import cli
from agents.dead_letters import header_text
from agents.transfers import duration, exit_code, listed
from streams.transfer import Tally

COMMANDS = [("dead-letters", "list"), ("dead-letters", "show"), ("dead-letters", "redrive"), ("replay",)]
REQUIRED = {"show": ["3@17"], "replay": ["--topic", "requests"]}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps settings of the machine out of these tests; no broker listens at port 1."""
    monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("streams.observe.logs.configure", lambda _: None)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs a command line in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["sentence-streams", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help of each command shows every option it has, and each of them is described."""
    assert run(monkeypatch, *command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"Usage: sentence-streams {' '.join(command)}" in shown
    found = typer.main.get_command(cli.app)
    for name in command:
        found = found.commands[name]  # type: ignore[attr-defined]
    assert all(parameter.help for parameter in found.params)  # type: ignore[attr-defined]
    assert all(option.opts[0] in shown for option in found.params if option.param_type_name == "option")


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_settings_are_one_line(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command names a wrong setting on stderr, prints nothing else, and exits 2."""
    monkeypatch.setenv("STREAMS_PARTITIONS", "0")
    assert run(monkeypatch, *command, *REQUIRED.get(command[-1], [])) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith("STREAMS_PARTITIONS: ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("dead-letters", "show", "17"), "PARTITION@OFFSET"),
        (("dead-letters", "redrive", "x@1"), "PARTITION@OFFSET"),
        (("dead-letters", "list", "--from", "soon"), "expected beginning"),
        (("replay", "--topic", "t", "--to", "99999999999999999999"), "expected beginning"),
        (("replay", "--topic", "t", "--where", "reason"), "NAME=VALUE"),
        (("replay", "--topic", "t", "--model", "m"), "--output-topic together"),
        (("replay", "--topic", "t", "--output-topic", "o"), "--output-topic together"),
        (("replay", "--topic", "t", "--model", "m", "--output-topic", "o", "--re-score"), "--re-score and --model"),
        (("replay", "--topic", "t", "--name", "a/b"), "--name"),
        (("replay", "--topic", "dead-letters", "--where", "tenant=1"), "reason, stage or topic"),
        (("replay",), "--topic"),
        (("replay", "--topic", "t", "--rate", "0"), "--rate"),
    ],
)
def test_wrong_usage_is_said_before_anything_happens(
    arguments: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage is exit code 2 and a message that says what was expected."""
    assert run(monkeypatch, *arguments) == 2
    assert problem in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--topic", "embeddings"), "--re-score"),
        (("--topic", "scores"), "holds results"),
        (("--topic", "requests", "--re-score"), "reads embeddings"),
        (("--topic", "replay"), "replay lane itself"),
        (("--topic", "requests", "--model", "m", "--output-topic", "sentence.embeddings"), "topic of its own"),
        (("--topic", "old", "--model", "m", "--output-topic", "old"), "topic of its own"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    arguments: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results, the replay lane itself and topics with another purpose are refused with exit code 1."""
    assert run(monkeypatch, "replay", *arguments) == 1
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("kafka_dlt-original-partition", b"\0\0\0\x03", "3"),
        ("kafka_dlt-original-offset", b"\0\0\0\0\0\0\x01\0", "256"),
        ("kafka_dlt-original-timestamp", (1_000).to_bytes(8, "big"), "1000 (1970-01-01T00:00:01.000+00:00)"),
        ("kafka_dlt-original-timestamp", b"\x7f" + b"\xff" * 7, "9223372036854775807"),
        ("kafka_dlt-original-offset", b"17", "17"),
        ("tag", "grün".encode(), "grün"),
        ("tag", b"\xff\0A", "ff 00 41" + " " * 39 + "  ..A"),
        ("tag", None, None),
    ],
)  # fmt: skip
def test_headers_are_readable(name: str, value: bytes | None, text: str | None) -> None:
    """Spring's binary numbers are digits, text is text, all else is a dump."""
    assert header_text(name, value) == text


def test_exit_codes() -> None:
    """A stopped run is 130, refused records are 3, all else is 0: what was left on purpose is no failure."""
    tally = Tally()
    tally.left["superseded"] = 1
    assert exit_code(tally) == 0
    tally.refused["bad-bytes"] = 1
    assert exit_code(tally) == 3
    tally.stopped = True
    assert exit_code(tally) == 130


def test_people_read_durations_and_lists() -> None:
    """Three digits of a fitting unit, and ten items of a list."""
    assert [duration(seconds) for seconds in (0.5, 59, 90, 7_200)] == ["0.5 s", "59 s", "1.5 min", "2 h"]
    assert listed(list(range(12))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert listed([1]) == "1"
