"""Labelled sentences: every format gives the same examples, and every trouble is named by its rows."""

from pathlib import Path
from typing import Any

import orjson
import pyarrow
import pytest
from pyarrow import parquet

from schemas.codec import Codec
from schemas.records import Sentence
from streams.models import datasets
from streams.models.datasets import Columns, Dataset, Example, Unusable, UnusableLabels, checked, from_records, read
from streams.testing.publisher import PublishedRecord

#: Six sentences of each of two labels, sorted.
ROWS = [(f'{word} {n}, "so, it" says.', label) for word, label in (("Bad", "no"), ("Fine", "yes")) for n in range(6)]


def write(path: Path, rows: list[tuple[Any, Any]], text: str = "text", label: str = "label") -> str:
    """A file of these rows in the format of its name."""
    if path.suffix == ".csv":
        cells = ["" if cell is None else '"' + str(cell).replace('"', '""') + '"' for row in rows for cell in row]
        lines = [f"{text},{label}", *(f"{a},{b}" for a, b in zip(cells[::2], cells[1::2], strict=True))]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".parquet":
        texts, labels = zip(*rows, strict=True)
        parquet.write_table(pyarrow.table({text: list(texts), label: list(labels)}), path)
    else:
        path.write_bytes(b"".join(orjson.dumps({text: a, label: b}) + b"\n" for a, b in rows))
    return str(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.ndjson", "a.parquet", "A.CSV"])
def test_every_format_holds_the_same(tmp_path: Path, name: str) -> None:
    """The same rows in another format, or another order, are the same data set, down to its digest."""
    found = read(write(tmp_path / name.lower(), ROWS[::-1]))
    assert list(zip(found.texts, found.labels, strict=True)) == ROWS
    assert found.warnings == ()
    assert found.counts == {"no": 6, "yes": 6}
    assert found.digest == Dataset(*zip(*ROWS, strict=True)).digest


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    """Whoever labelled the sentences need not rename anything."""
    source = write(tmp_path / "a.csv", ROWS, "sentence", "mood")
    assert read(source, Columns("sentence", "mood")).counts == {"no": 6, "yes": 6}
    with pytest.raises(UnusableLabels, match=r"a\.csv: expected one column 'text', it has sentence, mood"):
        read(source)


def test_the_canonical_form_is_a_file_of_its_own(tmp_path: Path) -> None:
    """What is kept of a data set can be read, and trained on, again."""
    dataset = checked(examples(*ROWS), "a.csv")
    (tmp_path / "kept.jsonl").write_bytes(dataset.to_bytes())
    assert read(str(tmp_path / "kept.jsonl")) == dataset


@pytest.mark.parametrize(("label", "text"), [(True, "true"), (3, "3"), (" yes ", "yes")])
def test_labels_are_text(tmp_path: Path, label: Any, text: str) -> None:
    """Whole numbers and truth values of JSON are labels, too."""
    source = write(
        tmp_path / "a.jsonl", [(f"x {n}", label) for n in range(5)] + [(f"y {n}", "other") for n in range(5)]
    )
    assert set(read(source).counts) == {text, "other"}


def test_what_is_missing_is_left_out_and_named(tmp_path: Path) -> None:
    """A line without a text or a label costs nobody else anything; its number counts the lines of quoted cells."""
    path = tmp_path / "a.csv"
    write(path, ROWS)
    path.write_text(path.read_text() + '"two\nlines",no\nunlabelled,\n,yes\n\nlonely\n')
    found = read(str(path))
    assert found.warnings == (
        "1 row left out, no label: line 16",
        "1 row left out, no text: line 17",
        "1 row left out, expected 2 cells: line 19",
    )
    assert found.counts == {"no": 7, "yes": 6}


def test_lines_that_are_not_json_are_left_out_and_named(tmp_path: Path) -> None:
    """So are those that hold something else than an object, or a label that is no label."""
    path = tmp_path / "a.jsonl"
    write(path, ROWS)
    path.write_bytes(path.read_bytes() + b'{"text"\n[1]\n\n{"text": "x", "label": 1.5}\n')
    assert read(str(path)).warnings == (
        "1 row left out, not JSON: line 13",
        "1 row left out, not an object: line 14",
        "1 row left out, no label: line 16",
    )


def examples(*rows: tuple[str, str]) -> list[datasets.Row]:
    return [Example(f"line {n}", text, label) for n, (text, label) in enumerate(rows, start=1)]


def test_rows_that_contradict_each_other_are_left_out_and_named() -> None:
    """Nobody can say which of them is right, so neither is learned from."""
    found = checked(examples(*ROWS, ("Well.", "yes"), ("Well.", "no"), ("Well.", "yes")), "a.csv")
    assert found.warnings == (
        "3 rows left out, one text with several labels: line 13, line 15 says yes, line 14 says no",
    )
    assert "Well." not in found.texts


def test_rows_that_repeat_each_other_count_once() -> None:
    """Else one sentence would be in the training and the test part of a cross-validation."""
    found = checked(examples(*ROWS, ROWS[0], ROWS[0]), "a.csv")
    assert found.warnings == ("2 rows left out, the same text and label again: line 13, line 14 as line 1",)
    assert found.counts == {"no": 6, "yes": 6}


def test_long_lists_of_rows_are_cut() -> None:
    """A file without any labels is still one line to read."""
    rows: list[datasets.Row] = [Unusable(f"line {n}", "no label") for n in range(100)]
    with pytest.raises(UnusableLabels, match=r"a\.csv: no labelled sentence is left: 100 rows .* line 9 and 90 more$"):
        checked(rows, "a.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "a.csv: no labelled sentence is left"),
        (ROWS[:6], "a.csv: every sentence is labelled 'no': expected two labels or more"),
        (ROWS[:10], r"expected 5 examples of each label or more: 'yes' has 4 \(line 7, line 8, line 9, line 10\)"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(rows: list[tuple[str, str]], message: str) -> None:
    """With the label that is short of examples, and where they are."""
    with pytest.raises(UnusableLabels, match=message):
        checked(examples(*rows), "a.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"expected a name that ends in \.csv, \.jsonl, \.ndjson, \.parquet"),
        ("a.csv", b"", "expected one column 'text', it has none"),
        ("a.csv", b"text,label,text\n", "expected one column 'text', it has text, label, text"),
        ("a.csv", b"text,label\na,b\n\xff,b\n", "line 3: not UTF-8"),
        ("a.csv", b'text,label\n"a,b\n', "line 2: not CSV: unexpected end of data"),
        ("a.parquet", b"PAR1", "not Parquet"),
    ],
)
def test_a_file_that_is_something_else_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """It names the file, the line where there is one, and what was expected."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnusableLabels, match=message) as caught:
        read(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """So is an object that is not there, or a store that is none."""
    with pytest.raises(UnusableLabels, match=r"nowhere\.csv: cannot read it: No such file"):
        read(str(tmp_path / "nowhere.csv"))


CODEC = Codec()


def record(offset: int, value: bytes | None, key: bytes | None) -> PublishedRecord:
    return PublishedRecord("t", 0, offset, 1000, key, value, ())


def sentence(offset: int, text: str, key: bytes | None = None, **metadata: str) -> PublishedRecord:
    value = CODEC.encode(Sentence(id=str(offset), text=text, metadata=metadata), "t")
    return record(offset, value=value, key=key)


def test_sentences_of_a_topic_carry_their_labels() -> None:
    """In their metadata; what cannot be decoded, or has no label, is named by partition and offset."""
    rows = list(
        from_records(
            [
                sentence(0, "Old.", b"k", mood="no"),
                sentence(1, "Fine.", mood="yes"),
                sentence(2, "New.", b"k", mood="yes"),
                sentence(3, "Nothing said."),
                record(4, value=b"!", key=None),
                sentence(5, "Gone.", b"gone", mood="no"),
                record(6, value=None, key=b"gone"),
            ],
            CODEC,
            "mood",
        )
    )
    assert rows == [
        Example("0@1", "Fine.", "yes"),
        Unusable("0@3", "no label"),
        Unusable("0@4", "bad-bytes"),
        Example("0@2", "New.", "yes"),
    ]
