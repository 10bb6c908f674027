"""The command line against brokers: the embedded one, and a real Kafka."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, Producer, TopicPartition

from agents import cli
from schemas.codec import Codec
from schemas.dead_letters import dead_letter_headers
from schemas.errors import BadBytes
from schemas.records import Embedding, Score, Sentence, Source
from streams import settings
from streams.brokers.admin import TopicSpec, describe, provision
from streams.brokers.embedded import EmbeddedBroker
from tests.support.kafka import HasBrokers, unique

SOURCE = Source("sentence.requests", 3, 17, 1_700_000_000_000)
TOPICS = tuple(name.removeprefix("topic_") for name in settings.TOPICS)


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sentence-streams", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, *capsys.readouterr())

    return run


@dataclass(frozen=True)
class Stage:
    """A broker whose topics nobody else uses, as the settings name them."""

    servers: str
    topics: dict[str, str]

    def publish(self, topic: str, *values: bytes | None, **more: Any) -> None:
        """Puts values on one of TOPICS, all on partition 0."""
        errors: list[Any] = []
        producer = Producer({"bootstrap.servers": self.servers, "log_level": 0})
        for value in values:
            arguments = {"key": b"k", "partition": 0, "on_delivery": lambda error, _: errors.append(error)} | more
            producer.produce(self.topics[topic], value, **arguments)
        assert producer.flush(10) == 0
        assert set(errors) == {None}


def staged(servers: str, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Returns a stage with fresh names, and puts it in the settings."""
    stage = Stage(servers, {name: unique(name.replace("_", "-")) for name in TOPICS})
    monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", servers)
    monkeypatch.setenv("STREAMS_PARTITIONS", "4")
    for name, topic in stage.topics.items():
        monkeypatch.setenv(f"STREAMS_TOPIC_{name.upper()}", topic)
    return stage


@pytest.fixture(params=["embedded_broker", pytest.param("kafka", marks=pytest.mark.kafka)])
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Fresh topics on either kind of broker."""
    broker: HasBrokers = request.getfixturevalue(request.param)
    stage = staged(broker.bootstrap_servers, monkeypatch)
    provision(stage.servers, [TopicSpec(name, 4) for name in stage.topics.values()])
    return stage


@pytest.fixture
def real(kafka: HasBrokers, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Fresh names on a real broker, where no topic is made yet."""
    return staged(kafka.bootstrap_servers, monkeypatch)


def written(folder: Path, name: str, content: str) -> Path:
    """Returns a file with this content."""
    file = folder / name
    file.write_text(content, encoding="utf-8")
    return file


def embedding(number: int) -> Embedding:
    """Returns one of any number of embeddings."""
    return Embedding(
        id=f"e{number}",
        sentence_id=f"s{number}",
        text=f"Sentence {number}.",
        model="small",
        revision="r1",
        weights_digest="abc",
        dimensions=3,
        token_count=4,
        truncated=False,
        precision="float32",
        source=SOURCE,
        embedded_at=1_700_000_000_001,
        vector=np.array([0.5, 0.25, number], np.float32),
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


class TestProduce:
    def test_every_sentence_arrives_with_a_receipt(self, stage: Stage, run: Run, tmp_path: Path) -> None:
        """A text file goes in whole; sent again, it has the same ids, so results are updates."""
        lines = [f" sentence {n}\twith white space " for n in range(500)]
        file = written(tmp_path, "a.txt", "\n".join(lines[:250]) + "\n\n" + "\n".join(lines[250:]))
        done = run("produce", file, "--json")
        assert done.code == 0
        report = done.json
        assert (report["sent"], report["receipts"], report["failed"], report["blank"]) == (500, 500, 0, 1)
        assert run("produce", file).code == 0
        found = run("consume", "requests", "--format", "jsonl").lines
        assert len(found) == 1000
        assert {row["record"]["text"] for row in found} == set(lines)
        assert len({row["record"]["id"] for row in found}) == 500
        assert {row["key"] for row in found} == {None}
        assert {row["partition"] for row in found} == {0, 1, 2, 3}

    def test_lane_defaults_and_keys(self, stage: Stage, run: Run, tmp_path: Path) -> None:
        """Options fill in what rows leave out; a keyed sentence goes to the partition any Java client would choose."""
        file = written(tmp_path, "a.jsonl", '{"text": "one", "id": "a"}\n{"text": "two", "id": "b", "key": "k"}\n')
        options = ["--lane", "interactive", "--key-by", "id", "--model", "m", "--dimensions", 8]
        assert run("produce", file, *options, "--scorers", "x, y", "--overflow", "reject").code == 0
        found = run("consume", "interactive", "--format", "jsonl").lines
        assert {row["key"]: row["record"]["id"] for row in found} == {"a": "a", "k": "b"}
        for row in found:
            assert row["partition"] == (murmur2(row["key"].encode()) & 0x7FFFFFFF) % 4
            asked = {name: row["record"][name] for name in ("model", "dimensions", "scorers", "overflow")}
            assert asked == {"model": "m", "dimensions": 8, "scorers": ["x", "y"], "overflow": "reject"}

    def test_malformed_lines_are_named_and_the_others_sent(self, stage: Stage, run: Run, tmp_path: Path) -> None:
        """A bad row costs exit code 3 and a line that names it; its neighbours have receipts."""
        file = written(tmp_path, "a.csv", "text,dimensions\ngood,1\nbad,many\n,1\nalso good,2\n")
        done = run("produce", file)
        assert done.code == 3
        assert done.out == ""
        first, second, summary = done.err.splitlines()
        assert first.startswith("line 3: dimensions: ")
        assert second.startswith("line 4: text: ")
        assert "2 sentences sent, 2 receipts" in summary
        assert "2 malformed lines" in summary

    def test_a_file_without_texts_is_wrong_usage(self, stage: Stage, run: Run, tmp_path: Path) -> None:
        """A CSV that names no text column is refused with exit code 2."""
        done = run("produce", written(tmp_path, "a.csv", "sentence\nhello\n"))
        assert done.code == 2
        assert "one of them text" in done.err

    def test_a_refused_sentence_is_named(
        self, stage: Stage, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A sentence without a receipt is told by line, id and reason, counts as failed, and the exit code is 3."""
        monkeypatch.setenv("STREAMS_MAX_REQUEST_BYTES", "10000")
        done = run("produce", written(tmp_path, "a.txt", f"short\n{'x' * 9_999}\nshort too\n"), "--json")
        assert done.code == 3
        assert (done.json["sent"], done.json["receipts"], done.json["failed"]) == (3, 2, 1)
        (failure,) = done.json["failures"]
        assert failure["line"] == 2
        assert f"line 2, id {failure['id']}: no receipt: " in done.err

    def test_limit_and_rate(self, stage: Stage, run: Run, tmp_path: Path) -> None:
        """No more sentences are sent than asked for, and no faster."""
        started = time.monotonic()
        done = run("produce", written(tmp_path, "a.txt", "hello\n" * 50), "--limit", 20, "--rate", 40, "--json")
        assert done.json["receipts"] == 20
        assert time.monotonic() - started >= 19 / 40

    def test_standard_input(self, stage: Stage) -> None:
        """Text comes from stdin where no file is named, and with -."""
        for arguments in ([], ["-"]):
            done = program("produce", "--json", *arguments, stdin="one\ntwo\n")
            assert (done.code, done.json["receipts"]) == (0, 2)

    def test_interrupted_it_still_waits_for_receipts(self, stage: Stage, tmp_path: Path) -> None:
        """Ctrl-C stops the reading; what was handed over is waited for and reported, with exit code 130."""
        file = written(tmp_path, "a.txt", "hello\n" * 100_000)
        process = started("produce", str(file), "--rate", "200", "--json")
        await_records(stage.servers, stage.topics["requests"])
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130
        report = json.loads(out)
        assert report["interrupted"]
        assert 0 < report["sent"] == report["receipts"] < 100_000
        assert "interrupted" in err

    def test_a_broker_that_goes_away_ends_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When receipts no longer come, it stops after the timeout with exit code 1 and says how far it got."""
        file = written(tmp_path, "a.txt", "hello\n" * 100_000)
        with EmbeddedBroker() as broker:
            monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", broker.bootstrap_servers)
            process = started("produce", str(file), "--rate", "500", "--timeout", "2", "--json")
            await_records(broker.bootstrap_servers, "sentence.requests")
        out, err = process.communicate(timeout=30)
        assert process.returncode == 1
        report = json.loads(out)
        assert 0 < report["receipts"] < report["sent"] < 100_000
        assert report["failed"] == report["sent"] - report["receipts"]
        assert len(report["failures"]) <= 20
        assert "stopped: the broker did not answer within 2 s" in err

    def test_a_missing_topic_is_one_line(self, real: Stage, run: Run, tmp_path: Path) -> None:
        """Where the broker makes no topics, it says what does, and exits 1."""
        done = run("produce", written(tmp_path, "a.txt", "hello\n"))
        assert done.code == 1
        (line,) = done.err.splitlines()
        assert real.topics["requests"] in line
        assert "sentence-streams provision" in line


class TestConsume:
    def test_results_as_text_json_and_csv(self, stage: Stage, run: Run) -> None:
        """Each kind of result is readable in each format; vectors only where asked for."""
        codec = Codec()
        stage.publish("embeddings", codec.encode(embedding(1), ""), None, key=b"k1")
        stage.publish("scores", codec.encode(SCORE, ""))
        assert run("consume").out.splitlines() == [
            "0@0  s1  3 dimensions  4 tokens  small  Sentence 1.",
            "0@1  k1  deleted",
        ]
        assert run("consume", "scores").out == "0@0  s1  mood  calm  0.750\n"
        first, tombstone = run("consume", "embeddings", "--format", "jsonl", "--vectors").lines
        assert (first["key"], first["record"]["vector"]) == ("k1", [0.5, 0.25, 1.0])
        assert tombstone["record"] is None
        header, row = csv.reader(run("consume", "scores", "--format", "csv").out.splitlines())
        assert dict(zip(header, row, strict=True))["label"] == "calm"

    def test_a_topic_by_its_name(self, stage: Stage, run: Run) -> None:
        """A topic's own name works as well as the short one, and of a strange topic each record is recognised."""
        codec = Codec()
        stage.publish("scores", codec.encode(SCORE, ""))
        assert run("consume", stage.topics["scores"]).out == run("consume", "scores").out
        strange = unique("strange")
        provision(stage.servers, [TopicSpec(strange, 1)])
        values = [codec.encode(record, "") for record in (SCORE, embedding(2), Sentence("s3", "Three."))]
        Stage(stage.servers, {"strange": strange}).publish("strange", *values)
        assert [line.split("  ")[1] for line in run("consume", strange).out.splitlines()] == ["s1", "s2", "s3"]

    def test_what_cannot_be_decoded_is_named(self, stage: Stage, run: Run) -> None:
        """Bytes that are no record are told on stderr by place and reason; the others are printed, exit code 0."""
        stage.publish("embeddings", b"nonsense", Codec().encode(embedding(1), ""), b"")
        done = run("consume", "--format", "jsonl")
        assert done.code == 0
        assert [row["offset"] for row in done.lines] == [1]
        first, second, summary = done.err.splitlines()
        assert first.startswith(f"{stage.topics['embeddings']}/0@0: bad-bytes: ")
        assert second.startswith(f"{stage.topics['embeddings']}/0@2: bad-bytes: ")
        assert summary == "2 records could not be decoded: 2 bad-bytes"

    def test_dead_letters(self, stage: Stage, run: Run) -> None:
        """A dead letter is shown with its reason and first place, and with its text where that decodes."""
        headers = dead_letter_headers(BadBytes("no good"), read_at=SOURCE, timestamp_type=0, group="g", attempts=1)
        value = Codec().encode(Sentence("s1", "Hello."), "")
        stage.publish("dead_letters", b"nonsense", value, None, headers=headers)
        done = run("consume", "dead-letters")
        why = "bad-bytes (decode)  from sentence.requests/3@17  no good"
        assert done.out.splitlines() == [f"0@0  {why}", f"0@1  {why}  s1  Hello.", f"0@2  {why}"]
        assert done.err == ""

    def test_limit_key_and_following(self, stage: Stage, run: Run) -> None:
        """A limit and a key narrow what is printed; following ends by its limit, or by silence."""
        codec = Codec()
        for number in range(20):
            stage.publish("embeddings", codec.encode(embedding(number), ""), key=f"k{number % 2}".encode())
        assert len(run("consume", "--limit", 3).out.splitlines()) == 3
        odd = run("consume", "--key", "k1", "--format", "jsonl").lines
        assert [row["record"]["sentence_id"] for row in odd] == [f"s{n}" for n in range(1, 20, 2)]
        assert len(run("consume", "--follow", "--limit", 20).out.splitlines()) == 20
        silent = run("consume", "--follow", "--timeout", 1)
        assert (silent.code, len(silent.out.splitlines())) == (0, 20)
        short = run("consume", "--follow", "--timeout", 1, "--limit", 21)
        assert short.code == 1
        assert "then nothing came for 1 s" in short.err
        assert run("consume", "--from", "latest").out == ""

    def test_it_stops_at_the_end(self, stage: Stage, run: Run) -> None:
        """An empty topic, and one that was read whole, end at once."""
        started = time.monotonic()
        assert run("consume", "scores") == Outcome(0, "", "")
        assert time.monotonic() - started < 10

    @pytest.mark.parametrize("count", [1, 5_000])
    def test_a_closed_pipe_is_quiet(self, count: int, stage: Stage) -> None:
        """When the reader of its output is gone, it ends without a word, however much it has to print."""
        stage.publish("embeddings", *[Codec().encode(embedding(1), "")] * count)
        process = started("consume", "--format", "jsonl")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.stderr.close()

    def test_following_shows_what_comes_later(self, stage: Stage) -> None:
        """With --follow from the end, a record that comes later is printed as it comes."""
        process = started("consume", "scores", "--from", "latest", "--follow", "--limit", "1")
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            stage.publish("scores", Codec().encode(SCORE, ""))
            time.sleep(0.5)
        out, _ = process.communicate(timeout=5)
        assert process.returncode == 0
        assert "s1  mood  calm  0.750" in out

    def test_times(self, real: Stage, run: Run) -> None:
        """On a real broker reading can start at a time, by epoch milliseconds or ISO 8601."""
        run("provision")
        value = Codec().encode(embedding(1), "")
        for timestamp in (1_700_000_000_000, 1_700_000_060_000):
            real.publish("embeddings", value, timestamp=timestamp)
        for start in ("1700000030000", "2023-11-14T22:13:50Z"):
            assert [row["offset"] for row in run("consume", "--from", start, "--format", "jsonl").lines] == [1]
        assert run("consume", "--from", "2024-01-01").out == ""

    def test_the_embedded_broker_finds_no_times(
        self, embedded_broker: EmbeddedBroker, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On the embedded broker a time is refused, instead of finding nothing."""
        stage = staged(embedded_broker.bootstrap_servers, monkeypatch)
        stage.publish("embeddings", b"x")
        done = run("consume", "--from", "2024-01-01")
        assert done.code == 1
        assert "--from beginning" in done.err

    def test_only_committed_records(self, real: Stage, run: Run) -> None:
        """Records of an aborted transaction are not printed, and its markers do not keep it from ending."""
        run("provision")
        producer = Producer({"bootstrap.servers": real.servers, "transactional.id": unique("t")})
        producer.init_transactions(10)
        for number, finish in ((1, producer.abort_transaction), (2, producer.commit_transaction)):
            producer.begin_transaction()
            producer.produce(real.topics["embeddings"], Codec().encode(embedding(number), ""), b"k", partition=0)
            producer.flush(10)
            finish(10)
        assert [row["record"]["id"] for row in run("consume", "--format", "jsonl").lines] == ["e2"]

    def test_a_missing_topic_is_one_line(self, real: Stage, run: Run) -> None:
        """A topic that is not there is named, with exit code 1."""
        done = run("consume")
        assert (done.code, done.out) == (1, "")
        assert f"topic {real.topics['embeddings']} does not exist" in done.err


class TestProvision:
    def test_idempotent_and_dry(self, real: Stage, run: Run) -> None:
        """A dry run changes nothing; the first run makes all topics, the second none."""
        names = list(real.topics.values())
        dry = run("provision", "--dry-run", "--json")
        assert [item["created"] for item in dry.json] == [True] * len(TOPICS)
        assert set(describe(real.servers, names).values()) == {None}
        assert run("provision", "--json").out == dry.out
        states = describe(real.servers, names)
        partitions = {name: state.partitions for name, state in states.items() if state}
        assert partitions == {name: 1 if name == real.topics["models"] else 4 for name in names}
        assert all(line.endswith("unchanged") for line in run("provision").out.splitlines()[1:])

    def test_grows_and_refuses_to_shrink(self, real: Stage, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """More partitions are added (commands about models are kept in one); fewer are refused in one line with exit
        code 1, also in a dry run.
        """
        assert run("provision").code == 0
        monkeypatch.setenv("STREAMS_PARTITIONS", "6")
        for arguments in (["--dry-run"], []):
            assert run("provision", *arguments).out.count("grown 4->6") == len(TOPICS) - 1
        monkeypatch.setenv("STREAMS_PARTITIONS", "4")
        for arguments in (["--dry-run"], []):
            done = run("provision", *arguments)
            assert (done.code, done.out) == (1, "")
            (line,) = done.err.splitlines()
            assert "6 partitions, wanted 4" in line

    def test_embedded(self, embedded_broker: EmbeddedBroker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """On the embedded broker topics are made, and nothing is compared."""
        staged(embedded_broker.bootstrap_servers, monkeypatch)
        assert run("provision").out.count("created") == len(TOPICS)
        assert run("provision", "--dry-run").out.count("unchanged") == len(TOPICS)


class TestDoctor:
    def test_before_and_after_provisioning(self, real: Stage, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """Missing topics fail with what to do; after doing it nothing fails."""
        monkeypatch.setenv("STREAMS_HEALTH_PORT", "0")
        before = run("doctor", "--no-model")
        assert before.code == 3
        assert before.out.count("-> run `sentence-streams provision`") == len(TOPICS)
        run("provision")
        after = run("doctor", "--no-model", "--json")
        assert after.code == 0
        found = {finding["check"]: finding["status"] for finding in after.json}
        assert {found[f"topic {topic}"] for topic in real.topics.values()} == {"ok"}
        assert found["broker"] == found["registry"] == found["versions"] == "ok"

    def test_without_a_broker(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """A broker that is not there is one failed check; the others are made all the same."""
        monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", "127.0.0.1:1")
        monkeypatch.setattr("agents.doctor.PATIENCE", 0.5)
        done = run("doctor", "--no-model", "--json")
        assert done.code == 3
        failed = [finding for finding in done.json if finding["status"] == "fail"]
        assert [finding["check"] for finding in failed] == ["broker"]
        assert "STREAMS_BOOTSTRAP_SERVERS" in failed[0]["advice"]
        assert done.json[-1]["check"] == "versions"

    @pytest.mark.model
    def test_model(self, embedded_broker: EmbeddedBroker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """The model is loaded, its digest shown, and its vectors compared with the stored ones."""
        staged(embedded_broker.bootstrap_servers, monkeypatch)
        found = {finding["check"]: finding for finding in run("doctor", "--json").json}
        assert found["model"]["status"] == found["vectors"]["status"] == "ok"
        assert "sha256 53aa51172d14" in found["model"]["detail"]
        assert found["vectors"]["detail"] == "as stored"


class TestRegistry:
    def test_schemas_come_from_the_registry(
        self,
        registry_url: str,
        embedded_broker: EmbeddedBroker,
        run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """With a registry, values carry its ids, `consume` reads them, and `doctor` finds the schema compatible."""
        stage = staged(embedded_broker.bootstrap_servers, monkeypatch)
        monkeypatch.setenv("STREAMS_SCHEMA_REGISTRY_URL", registry_url)
        run("provision")
        check = f"schema {stage.topics['requests']}-value"
        before = {finding["check"]: finding for finding in run("doctor", "--no-model", "--json").json}
        assert "not registered yet" in before[check]["detail"]
        assert run("produce", written(tmp_path, "a.txt", "hello\n")).code == 0
        assert [row["record"]["text"] for row in run("consume", "requests", "--format", "jsonl").lines] == ["hello"]
        after = {finding["check"]: finding for finding in run("doctor", "--no-model", "--json").json}
        assert (after[check]["status"], after[check]["detail"]) == ("ok", "version 1 is compatible")
        monkeypatch.delenv("STREAMS_SCHEMA_REGISTRY_URL")
        assert "unknown-schema" in run("consume", "requests").err


def await_records(servers: str, topic: str) -> None:
    """Waits until a topic has some."""
    reader = Consumer({"bootstrap.servers": servers, "group.id": "await-records", "log_level": 0})
    reader.assign([TopicPartition(topic, number, 0) for number in range(4)])
    found = reader.consume(1, timeout=60)
    reader.close()
    assert found, f"nothing came on {topic}"


def started(*arguments: str) -> subprocess.Popen[str]:
    """Starts a command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "agents.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # output waits in buffers, as it does for everybody
    )


def program(*arguments: str, stdin: str) -> Outcome:
    """Runs a command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "agents.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
