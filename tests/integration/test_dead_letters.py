"""Dead letters on a real Kafka: read, edited, redriven once and only once, and parked when they keep failing."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.codec import Codec
from schemas.dead_letters import dead_letter_headers
from schemas.errors import BadBytes
from schemas.records import Sentence, Source
from tests.support.commands import Commands, outcome
from tests.support.kafka import HasBrokers
from tests.support.stream import Stream, wait_until

CODEC = Codec()


@pytest.fixture
def stream(kafka: HasBrokers, tmp_path: Path) -> Iterator[Stream]:
    """A stream whose commands answer soon."""
    with Stream(kafka.bootstrap_servers, tmp_path, session_timeout=6) as stream:
        yield stream


@pytest.fixture
def run(stream: Stream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Runs commands on the stream."""
    return Commands(stream, monkeypatch, capsys)


def sentence(number: int, **fields: str) -> bytes:
    """A sentence as our codec writes it."""
    return CODEC.encode(Sentence(**{"id": f"s-{number}", "text": f"Sentence {number}.", **fields}), "any")  # type: ignore[arg-type]


def letters(stream: Stream, count: int) -> list[bytes]:
    """Puts dead letters of unique requests on their topic, and returns the requests' values."""
    values = [sentence(number) for number in range(count)]
    records = []
    for number, value in enumerate(values):
        why = dead_letter_headers(
            BadBytes("no"), read_at=Source("gone", 0, number, 0), timestamp_type=0, group="g", attempts=1
        )
        records.append({"key": b"k%d" % number, "value": value, "headers": why, "partition": number % 4})
    stream.send(records, stream.settings.topic_dead_letters)
    return values


def test_a_dead_letter_is_read_edited_and_answered(stream: Stream, run: Commands) -> None:
    """What a worker refuses can be listed, shown, redriven as it is or with another text, and is parked in the end."""
    odd = [("tag", b"a"), ("tag", b"b"), ("deadline", b"99999999999999")]
    sent = stream.send(
        [
            {"key": b"empty", "value": sentence(1, text=" "), "headers": odd},
            {"key": b"model", "value": sentence(2, model="gpt-9")},
            {"key": b"garbage", "value": b"\x02\x03garbage"},
            {"key": b"good", "value": sentence(3)},
        ]
    )
    empty, model = (next(each for each in sent if each.key == key) for key in (b"empty", b"model"))
    worker = stream.start().ready()
    stream.finish()
    worker.stop()

    listed = run("dead-letters", "list", "--format", "jsonl")
    assert listed.code == 0
    found = {line["key"]: line for line in listed.lines}
    assert {key: line["dead_letter"]["reason"] for key, line in found.items()} == {
        "empty": "invalid-field",
        "model": "unknown-model",
        "garbage": "bad-bytes",
    }
    assert found["model"]["record"]["text"] == "Sentence 2."
    assert "3 dead letters: " in listed.err
    for option, value in (("--reason", "bad-bytes"), ("--stage", "decode"), ("--key", "garbage")):
        assert [line["key"] for line in run("dead-letters", "list", option, value, "--format", "jsonl").lines] == [
            "garbage"
        ]
    assert not run("dead-letters", "list", "--to", "2020-01-01").out

    place = f"{found['empty']['partition']}@{found['empty']['offset']}"
    shown = run("dead-letters", "show", place)
    assert shown.code == 0
    assert f"  kafka_dlt-original-offset: {empty.offset}\n" in shown.out
    assert "  tag: a\n  tag: b\n" in shown.out

    dry = run("dead-letters", "redrive", place, "--set-text", "A text.", "--json")
    assert (dry.code, dry.json["selected"], dry.json["executed"]) == (0, 1, None)
    assert not stream.read(stream.settings.topic_replay)
    assert run("dead-letters", "redrive", "--set-text", "A text.", "--execute").code == 1
    assert run("dead-letters", "redrive", place, "--set-text", " ", "--execute").code == 1
    for _ in range(2):
        assert run("dead-letters", "redrive", place, "--set-text", "A text.", "--execute").code == 0
    (again,) = stream.read(stream.settings.topic_replay)
    assert again.key == b"empty"
    assert [header for header in again.headers if not header[0].startswith("source-")] == [
        ("tag", b"a"),
        ("tag", b"b"),
        ("redrive-attempts", b"1"),
    ]

    replayer = stream.start(lanes="replay").ready()
    wait_until(lambda: len(stream.embeddings()) == 2, "the edited record is embedded")
    record, embedding = next(each for each in stream.embeddings() if each[1].text == "A text.")
    assert (record.key, embedding.sentence_id) == (b"empty", "s-1")
    assert embedding.source == Source(empty.topic, empty.partition, empty.offset, empty.timestamp)

    for attempt in (1, 2, 3):
        more = run("dead-letters", "redrive", "--reason", "unknown-model", "--execute", "--json")
        assert more.json["executed"]["moved"] == 1
        wait_until(lambda attempt=attempt: len(stream.dead_letters()) == 3 + attempt, "it has failed again")
    last = run("dead-letters", "redrive", "--reason", "unknown-model", "--execute", "--json")
    assert (last.code, len(last.json["left"]["parked"])) == (0, 1)
    assert last.json["executed"]["moved"] == 0
    found_again = [dict(each.headers) for each in stream.dead_letters() if each.key == b"model"]
    assert sorted(each.get("redrive-attempts", b"") for each in found_again) == [b"", b"1", b"2", b"3"]
    assert {each.get("source-offset") for each in found_again} == {None, b"%d" % model.offset}
    replayer.stop()


def test_nothing_is_redriven_twice_however_often_it_is_killed(stream: Stream, run: Commands) -> None:
    """After several SIGKILLs, and then a whole run, each dead letter was redriven exactly once."""
    values = letters(stream, 2_500)
    command = ("dead-letters", "redrive", "--execute", "--json", "--rate")
    dice = random.Random(4)
    killed_midway = 0
    for _ in range(3):
        process = run.begin(*command, 800)
        before = len(stream.read(stream.settings.topic_replay))
        wait_until(
            lambda before=before: len(stream.read(stream.settings.topic_replay)) > before or process.poll() is not None,  # noqa: B023
            "it sends something",
        )
        time.sleep(dice.uniform(0, 0.2))
        process.kill()
        outcome(process)
        killed_midway += 0 < len(stream.read(stream.settings.topic_replay)) < len(values)
    assert killed_midway == 3
    last = run(*command, 100_000)
    assert (last.code, last.json["executed"]["left"]) == (0, {})
    sent = Counter(record.value for record in stream.read(stream.settings.topic_replay))
    assert sent == Counter(values)
    assert run(*command, 1).json["executed"] is None


def test_a_run_that_was_overtaken_sends_nothing_more(stream: Stream, run: Commands) -> None:
    """A run that was frozen while another did its work ends with an error and repeats nothing."""
    values = letters(stream, 2_000)
    frozen = run.begin("dead-letters", "redrive", "--execute", "--rate", "1000")
    wait_until(lambda: bool(stream.read(stream.settings.topic_replay)), "it sends something")
    frozen.send_signal(signal.SIGSTOP)
    assert run("dead-letters", "redrive", "--execute", "--rate", "100000").code == 0
    frozen.send_signal(signal.SIGCONT)
    ended = outcome(frozen)
    assert (ended.code, "another run of the same selection" in ended.err) == (1, True)
    assert Counter(record.value for record in stream.read(stream.settings.topic_replay)) == Counter(values)
