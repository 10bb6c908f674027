"""The judgement of a comparison between two revisions."""

from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.figures import Figure


@pytest.mark.parametrize(
    ("medians", "worse"),
    [((1.0, 1.0), False), ((0.96, 1.3), False), ((1.2, 0.94), True)],
    ids=["the same", "within noise", "one is worse"],
)
def test_one_figure_beyond_noise_is_a_regression(medians: tuple[float, ...], worse: bool) -> None:
    """What got better does not make up for what got worse."""
    assert compare.regressed([Figure("a figure", "x", [median], "") for median in medians]) is worse


def test_the_other_revision_has_a_work_tree_of_its_own(tmp_path: Path) -> None:
    """It holds the code of that revision while it is measured, and leaves nothing behind."""
    with compare.checked_out("HEAD", tmp_path) as tree:
        assert (tree / "streams" / "pipeline.py").is_file()
    assert not tree.exists()
