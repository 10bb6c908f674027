"""Logs: one JSON object a line on standard error, and no texts unless a setting asks for them."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from streams.observe.logs import CHATTY, configure, text_fields
from streams.settings import LogText, load


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Gives the tests that follow their logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Returns what was logged; nothing ever goes to standard output, which is for results."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_an_event_is_one_json_object_with_its_coordinates(capsys: pytest.CaptureFixture[str]) -> None:
    """Level, time and every field are keys; line breaks in values stay inside."""
    configure(load())
    structlog.get_logger("test").warning("dead-letter", topic="t", partition=3, offset=41, error="two\nlines")
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "dead-letter",
        "level": "warning",
        "topic": "t",
        "partition": 3,
        "offset": 41,
        "error": "two\nlines",
    }


def test_libraries_log_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    """Their arguments are filled in, their exceptions are on the same line, their chatter is not there at all."""
    configure(load())
    logging.getLogger("some.library").warning("lost %d of %s", 3, "five")
    try:
        raise LookupError("why")
    except LookupError:
        logging.getLogger("aiokafka").exception("failed")
    logging.getLogger("aiokafka.producer").info("connected")
    first, second = lines(capsys)
    assert (first["event"], first["level"]) == ("lost 3 of five", "warning")
    assert (second["event"], second["level"]) == ("failed", "error")
    assert "LookupError: why" in second["exception"]


def test_an_exception_of_ours_comes_with_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """As `log.critical(..., exc_info=error)` does where the worker crashes."""
    configure(load())
    try:
        raise LookupError("why")
    except LookupError as error:
        caught = error
    structlog.get_logger("test").critical("crashed", exc_info=caught)
    (line,) = lines(capsys)
    assert "LookupError: why" in line["exception"]


def test_values_json_does_not_know_are_logged_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """A log call never raises because of what it is given."""
    configure(load())
    structlog.get_logger("test").info("odd", key=b"\xff", error=ValueError("x"), partitions={("t", 0)})
    (line,) = lines(capsys)
    assert line["key"] == "b'\\xff'"


def test_the_level_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """What is below it is not logged, by us or by libraries."""
    configure(load(log_level="error"))
    for log in (structlog.get_logger("test"), logging.getLogger("some.library"), logging.getLogger("aiokafka")):
        log.warning("no")
        log.error("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes"] * 3


def test_configuring_twice_does_not_log_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """The last call counts."""
    configure(load())
    configure(load())
    structlog.get_logger("test").info("once")
    assert len(lines(capsys)) == 1


def test_for_people_there_is_a_console_form(capsys: pytest.CaptureFixture[str]) -> None:
    """One readable line, without colours where nobody sees them."""
    configure(load(log_format="console"))
    structlog.get_logger("test").info("assigned", partitions=3)
    captured = capsys.readouterr().err
    assert "assigned" in captured
    assert "partitions=3" in captured
    assert "\x1b" not in captured
    assert len(captured.splitlines()) == 1


def test_texts_are_shown_only_as_far_as_the_setting_says() -> None:
    """Not at all, as a hash that tells equal texts from others, or in full."""
    assert text_fields("secret thought", LogText.NONE) == {}
    assert text_fields("secret thought", LogText.FULL) == {"text": "secret thought"}
    hashed = text_fields("secret thought", LogText.HASH)
    assert hashed == text_fields("secret thought", LogText.HASH)
    assert hashed != text_fields("another", LogText.HASH)
    assert "secret" not in str(hashed)
