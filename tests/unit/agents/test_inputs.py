"""Sentences from text, JSON Lines and CSV."""

import io
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.inputs import Blank, Defaults, Format, Given, Malformed, Row, UnusableInput, format_of, rows
from schemas.records import Overflow, Sentence

DEFAULTS = Defaults("letters.txt")
MOST = 1_000


def read(form: Format, content: bytes, defaults: Defaults = DEFAULTS) -> list[Row]:
    """Returns the rows of a file with this content."""
    return list(rows(io.BytesIO(content), form, defaults, MOST))


def sentences(found: list[Row]) -> list[Sentence]:
    """Returns the sentences among rows."""
    return [row.sentence for row in found if isinstance(row, Given)]


def problems(found: list[Row]) -> list[tuple[int, str]]:
    """Returns line and problem of each malformed row."""
    return [(row.line, row.problem) for row in found if isinstance(row, Malformed)]


class TestText:
    def test_keeps_white_space_around_a_sentence(self) -> None:
        """Only the end of the line is taken off, LF or CRLF, also where the last line has none."""
        found = sentences(read(Format.TEXT, b"  two before\n\ttab\t\r\nlast \x0b\xc2\x85 line"))
        assert [sentence.text for sentence in found] == ["  two before", "\ttab\t", "last \x0b\x85 line"]

    def test_blank_lines_are_told_apart(self) -> None:
        """A line of white space alone is blank, also of white space beyond ASCII."""
        assert read(Format.TEXT, "\n \t\n\u3000\n".encode()) == [Blank(1), Blank(2), Blank(3)]

    def test_byte_order_mark_is_no_text(self) -> None:
        """A BOM at the start of the file belongs to no sentence."""
        assert sentences(read(Format.TEXT, b"\xef\xbb\xbfBonjour.\n"))[0].text == "Bonjour."

    def test_a_bad_line_spoils_only_itself(self) -> None:
        """Bytes that are not UTF-8 and lines that are too long are named by number; the others are read."""
        found = read(Format.TEXT, b"one\ntw\xff\n" + b"x" * (MOST + 100_000) + b"\nfour\n")
        assert [sentence.text for sentence in sentences(found)] == ["one", "four"]
        assert problems(found) == [(2, "text: not UTF-8 at byte 3"), (3, "longer than 1000 bytes")]

    def test_longest_line_is_still_read(self) -> None:
        """A line of exactly the greatest length is not too long."""
        found = sentences(read(Format.TEXT, b"y" * MOST + b"\r\nz\n"))
        assert [len(sentence.text) for sentence in found] == [MOST, 1]

    def test_ids_are_the_same_each_time(self) -> None:
        """Reading a file again gives the same ids; equal texts on two lines, or in two files, get two ids."""
        first, second = sentences(read(Format.TEXT, b"same\nsame\n"))
        assert first.id != second.id
        assert sentences(read(Format.TEXT, b"same\nsame\n")) == [first, second]
        assert sentences(read(Format.TEXT, b"same\n", Defaults("other.txt")))[0].id != first.id

    def test_defaults_hold(self) -> None:
        """What the row does not say comes from the defaults."""
        defaults = Defaults("a", "small", 64, ("mood",), Overflow.REJECT)
        sentence = sentences(read(Format.TEXT, b"hi\n", defaults))[0]
        assert (sentence.model, sentence.dimensions, sentence.scorers) == ("small", 64, ("mood",))
        assert sentence.overflow is Overflow.REJECT

    @given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20), max_size=20))
    def test_every_line_is_one_row(self, lines: list[str]) -> None:
        """Whatever the lines hold, each is one row, with its own number, and its text is kept."""
        found = read(Format.TEXT, "".join(f"{line}\n" for line in lines).encode())
        assert [row.line for row in found] == list(range(1, len(lines) + 1))
        kept = [line.removeprefix("\ufeff") if n == 0 else line for n, line in enumerate(lines)]
        assert [s.text for s in sentences(found)] == [line for line in kept if line and not line.isspace()]


class TestJsonLines:
    def test_all_fields(self) -> None:
        """Every field of a Sentence and the key can be given, and win over the defaults."""
        row = {
            "id": "s1", "text": "Hello.", "key": "k1", "model": "small", "dimensions": 8, "scorers": ["a", "b"],
            "overflow": "reject", "metadata": {"lang": "en"},
        }  # fmt: skip
        found = read(Format.JSONL, json.dumps(row).encode(), Defaults("a", "large", 64, ("c",)))
        sentence = Sentence("s1", "Hello.", "small", 8, ("a", "b"), Overflow.REJECT, {"lang": "en"})
        assert found == [Given(1, sentence, "k1")]

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (b'{"id": "1"}', "text: field required"),
            (b'{"text": 5}', "text: input should be a valid string"),
            (b'{"text": "a", "tekst": "b"}', "tekst: no such field"),
            (b'{"text": "a", "dimensions": "8"}', "dimensions: input should be a valid integer"),
            (b'{"text": "a", "dimensions": 0}', "dimensions: expected 1 or more, or null, it is 0"),
            (b'{"text": "a", "scorers": "mood"}', "scorers: input should be a valid array"),
            (b'{"text": "a", "metadata": {"n": 1}}', "metadata.n: input should be a valid string"),
            (b'{"text": "a", "id": ""}', "id: expected 1 to 512 characters, it has 0"),
            (b'{"text": " "}', "text: expected at least one character that is not white space"),
            (b'["text"]', "Input should be an object"),
            (b"text", "Invalid JSON: expected ident at column 2"),
        ],
    )
    def test_malformed_lines_name_the_field(self, line: bytes, problem: str) -> None:
        """What is wrong is said in a line that starts with the field, and the next line is read."""
        found = read(Format.JSONL, line + b'\n{"text": "fine"}\n')
        assert [sentence.text for sentence in sentences(found)] == ["fine"]
        assert len(problems(found)) == 1
        assert problems(found)[0][0] == 1
        assert problems(found)[0][1].startswith(problem)


class TestCsv:
    def test_columns(self) -> None:
        """Known columns are fields, the others metadata; an empty cell says nothing."""
        found = read(
            Format.CSV,
            b'lang,text,id,key,scorers,dimensions,overflow\nen,"Hello, you.",s1,k1,a  b,8,reject\n,Plain.,,,,,\n',
        )
        first = Sentence("s1", "Hello, you.", None, 8, ("a", "b"), Overflow.REJECT, {"lang": "en"})
        assert found[0] == Given(2, first, "k1")
        assert isinstance(found[1], Given)
        assert (found[1].key, found[1].sentence.metadata, found[1].sentence.scorers) == (None, {}, ())

    def test_quoted_cells_go_over_lines(self) -> None:
        """A row is named by its first line, also after a cell with line breaks."""
        found = read(Format.CSV, b'text\n"one\ntwo"\n\nthree\n')
        assert [row.line for row in found] == [2, 4, 5]
        assert [sentence.text for sentence in sentences(found)] == ["one\ntwo", "three"]

    def test_a_bad_row_spoils_only_itself(self) -> None:
        """Wrong counts, wrong values, bad bytes and over-long lines are named; the others are read."""
        long = b"x" * (MOST + 10)
        found = read(
            Format.CSV,
            b"text,dimensions\na,1,2\nb,many\nc\xff,\n" + long + b',1\n"d\n' + long + b'\ne",1\nfine,1\n',
        )
        assert [sentence.text for sentence in sentences(found)] == ["fine"]
        numbers, reasons = zip(*problems(found), strict=True)
        assert numbers == (2, 3, 4, 5, 7)
        assert reasons[0] == "expected 2 cells, it has 3"
        assert reasons[1].startswith("dimensions: input should be a valid integer")
        assert reasons[2] == "text: not UTF-8"
        assert reasons[3] == reasons[4] == "longer than 1000 bytes"

    def test_a_quote_that_never_ends_takes_bounded_memory(self) -> None:
        """A cell that swallows the file is given up at the greatest length, and reading goes on."""
        found = read(Format.CSV, b'text\n"open\n' + b"line\n" * 300 + b'last"\nfine\n')
        assert problems(found)[0] == (2, "not CSV: field larger than field limit (1000)")
        assert all(one.line < other.line for one, other in pairwise(found))
        assert sentences(found)[-1].text == "fine"

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b"", "one of them text"), (b"a,b\n1,2\n", "one of them text"), (b"text,a,a\n", "'a' is there twice")],
    )
    def test_wrong_header_refuses_the_file(self, content: bytes, problem: str) -> None:
        """Without a text column, or with a column twice, nothing of the file can be meant."""
        with pytest.raises(UnusableInput, match=problem):
            read(Format.CSV, content)


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.csv", "csv"), ("a.JSONL", "jsonl"), ("a.ndjson", "jsonl"), ("a.txt", "text"), ("-", "text"), ("a", "text")],
)
def test_format_by_name(name: str, form: str) -> None:
    """A file's suffix says its format, in any case of letters; text is the default."""
    assert format_of(Path(name)) == form
