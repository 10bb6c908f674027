"""The demonstration of `dev`: sentences in through `produce`, and a readable account of what came out."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from schemas.codec import Codec
from schemas.packing import values
from schemas.records import Embedding, Score
from streams.settings import Settings

#: Rows of the table that is shown.
SHOWN = 12
#: Seconds without any result after which the demonstration stops waiting.
PATIENCE = 60.0


@dataclass(slots=True)
class Results:
    """What came out so far, by sentence id; `seconds` from produced to published, one an embedding."""

    embeddings: dict[str, Embedding] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    dead_letters: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Sentences that have all their results, or a dead letter."""
        return min(len(self.embeddings), len(self.scores)) + self.dead_letters


async def run(
    settings: Settings, servers: str, environment: Mapping[str, str], sentences: Path, console: Console
) -> int:
    """Streams the file through and prints what came out; returns 0, or 1 if anything is missing."""
    started = time.monotonic()
    total = sum(1 for line in sentences.read_text(encoding="utf-8").splitlines() if line.strip())
    console.print(f"\nStreaming {total} sentences of {sentences.name} through `sentence-streams produce` ...")
    produce = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agents.cli", "produce", str(sentences), "--json",
        env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    results = Results()
    reading = asyncio.create_task(asyncio.to_thread(_collect, settings, servers, total, results, console))
    report = json.loads((await produce.communicate())[0])
    await reading
    seconds = time.monotonic() - started
    Console().print(_table(results))
    Console().print(_summary(report, results, seconds), highlight=False)
    missing = report["sent"] - results.answered
    if missing or report["failed"]:
        console.print(f"[red]{missing} sentences have no result, {report['failed']} were not produced")
    return 1 if missing or report["failed"] else 0


def _collect(settings: Settings, servers: str, total: int, results: Results, console: Console) -> None:
    """Reads the result topics until every sentence is answered, or nothing has come for a while."""
    codec = Codec()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), console=console, transient=True,
    ) as progress:  # fmt: skip
        bar = progress.add_task("embedded and scored", total=total, rate="")
        started = told = time.monotonic()
        for message in _messages(settings, servers):
            _note(settings, codec, message, results)
            now = time.monotonic()
            rate = results.answered / (now - started)
            progress.update(bar, completed=results.answered, rate=f"{rate:.0f} sentences/s")
            if not console.is_terminal and now - told > 5:
                told = now
                left = (total - results.answered) / rate if rate else 0
                console.print(f"  {results.answered} of {total}, {rate:.0f} sentences/s, {left:.0f} s left")
            if results.answered >= total:
                return


def _messages(settings: Settings, servers: str) -> Iterator[Message]:
    """Yields every message of the result topics from their beginning; ends when none came for PATIENCE seconds."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "sentence-streams-demo", "enable.auto.commit": False}
    )
    try:
        names = (settings.topic_embeddings, settings.topic_scores, settings.topic_dead_letters)
        found = {name: consumer.list_topics(name, timeout=10).topics[name].partitions for name in names}
        consumer.assign([TopicPartition(name, n, OFFSET_BEGINNING) for name, ns in found.items() for n in ns])
        last = time.monotonic()
        while time.monotonic() - last < PATIENCE:
            for message in consumer.consume(500, timeout=0.2):
                if message.error() is None:
                    last = time.monotonic()
                    yield message
    finally:
        consumer.close()


def _note(settings: Settings, codec: Codec, message: Message, results: Results) -> None:
    value = message.value()
    if message.topic() == settings.topic_dead_letters:
        results.dead_letters += 1
    elif message.topic() == settings.topic_embeddings and value is not None:
        embedding = codec.decode(Embedding, value)
        results.embeddings[embedding.sentence_id] = embedding
        results.seconds.append((message.timestamp()[1] - embedding.source.timestamp) / 1000)
    elif value is not None:
        score = codec.decode(Score, value)
        results.scores[score.sentence_id] = score


def _table(results: Results) -> Table:
    """A few results in a table: sentence, label, score, and the sentence whose vector is nearest."""
    table = Table(title="What came out (a few of them)", expand=True)
    for column, options in {
        "sentence": {"ratio": 1}, "label": {"min_width": 8}, "score": {"justify": "right"},
        "nearest neighbour": {"ratio": 1}, "cosine": {"justify": "right"},
    }.items():  # fmt: skip
        table.add_column(column, no_wrap=True, overflow="ellipsis", **options)  # type: ignore[arg-type]
    embeddings = list(results.embeddings.values())
    if len(embeddings) < 2:
        return table
    matrix = np.stack([values(embedding) for embedding in embeddings])
    for row in range(0, len(embeddings), -(-len(embeddings) // SHOWN)):
        cosines = matrix @ matrix[row]
        cosines[row] = -1
        nearest = int(cosines.argmax())
        score = results.scores.get(embeddings[row].sentence_id)
        table.add_row(
            _line(embeddings[row].text), score.label if score else "-", f"{score.score:.2f}" if score else "-",
            _line(embeddings[nearest].text), f"{cosines[nearest]:.2f}",
        )  # fmt: skip
    return table


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("[", r"\[")


def _summary(report: Mapping[str, Any], results: Results, seconds: float) -> str:
    waits = np.percentile(results.seconds, (50, 99)) if results.seconds else (0.0, 0.0)
    return (
        f"in {report['sent']}   out {len(results.embeddings)} embeddings, {len(results.scores)} scores, "
        f"{results.dead_letters} dead letters   {report['sent'] / seconds:.0f} sentences/s\n"
        f"from produced to published, the whole file at once: p50 {waits[0]:.1f} s, p99 {waits[1]:.1f} s"
    )
