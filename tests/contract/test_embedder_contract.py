"""What every embedder promises, real and fake alike."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streams.embedding.embedder import Embedder
from streams.embedding.loader import DEFAULT_MODEL, ModelNotFound, load
from streams.embedding.onnx_backend import load_onnx
from tests.support.models import kept, prepared_default

TEXTS = [
    "Yes.",
    "The tide was out, and the boats lay on their sides in the mud.",
    "Where did you leave the key?",
    "He had always supposed that the house would be sold when the old man died. " * 4,
]
ODD = [
    "",
    " \t\n",
    "\x00\x07",
    "e\u0301 \u00e9",
    "\u202eabc",
    "🙂" * 50,
    "日本語のテキスト",
    "a" * 5_000,
    "\ufffd\ufeff",
]


def on_torch(_: pytest.Config) -> Embedder:
    return load(DEFAULT_MODEL)


def on_onnx(config: pytest.Config) -> Embedder:
    return load_onnx(prepared_default(kept(config), "float32"))


def on_openvino(config: pytest.Config) -> Embedder:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    from streams.embedding.openvino_backend import load_openvino

    return load_openvino(prepared_default(kept(config), "float32"))


def in_8_bits(config: pytest.Config) -> Embedder:
    return load_onnx(prepared_default(kept(config), "int8"))


def without_model(_: pytest.Config) -> Embedder:
    return load("deterministic")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(on_torch, marks=pytest.mark.model, id="torch"),
        pytest.param(on_onnx, marks=pytest.mark.model, id="onnx"),
        pytest.param(on_openvino, marks=pytest.mark.model, id="openvino"),
        pytest.param(in_8_bits, marks=pytest.mark.model, id="int8"),
        pytest.param(without_model, id="deterministic"),
    ],
)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    """Each embedder in turn."""
    try:
        found: Embedder = request.param(request.config)
    except ModelNotFound as error:
        pytest.skip(f"the default model is not here: {error}")
    return found


def vectors(embedder: Embedder, texts: list[str]) -> np.ndarray:
    return embedder.embed(embedder.tokenise(texts))


def test_rows_are_unit_vectors_of_the_models_size(embedder: Embedder) -> None:
    """A batch gives one float32 row of length 1 a text, as wide as the identity says."""
    rows = vectors(embedder, TEXTS)

    assert rows.shape == (len(TEXTS), embedder.identity.dimensions)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


def test_rows_keep_the_order_of_the_batch(embedder: Embedder) -> None:
    """Turning a batch round turns its rows round, whatever sorting or padding happens inside."""
    assert vectors(embedder, TEXTS[::-1])[::-1] == pytest.approx(vectors(embedder, TEXTS), abs=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(embedder: Embedder) -> None:
    """A text alone and in a batch of mixed lengths has the same vector."""
    together = vectors(embedder, TEXTS)

    for row, text in zip(together, TEXTS, strict=True):
        assert float(row @ vectors(embedder, [text])[0]) >= 0.99999


def test_equal_texts_have_equal_tokens_and_vectors(embedder: Embedder) -> None:
    """Equal texts can be recognised by their tokens and embedded once."""
    first, other, again = embedder.tokenise([TEXTS[1], TEXTS[2], TEXTS[1]])

    assert first == again
    assert len({first, other, again}) == 2
    rows = embedder.embed([first, other, again])
    assert rows[0] == pytest.approx(rows[2], abs=1e-6)
    assert float(rows[0] @ rows[1]) < 0.9


def test_a_text_is_truncated_exactly_beyond_the_limit(embedder: Embedder) -> None:
    """A text that fills the model to the last token is whole; one word more and it is cut and flagged."""
    limit = embedder.identity.max_tokens
    special = len(embedder.tokenise(["word"])[0]) - 1
    full = " ".join(["word"] * (limit - special))

    below, exact, over, far = embedder.tokenise([full.removesuffix(" word"), full, full + " word", full * 100])

    assert [len(tokens) for tokens in (below, exact, over, far)] == [limit - 1, limit, limit, limit]
    assert [tokens.truncated for tokens in (below, exact, over, far)] == [False, False, True, True]
    assert exact.ids == over.ids


def test_an_empty_batch_is_an_empty_array(embedder: Embedder) -> None:
    """No texts give no tokens and no rows, of the right width all the same."""
    assert embedder.tokenise([]) == []
    assert embedder.embed([]).shape == (0, embedder.identity.dimensions)


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_texts_have_finite_vectors(embedder: Embedder, text: str) -> None:
    """Control characters, lone accents, direction marks, emoji and nothing at all are texts too."""
    [row] = vectors(embedder, [text])

    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_tokenising_is_safe_from_many_threads(embedder: Embedder) -> None:
    """Threads that tokenise at once get what one thread gets."""
    expected = embedder.tokenise(TEXTS)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: embedder.tokenise(TEXTS), range(20)))

    assert all(result == expected for result in results)


def test_the_identity_is_complete(embedder: Embedder) -> None:
    """What goes on every result is there: names, a sha256 digest, sizes, and a useful number of threads."""
    identity = embedder.identity

    assert identity.name
    assert identity.revision
    assert len(bytes.fromhex(identity.digest)) == 32
    assert identity.precision in {"float32", "int8"}
    assert identity.dimensions > 0
    assert identity.max_tokens > 0
    assert embedder.concurrency >= 1
