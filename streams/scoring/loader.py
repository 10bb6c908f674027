"""Scorers from a TOML or YAML file: each table is a scorer, each of its labels a list of example sentences.

In TOML (see `agents/samples/labels.toml`):

    [similarity.labels]
    nature = ["The river ran high after the rain.", "Larks rose from the field."]
    travel = ["We sailed at dawn."]

    [similarity.fallback]               # what answers when the scorer makes no sense; default: fallback = "prior"
    rules = [{match = "(?i)river", label = "nature"}]
    otherwise = "travel"

    [moderation]                        # a model of transformers that classifies texts, by name or folder
    classifier = "KoalaAI/Text-Moderation"
    revision = "main"
    multi_label = false                 # default: as the model's configuration says

    [rerank]                            # a model that says how relevant a text is to a query
    cross_encoder = "/models/reranker"

The same tables and lists in YAML mean the same.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import StreamsError
from streams.embedding.embedder import Embedder
from streams.scoring.guard import Fallback, Rule
from streams.scoring.scorer import Scorer
from streams.scoring.similarity import SimilarityScorer

#: A scorer's name becomes part of record keys.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


#: What makes a scorer -> what else its table may say, besides its fallback.
_KINDS: dict[str, dict[str, type]] = {
    "labels": {},
    "classifier": {"revision": str, "multi_label": bool},
    "cross_encoder": {"revision": str},
}


class ScorerFileError(StreamsError):
    """The file of scorers is wrong; the message names file and key, in one line."""


def load_scorers(path: Path, embedder: Embedder) -> dict[str, Scorer]:
    """Scorers by name, their examples embedded with `embedder`. Raises ScorerFileError, or ModelError."""
    return {name: _scorer(path, name, table, embedder) for name, table in _scorers(path).items()}


def _scorer(path: Path, name: str, table: dict[str, Any], embedder: Embedder) -> Scorer:
    if "labels" in table:
        return SimilarityScorer(name, _labels(path, name, table), embedder)
    from streams.scoring.checkpoint import Checkpoint  # torch is only imported where a model needs it
    from streams.scoring.classifier import ClassifierScorer, CrossEncoderScorer

    if "classifier" in table:
        return ClassifierScorer(name, Checkpoint(table["classifier"], table.get("revision")), table.get("multi_label"))
    return CrossEncoderScorer(name, Checkpoint(table["cross_encoder"], table.get("revision")))


def read_labels(path: Path) -> dict[str, dict[str, list[str]]]:
    """Example sentences by scorer and label, of those that have some; needs no model. Raises ScorerFileError."""
    return {name: _labels(path, name, table) for name, table in _scorers(path).items() if "labels" in table}


def read_fallbacks(path: Path) -> dict[str, Fallback]:
    """What answers in place of each scorer. Raises ScorerFileError."""
    return {name: _fallback(path, f"{name}.fallback", table) for name, table in _scorers(path).items()}


def _scorers(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of the scorers, by name."""
    found = {}
    for name, value in _table(path, "the file", _parse(path)).items():
        if not NAME.fullmatch(name):
            raise ScorerFileError(f"{path}: {name!r}: a scorer's name is letters, digits and . _ -, at most 64")
        found[name] = _table(path, name, value)
        _check(path, name, found[name])
    return found


def _check(path: Path, name: str, table: dict[str, Any]) -> None:
    kinds = [kind for kind in _KINDS if kind in table]
    if len(kinds) > 1:
        raise ScorerFileError(f"{path}: {name}: expected one of {', '.join(_KINDS)}, got {' and '.join(kinds)}")
    kind = kinds[0] if kinds else "labels"
    _only(path, name, table, (kind, *_KINDS[kind], "fallback"))
    for key in _KINDS[kind].keys() & table.keys():
        if not isinstance(table[key], _KINDS[kind][key]):
            raise ScorerFileError(
                f"{path}: {name}.{key}: expected {_KINDS[kind][key].__name__}, got {table[key]!r:.60}"
            )
    if kind != "labels" and not isinstance(table[kind], str):
        raise ScorerFileError(f"{path}: {name}.{kind}: expected a model's name or folder, got {table[kind]!r:.60}")


def _only(path: Path, key: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in table:
        if name not in known:
            raise ScorerFileError(f"{path}: {key}.{name}: unknown key, expected {' or '.join(known)}")


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix in {".yaml", ".yml"}:
            return yaml.safe_load(text)
    except OSError as error:
        raise ScorerFileError(f"{path}: cannot read it: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ScorerFileError(f"{path}: {' '.join(str(error).split())}") from None
    raise ScorerFileError(f"{path}: expected a file that ends in .toml, .yaml or .yml")


def _labels(path: Path, name: str, table: dict[str, Any]) -> dict[str, list[str]]:
    labels = _table(path, f"{name}.labels", table.get("labels"))
    return {label: _sentences(path, f"{name}.labels.{label}", value) for label, value in labels.items()}


def _fallback(path: Path, key: str, table: dict[str, Any]) -> Fallback:
    value = table.get("fallback", "prior")
    if value in ("prior", "previous"):
        return Fallback(value)
    if not isinstance(value, dict):
        raise ScorerFileError(f"{path}: {key}: expected prior, previous, or a table of rules, got {value!r:.60}")
    _only(path, key, value, ("rules", "otherwise"))
    rules, otherwise = value.get("rules", []), value.get("otherwise", "unknown")
    if not isinstance(rules, list) or not isinstance(otherwise, str):
        raise ScorerFileError(f"{path}: {key}: expected rules as a list, and otherwise as text")
    return Fallback("rule", tuple(_rule(path, f"{key}.rules", rule) for rule in rules), otherwise)


def _rule(path: Path, key: str, value: Any) -> Rule:
    if not isinstance(value, dict) or value.keys() != {"match", "label"} or not isinstance(value["label"], str):
        raise ScorerFileError(f"{path}: {key}: expected tables with match and label, got {value!r:.60}")
    try:
        return Rule(re.compile(value["match"]), value["label"])
    except (re.error, TypeError) as error:
        raise ScorerFileError(f"{path}: {key}: match is no regular expression: {error}") from None


def _sentences(path: Path, key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ScorerFileError(f"{path}: {key}: expected a list of example sentences, got {value!r:.60}")
    for number, sentence in enumerate(value, start=1):
        if not isinstance(sentence, str) or not sentence.strip():
            raise ScorerFileError(f"{path}: {key}: example {number}: not a sentence: {sentence!r:.60}")
    return value


def _table(path: Path, key: str, value: Any) -> dict[str, Any]:
    """A non-empty table whose keys are text (YAML has other keys too)."""
    if not isinstance(value, dict) or not value:
        raise ScorerFileError(f"{path}: {key}: expected a table with something in it, got {value!r:.60}")
    for inner in value:
        if not isinstance(inner, str):
            raise ScorerFileError(f"{path}: {key}: {inner!r} is not text; put it in quotes")
    return value
