"""Files of labels: what is read, and the one line an author sees when something is wrong."""

from pathlib import Path

import pytest

from streams.scoring.guard import Fallback
from streams.scoring.loader import ScorerFileError, load_scorers, read_fallbacks, read_labels
from streams.testing import DeterministicEmbedder

SAMPLE = Path(__file__).parents[4] / "agents/samples/labels.toml"


def test_toml_and_yaml_mean_the_same(tmp_path: Path) -> None:
    """The same labels in either format give the same scorer, down to its version."""
    (tmp_path / "a.toml").write_text('[mood.labels]\ngood = ["Yes.", "Fine."]\nbad = ["No."]\n')
    (tmp_path / "b.yaml").write_text("mood:\n  labels:\n    good: ['Yes.', Fine.]\n    bad:\n      - 'No.'\n")

    toml, yaml = (load_scorers(tmp_path / name, DeterministicEmbedder()) for name in ("a.toml", "b.yaml"))

    assert list(toml) == list(yaml) == ["mood"]
    assert toml["mood"].version == yaml["mood"].version
    assert (toml["mood"].needs, toml["mood"].model) == ("vector", DeterministicEmbedder.identity.digest)


def test_a_file_may_hold_several_scorers(tmp_path: Path) -> None:
    """Every table is a scorer of its own."""
    path = tmp_path / "labels.toml"
    path.write_text('[mood.labels]\ngood = ["Yes."]\n[topic.labels]\nsea = ["A ship."]\nland = ["A hill."]\n')

    assert read_labels(path) == {"mood": {"good": ["Yes."]}, "topic": {"sea": ["A ship."], "land": ["A hill."]}}


def test_the_sample_works_and_its_examples_get_their_own_label() -> None:
    """The labels that ship are well formed: every label has several examples, none of them twice."""
    labels = read_labels(SAMPLE)["similarity"]
    examples = [sentence for sentences in labels.values() for sentence in sentences]

    assert min(map(len, labels.values())) >= 3
    assert len(examples) == len(set(examples))
    load_scorers(SAMPLE, DeterministicEmbedder())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "[mood.labels\n", "a.toml: "),
        ("a.yaml", "mood: [", "a.yaml: "),
        ("a.yaml", "mood: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a.toml", "", "the file: expected a table"),
        ("a.yaml", "- a\n- b\n", "the file: expected a table"),
        ("a.toml", "mood = 3\n", "mood: expected a table with something in it, got 3"),
        ("a.toml", "[mood]\n", "mood: expected a table with something in it, got {}"),
        ("a.toml", '[mood]\nlabls = {good = ["Yes."]}\n', r"mood\.labls: unknown key, expected labels or fallback"),
        ("a.toml", "[mood.labels]\n", r"mood\.labels: expected a table with something in it"),
        ("a.toml", "[mood.labels]\ngood = []\n", r"mood\.labels\.good: expected a list of example sentences"),
        ("a.toml", '[mood.labels]\ngood = "Yes."\n', r"mood\.labels\.good: expected a list of example sentences"),
        ("a.toml", '[mood.labels]\ngood = ["Yes.", 3]\n', r"mood\.labels\.good: example 2: not a sentence: 3"),
        ("a.toml", '[mood.labels]\ngood = ["  "]\n', r"mood\.labels\.good: example 1: not a sentence"),
        ("a.yaml", "mood: {labels: {yes: ['Yes.']}}\n", r"mood\.labels: True is not text; put it in quotes"),
        ("a.toml", '["a b".labels]\ngood = ["Yes."]\n', "'a b': a scorer's name is letters"),
        ("a.json", "{}", "expected a file that ends in .toml, .yaml or .yml"),
    ],
)
def test_a_malformed_file_is_one_line_that_names_the_key(tmp_path: Path, name: str, content: str, message: str) -> None:
    """Whatever is wrong, the author reads file, key and what was expected, on one line."""
    path = tmp_path / name
    path.write_text(content)

    with pytest.raises(ScorerFileError, match=message) as caught:
        read_labels(path)

    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A path that cannot be read says so."""
    with pytest.raises(ScorerFileError, match="cannot read it: No such file"):
        read_labels(tmp_path / "nowhere.toml")


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    """A file in another encoding than UTF-8 is a malformed file."""
    path = tmp_path / "labels.toml"
    path.write_bytes('[mood.labels]\n"größe" = ["Yes."]\n'.encode("latin-1"))

    with pytest.raises(ScorerFileError, match="utf-8"):
        read_labels(path)


def test_each_scorer_says_what_answers_in_its_place(tmp_path: Path) -> None:
    """The prior where it says nothing; the version before; or rules, in their order."""
    path = tmp_path / "labels.toml"
    labels = '\nlabels.good = ["Yes."]\n'
    path.write_text(
        f"[a]{labels}[b]{labels}fallback = 'previous'\n"
        f"[c]{labels}[c.fallback]\nrules = [{{match = '(?i)no', label = 'bad'}}]\notherwise = 'good'\n"
    )
    found = read_fallbacks(path)
    assert (found["a"], found["b"]) == (Fallback("prior"), Fallback("previous"))
    [rule] = found["c"].rules
    assert (found["c"].kind, rule.match.pattern, rule.label, found["c"].otherwise) == ("rule", "(?i)no", "bad", "good")


@pytest.mark.parametrize(
    ("fallback", "message"),
    [
        ("'guess'", r"mood\.fallback: expected prior, previous, or a table of rules, got 'guess'"),
        ("{rule = []}", r"mood\.fallback\.rule: unknown key, expected rules or otherwise"),
        ("{rules = 'x'}", r"mood\.fallback: expected rules as a list"),
        ("{rules = [{match = 'x'}]}", r"mood\.fallback\.rules: expected tables with match and label"),
        ("{rules = [{match = '(', label = 'x'}]}", r"match is no regular expression"),
    ],
)
def test_a_fallback_that_is_none_is_named(fallback: str, message: str, tmp_path: Path) -> None:
    """As the file is read, not when the scorer first fails."""
    path = tmp_path / "labels.toml"
    path.write_text(f'[mood]\nlabels.good = ["Yes."]\nfallback = {fallback}\n')
    with pytest.raises(ScorerFileError, match=message):
        read_fallbacks(path)
