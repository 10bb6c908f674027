"""The sample sentences that ship with the package."""

from importlib.resources import files
from io import BytesIO

from agents.inputs import Defaults, Format, Given, rows


def test_every_line_is_a_sentence() -> None:
    """Some thousand lines, each of which `produce` takes as a sentence; white space around them is kept."""
    file = files("agents") / "samples" / "sentences.txt"
    found = list(rows(BytesIO(file.read_bytes()), Format.TEXT, Defaults("sentences.txt"), 10_000))
    assert len(found) > 2_000
    assert all(isinstance(row, Given) for row in found)
    texts = [row.sentence.text for row in found if isinstance(row, Given)]
    assert any(text != text.strip() for text in texts)


def test_languages_are_mixed() -> None:
    """Wherever one looks, there is more than one script: the lines are not sorted by language."""
    lines = (files("agents") / "samples" / "sentences.txt").read_text(encoding="utf-8").split("\n")
    tenth = len(lines) // 10
    for start in range(0, len(lines) - tenth, tenth):
        part = "".join(lines[start : start + tenth])
        assert any("\u0400" <= letter <= "\u04ff" for letter in part)  # Cyrillic
        assert "ß" in part or "ä" in part
