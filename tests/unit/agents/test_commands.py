"""The command line without a broker: help, usage, settings, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from agents import cli

COMMANDS = ("dev", "worker", "score", "provision", "produce", "consume", "doctor")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps settings of the machine out of these tests; no broker listens at port 1."""
    monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "200")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs a command line in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["sentence-streams", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_help_lists_commands_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` names every command and what the exit codes mean; `settings` is for ourselves."""
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(f" {command} " in shown for command in COMMANDS)
    assert all(f"{code}: " in shown for code in (0, 1, 2, 3, 130))
    assert "Print every setting" not in shown


@pytest.mark.parametrize("command", [*COMMANDS, "settings"])
def test_every_command_has_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help of each command shows every option it has, and each of them is described."""
    assert run(monkeypatch, command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"Usage: sentence-streams {command}" in shown
    parameters = typer.main.get_command(cli.app).commands[command].params  # type: ignore[attr-defined]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    assert all(parameter.help for parameter in parameters)
    assert all(option.opts[0] in shown for option in options)


def test_help_is_quick() -> None:
    """Help imports nothing heavy: neither the model's libraries, nor Kafka's clients, nor the settings."""
    heavy = "torch faust aiokafka confluent_kafka numpy streams.settings"
    code = (
        "import sys; sys.argv = ['sentence-streams', '--help']\n"
        "from agents.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_settings_are_one_line_each(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command names each wrong setting on a line of its own on stderr, prints nothing else, and exits 2."""
    monkeypatch.setenv("STREAMS_PARTITIONS", "0")
    monkeypatch.setenv("STREAMS_LOG_LEVEL", "loud")
    arguments = ["/dev/null"] if command == "produce" else []
    assert run(monkeypatch, command, *arguments) == 2
    shown = capsys.readouterr()
    first, second = shown.err.splitlines()
    assert first.startswith("STREAMS_PARTITIONS: ")
    assert second.startswith("STREAMS_LOG_LEVEL: ")
    assert shown.out == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["produce", "no-such-file"], "expected a file that can be read"),
        (["produce", "."], "expected a file that can be read"),
        (["produce", "--lane", "express"], "express"),
        (["produce", "--limit", "0"], "--limit"),
        (["consume", "--from", "yesterday"], "expected beginning, latest, a time"),
        (["consume", "--format", "xml"], "xml"),
        (["settings"], "expected one of --env and --markdown"),
    ],
)
def test_wrong_usage(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was asked for wrongly is said on stderr, with exit code 2."""
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert complaint in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("arguments", [["produce", "/dev/null", "--timeout", "0.3"], ["consume", "--timeout", "0.3"]])
def test_no_broker_is_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a broker a command says where it looked, in one line, and exits 1 after its timeout."""
    assert run(monkeypatch, *arguments) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("sentence-streams: no broker answered at 127.0.0.1:1 within 0.3 s")
    assert shown.out == ""


def test_env_example_is_current(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`.env.example` is what `settings --env` prints."""
    assert run(monkeypatch, "settings", "--env") == 0
    assert Path(".env.example").read_text(encoding="utf-8") == capsys.readouterr().out


def test_settings_in_markdown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The table for the documentation has a row for each setting, with its default and its choices."""
    assert run(monkeypatch, "settings", "--markdown") == 0
    text = "Whether logs may hold texts: none, their hash, or full. One of: none, hash, full."
    assert f"| `STREAMS_LOG_TEXT` | `none` | {text} |" in capsys.readouterr().out.splitlines()
