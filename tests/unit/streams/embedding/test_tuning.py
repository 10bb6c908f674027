"""The token budget of a machine."""

import time
from collections.abc import Sequence

import pytest

from streams.embedding import tuning
from streams.embedding.embedder import Tokens, Vectors
from streams.embedding.tuning import USUAL, Budget
from streams.testing import DeterministicEmbedder


def test_batches_keep_within_the_budget_and_lose_nobody() -> None:
    """Rows times the longest row never exceeds the budget; a text longer than that is a batch of its own."""
    tokens = [Tokens(tuple(range(length))) for length in (300, 100, 90, 60, 60, 5, 5)]

    made = list(tuning.batches(tokens, 200))

    assert [[len(text) for text in batch] for batch in made] == [[300], [100, 90], [60, 60, 5], [5]]
    assert list(tuning.batches([], 200)) == []


def test_every_candidate_is_measured() -> None:
    """What is remembered has the processor, the choice, and the figures that it rests on."""
    found = tuning.measured(DeterministicEmbedder(), ["one two three", "four five", "six"] * 20)

    assert found.processor == tuning.processor()
    assert found.tokens in found.rates
    assert set(found.rates) == {128, 256, 512, 1024}
    assert all(rate > 0 for rate in found.rates.values())


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({128: 1000, USUAL: 1000, 512: 1049}, USUAL),
        ({128: 1000, USUAL: 1000, 512: 1051}, 512),
        ({128: 1300, USUAL: 1000, 512: 1200}, 128),
        ({128: 500, USUAL: 1000, 512: 500}, USUAL),
    ],
    ids=["within noise", "clearly faster", "the fastest", "the usual"],
)
def test_noise_does_not_choose(rates: dict[int, int], chosen: int) -> None:
    """Another budget than the usual one must be faster by more than five percent."""
    assert tuning._chosen(rates) == chosen


def test_a_budget_counts_on_its_own_processor_only() -> None:
    """What was measured on another machine, or nowhere, is the usual budget here."""
    here, elsewhere = tuning.processor(), "another processor"

    assert tuning.budget(Budget(here, 1024, {})) == 1024
    assert tuning.budget(Budget(elsewhere, 1024, {})) == USUAL
    assert tuning.budget(None) == USUAL


class _Slow(DeterministicEmbedder):
    """Takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._pause = seconds

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        time.sleep(self._pause)
        return super().embed(batch)


def test_the_fastest_backend_is_chosen_where_it_is_clearly_faster() -> None:
    """A backend that takes half the time replaces the usual one; one that takes more does not."""
    quick, slow = _Slow(0.001), _Slow(0.02)

    assert tuning.fastest({"onnx": slow, "openvino": quick}, ["one two"], "onnx") == "openvino"
    assert tuning.fastest({"onnx": quick, "openvino": slow}, ["one two"], "onnx") == "onnx"


def test_a_backend_counts_on_its_own_processor_only() -> None:
    """What was fastest on another machine says nothing here."""
    assert tuning.backend(Budget(tuning.processor(), 256, {}, "openvino")) == "openvino"
    assert tuning.backend(Budget("another processor", 256, {}, "openvino")) == "onnx"
    assert tuning.backend(None) == "onnx"
