"""A sequence-classification model of transformers: texts, or pairs of texts, in; a row of numbers out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.embedding import weights
from streams.embedding.embedder import ModelError
from streams.embedding.loader import find

Logits = NDArray[np.float32]

#: Tokens of a batch, padding included.
BUDGET = 4096
_LONGEST = 1_000_000  # a tokenizer without a limit reports a number far above this


class Checkpoint:
    """A loaded model. Blocking; any number of threads may call it."""

    def __init__(self, model: str, revision: str | None = None, budget: int = BUDGET) -> None:
        """Loads a model by name and revision, or from a folder: safetensors only, none of its own code.

        Raises ModelError.
        """
        found = find(model, revision, "config.json")
        self.name, self.revision = found.name, found.revision
        #: sha256 of everything that decides what it gives.
        self.digest = _fingerprint(found.folder)
        self._budget = budget
        self._tokenizer, self._model = _loaded(found.folder)
        self.labels = tuple(str(self._model.config.id2label[n]) for n in range(self._model.config.num_labels))
        #: What transformers trained it as, as in `multi_label_classification`; None where it does not say.
        self.problem: str | None = self._model.config.problem_type
        self._longest = _longest(self._tokenizer, self._model)

    def logits(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> Logits:
        """A row for each text, or pair of a text and a second one, in order: shape (n, labels).

        What is too long loses its end; of a pair, the second text does. Raises MemoryError.
        """
        if not texts:
            return np.empty((0, len(self.labels)), np.float32)
        cut = "only_second" if seconds is not None else True
        pairs = {"text_pair": list(seconds)} if seconds is not None else {}
        read = self._tokenizer(list(texts), **pairs, truncation=cut, max_length=self._longest)
        lengths = np.array([len(ids) for ids in read["input_ids"]])
        rows = np.empty((len(texts), len(self.labels)), np.float32)
        for batch in _batches(lengths, self._budget):
            rows[batch] = self._run({name: [values[n] for n in batch] for name, values in read.items()})
        return rows

    def _run(self, batch: dict[str, Any]) -> Logits:
        import torch

        padded = self._tokenizer.pad(batch, return_tensors="pt").to(self._model.device)
        try:
            with torch.inference_mode():
                found: Logits = self._model(**padded).logits.float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"no memory for a batch of {len(batch['input_ids'])} texts") from error
        return found


def _batches(lengths: NDArray[np.int64], budget: int) -> Iterator[list[int]]:
    """Rows of similar length together, as many as the budget has room for with their padding."""
    batch: list[int] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        if batch and lengths[row] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _fingerprint(folder: Path) -> str:
    if not weights.safetensors(folder):
        raise ModelError(f"{folder}: no model.safetensors in it")
    return weights.fingerprint(folder)


def _loaded(folder: Path) -> tuple[Any, Any]:
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise ModelError("classifiers need torch and transformers: install sentence-transformers and torch") from None
    logging.disable_progress_bar()
    safe = {"trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        model, told = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype="float32", **safe
        )
    except Exception as error:  # a folder can be wrong in as many ways as the library has layers
        raise ModelError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}") from error
    if told["missing_keys"]:  # transformers would make them up, at random
        raise ModelError(f"{folder}: is no classifier: its weights lack {', '.join(sorted(told['missing_keys']))}")
    return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _longest(tokenizer: Any, model: Any) -> int:
    """How many tokens it reads; a tokenizer may not say, and a model with relative positions has no limit."""
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    known = [limit for limit in limits if limit is not None and 0 < limit <= _LONGEST]
    if not known:
        raise ModelError(f"{model.config.model_type}: neither model nor tokenizer says how many tokens it reads")
    return int(min(known))
