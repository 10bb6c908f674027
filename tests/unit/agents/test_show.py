"""How records are printed."""

import csv
import io
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from agents.show import Form, Item, Letter, printer, read_letter, shortened
from schemas.dead_letters import dead_letter_headers
from schemas.errors import BadBytes
from schemas.records import (
    Embedding,
    Overflow,
    Record,
    Reply,
    ReplyError,
    Score,
    ScoreStatus,
    Sentence,
    Served,
    Source,
    Timings,
)

SOURCE = Source("sentence.requests", 3, 17, 1_700_000_000_000)
SENTENCE = Sentence("s1", "Hello.", "small", 8, ("a", "b"), Overflow.REJECT, {"lang": "en"})
EMBEDDING = Embedding(
    id="e1",
    sentence_id="s1",
    text="Hello.",
    model="small",
    revision="r1",
    weights_digest="abc",
    dimensions=3,
    token_count=4,
    truncated=True,
    precision="float32",
    source=SOURCE,
    embedded_at=1_700_000_000_001,
    vector=np.array([0.1, -0.25, 1.0], np.float32),
)
SCORE = Score(
    id="c1",
    sentence_id="s1",
    scorer="mood",
    scorer_version="1",
    label="calm",
    score=0.75,
    labels={"calm": 0.75},
    model="small",
    revision="r1",
    source=SOURCE,
    scored_at=1_700_000_000_002,
)
SERVED = Served(
    model="small",
    revision="r1",
    weights_digest="abc",
    precision="float32",
    dimensions=3,
    max_tokens=256,
    identity="1f2e",
    scorers=("mood",),
)
REPLY = Reply(correlation_id=b"c\xff", embedding=EMBEDDING, scores=(SCORE,), served=SERVED, timings=Timings(embed=7))
REFUSED = Reply(
    correlation_id=b"c2", error=ReplyError(reason="expired", stage="validate", message="too late"), served=SERVED
)
LETTER = Letter("bad-bytes", "decode", "value: it is empty", 1, "sentence.requests", 3, 17, 1_700_000_000_000)


def item(record: Record | None, letter: Letter | None = None, key: str | None = "k1") -> Item:
    """Returns a record at a place."""
    return Item("a.topic", 2, 5, 1_700_000_000_003, key, record, letter)


def show(form: str, *items: Item, kind: type[Any] | None = None, vectors: bool = False) -> list[str]:
    """Returns the printed lines."""
    out = io.StringIO()
    write = printer(Form(form), kind, out, vectors=vectors)
    for each in items:
        write(each)
    return out.getvalue().splitlines()


class TestText:
    @pytest.mark.parametrize(
        ("shown", "line"),
        [
            (item(SENTENCE), "2@5  s1  Hello."),
            (item(EMBEDDING), "2@5  s1  3 dimensions  4 tokens (truncated)  small  Hello."),
            (item(replace(EMBEDDING, text=None, truncated=False)), "2@5  s1  3 dimensions  4 tokens  small"),
            (item(SCORE), "2@5  s1  mood  calm  0.750"),
            (
                item(replace(SCORE, status=ScoreStatus.FALLBACK, reason="timeout")),
                "2@5  s1  mood  calm  0.750  fallback: timeout",
            ),
            (item(REPLY), r"2@5  c\xff  s1  3 dimensions  4 tokens (truncated)  small  Hello.  mood: calm"),
            (item(REFUSED), "2@5  c2  expired (validate)  too late"),
            (item(Reply(served=SERVED)), "2@5    deleted"),
            (item(None), "2@5  k1  deleted"),
            (item(None, LETTER), "2@5  bad-bytes (decode)  from sentence.requests/3@17  value: it is empty"),
            (
                item(SENTENCE, LETTER),
                "2@5  bad-bytes (decode)  from sentence.requests/3@17  value: it is empty  s1  Hello.",
            ),
        ],
    )
    def test_one_short_line_a_record(self, shown: Item, line: str) -> None:
        """Each kind of record has its line, the place first; vectors are left out."""
        assert show("text", shown) == [line]

    def test_vectors_on_demand(self) -> None:
        """With vectors, all numbers are there."""
        assert "[0.1 -0.25 1.0]" in show("text", item(EMBEDDING), vectors=True)[0]

    def test_texts_cannot_steer_the_terminal(self) -> None:
        """Line breaks and escape sequences are shown as such, and a long text is cut."""
        assert shortened("a\nb\x1b[31m\u202ec") == r"a\nb\x1b[31m\u202ec"
        assert shortened("x" * 80) == "x" * 80
        assert shortened("x" * 81) == "x" * 79 + "…"


class TestJsonLines:
    @pytest.mark.parametrize("record", [SENTENCE, SCORE])
    def test_all_fields(self, record: Sentence | Score) -> None:
        """A line has the record's place, and every field under the names of the schema."""
        (line,) = show("jsonl", item(record))
        shown = json.loads(line)
        place = {"topic": "a.topic", "partition": 2, "offset": 5, "timestamp": 1_700_000_000_003, "key": "k1"}
        assert shown == place | {"record": json.loads(json.dumps(asdict(record)))}

    def test_vectors_on_demand(self) -> None:
        """The vector is left out unless asked for, and then float32 values read back exactly."""
        plain, full = show("jsonl", item(EMBEDDING))[0], show("jsonl", item(EMBEDDING), vectors=True)[0]
        assert "vector" not in json.loads(plain)["record"]
        assert np.array_equal(np.float32(json.loads(full)["record"]["vector"]), EMBEDDING.vector)

    def test_replies(self) -> None:
        """What is inside a reply is shown in full, its vector only where that is asked for."""
        plain, full = show("jsonl", item(REPLY))[0], show("jsonl", item(REPLY), vectors=True)[0]
        shown = json.loads(plain)["record"]
        assert (shown["correlation_id"], shown["error"], shown["timings"]["embed"]) == ("c\\xff", None, 7)
        assert (shown["scores"][0]["label"], shown["served"]["scorers"]) == ("calm", ["mood"])
        assert (shown["embedding"]["id"], "vector" in shown["embedding"]) == ("e1", False)
        assert len(json.loads(full)["record"]["embedding"]["vector"]) == 3

    def test_tombstones_and_dead_letters(self) -> None:
        """A tombstone has no record; a dead letter says why, with its record where that decodes."""
        tombstone, letter = map(json.loads, show("jsonl", item(None), item(None, LETTER)))
        assert tombstone["record"] is None
        assert "dead_letter" not in tombstone
        assert (letter["dead_letter"], letter["record"]) == (asdict(LETTER), None)


class TestCsv:
    def test_columns_of_the_kind(self) -> None:
        """One header, then a row a record; a tombstone has its place and empty cells."""
        header, first, second = csv.reader(show("csv", item(SENTENCE), item(None), kind=Sentence))
        assert header[:5] == ["topic", "partition", "offset", "timestamp", "key"]
        assert dict(zip(header[5:], first[5:], strict=True)) == {
            "id": "s1", "text": "Hello.", "model": "small", "dimensions": "8", "scorers": "a b",
            "overflow": "reject", "metadata": '{"lang":"en"}', "query": "", "encoding": "float32",
        }  # fmt: skip
        assert second == ["a.topic", "2", "5", "1700000000003", "k1", *[""] * 9]

    def test_embedding(self) -> None:
        """Booleans are as in JSON, the source is JSON, the vector's numbers stand apart by spaces."""
        header, row = csv.reader(show("csv", item(EMBEDDING), kind=Embedding, vectors=True))
        cells = dict(zip(header, row, strict=True))
        assert (cells["truncated"], cells["cached"]) == ("true", "false")
        assert json.loads(cells["source"]) == asdict(SOURCE)
        assert cells["vector"] == "0.1 -0.25 1.0"
        assert "vector" not in show("csv", kind=Embedding)[0]

    def test_replies(self) -> None:
        """A reply's fields are cells, what is inside them JSON."""
        header, answered, refused = csv.reader(show("csv", item(REPLY), item(REFUSED), kind=Reply))
        cells, refusal = dict(zip(header, answered, strict=True)), dict(zip(header, refused, strict=True))
        assert json.loads(cells["embedding"])["sentence_id"] == "s1"
        assert json.loads(cells["scores"])[0]["scorer"] == "mood"
        assert (refusal["correlation_id"], refusal["embedding"], refusal["scores"]) == ("c2", "", "")
        assert json.loads(refusal["error"])["reason"] == "expired"

    def test_dead_letters_and_unknown_topics(self) -> None:
        """Their records are JSON in one cell, empty where there is none."""
        header, first, second = csv.reader(
            show("csv", item(SENTENCE, LETTER), item(None, LETTER), kind=Letter, vectors=True)
        )
        cells = dict(zip(header, first, strict=True))
        assert (cells["dead_letter_reason"], cells["dead_letter_offset"]) == ("bad-bytes", "17")
        assert json.loads(cells["record"])["text"] == "Hello."
        assert second[-1] == ""
        assert json.loads(list(csv.reader(show("csv", item(SCORE))))[1][-1])["label"] == "calm"


class TestLetters:
    def test_reads_what_the_worker_writes(self) -> None:
        """Reason, stage, message, attempts and the record's place come back from the headers."""
        headers = dead_letter_headers(
            BadBytes("value: it is empty"), read_at=SOURCE, timestamp_type=0, group="g", attempts=1
        )
        assert read_letter(headers) == LETTER

    def test_foreign_headers_do_no_harm(self) -> None:
        """What is missing or not as expected is None."""
        headers = [("__connect.errors.partition", b"-x"), ("kafka_dlt-original-timestamp", b"1"), ("reason", None)]
        assert read_letter(headers) == Letter(None, None, None, None, None, None, None, None)
        assert read_letter([("reason", b"\xff")]).reason == "\\xff"
        assert show("text", item(None, read_letter([]))) == [
            "2@5  no reason (no stage)  from unknown place  no message"
        ]
