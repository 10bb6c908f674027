"""The whole stream on the embedded broker, as `sentence-streams dev` runs it: it works on every machine."""

from pathlib import Path

from streams.brokers.embedded import EmbeddedBroker
from tests.support.stream import Stream, encoded


def test_sentences_come_out_as_embeddings_and_scores(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    """200 sentences and a record of rubbish: an embedding and a score each, one dead letter, both leave cleanly."""
    with Stream(embedded_broker.bootstrap_servers, tmp_path) as stream:
        stream.send({"value": encoded(number), "key": str(number % 7).encode()} for number in range(200))
        stream.send([{"value": b"rubbish"}])
        worker, scorer = stream.start("worker"), stream.start("score")
        worker.ready()
        scorer.ready()
        stream.finish()
        stream.finish_scores()
        expected = sorted(f"s-{number}" for number in range(200))
        assert sorted(embedding.sentence_id for _, embedding in stream.embeddings()) == expected
        assert sorted(score.sentence_id for _, score in stream.scores()) == expected
        assert [letter.value for letter in stream.dead_letters()] == [b"rubbish"]
        worker.stop()
        scorer.stop()
