"""A sentence-transformers model on torch: on the processor, or on a CUDA device when there is one."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import cpu_count
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Encoding, Tokenizer
from transformers.utils import logging as transformers_logging

from streams.embedding.embedder import Identity, ModelError, Tokens, Vectors

#: Texts whose tokens must match the library's own: upper case, accents, several scripts, odd spaces.
_PROBES = ("A Probe, LOUD and  spaced\tout.", "Größe naïve ﬁn", "日本語 и по-русски 🙂")
#: What a model may be fed besides its ids and mask; anything else is a kind of model not served here.
_KNOWN_FEATURES = {"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length"}
_HEAD = 64  # characters a token, far more than any language takes
_LONGEST = 1_000_000  # a tokenizer without a limit reports a number far above this


def load_torch(folder: Path, *, name: str, revision: str, digest: str, threads: int = 0) -> "TorchEmbedder":
    """Load a model's folder: safetensors only, none of its own code, no network. Raises ModelError.

    `threads`: how many of the processor's to use, 0 for all that this process may use.
    """
    transformers_logging.disable_progress_bar()  # standard error is for our logs
    try:
        model = SentenceTransformer(
            str(folder),
            device="cuda" if torch.cuda.is_available() else "cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
        return TorchEmbedder(model, name=name, revision=revision, digest=digest, threads=threads or cpu_count())
    except Exception as error:  # a folder can be wrong in as many ways as the library has layers
        raise ModelError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}") from error


class TorchEmbedder:
    """Embedder over a SentenceTransformer, in float32.

    Its own modules pool and normalise; only tokenising and padding are done here, so that a text is
    tokenised once, off the loop, and a batch is padded to its own longest text. On the processor torch gets one thread
    and callers bring theirs: several small batches side by side beat one batch on several threads (1.9 against 1.7
    times `encode` on two cores), and much more so where another process wants a core, too.
    """

    #: Two AVX2 cores: larger batches fall out of the caches, smaller ones pay the start of a batch too often.
    token_budget = 512

    def __init__(self, model: Any, *, name: str, revision: str, digest: str, threads: int = 1) -> None:
        """Take over a loaded SentenceTransformer. Raises ModelError if its kind of input is not served."""
        self._model = model.float().eval()
        self.concurrency = 1
        if model.device.type == "cpu":
            self.concurrency = threads
            torch.set_num_threads(1)
        self._prompt = model.prompts.get(model.default_prompt_name) or ""
        self._limit = _longest(model)
        self._tokenizer = _own_tokenizer(model, self._limit)
        self._pad_id = model.tokenizer.pad_token_id or 0
        self._pad_left = model.tokenizer.padding_side == "left"
        self._constant = self._checked_features()
        self.identity = Identity(
            name=name,
            revision=revision,
            digest=digest,
            precision="float32",
            prompt=self._prompt,
            pooling="+".join(_describe(module) for module in list(model)[1:]),
            dimensions=self._forward(self.tokenise(_PROBES)).shape[1],
            max_tokens=self._limit,
        )

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of each text, in order; the work is outside Python's lock.

        A document is read only as far as it matters: its head first, all of it if the head was not enough.
        """
        head = _HEAD * self._limit
        found = self._encode([text[:head] for text in texts])
        for row, text in enumerate(texts):
            if len(text) > head and not found[row].truncated:
                found[row] = self._encode([text])[0]
        return found

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        """Unit vectors, shape (len(batch), dimensions). Raises MemoryError if the batch is too large."""
        if not batch:
            return np.empty((0, self.identity.dimensions), np.float32)
        try:
            return self._forward(batch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise MemoryError(f"no memory for a batch of {len(batch)} texts") from error

    def _encode(self, texts: list[str]) -> list[Tokens]:
        prompted = [self._prompt + text for text in texts] if self._prompt else texts
        return [_tokens(encoding, self._limit) for encoding in self._tokenizer.encode_batch_fast(prompted)]

    def _forward(self, batch: Sequence[Tokens]) -> Vectors:
        with torch.inference_mode():
            rows = self._model(self._features(batch))["sentence_embedding"]
            # A model without a normalising module of its own gets one here; for others this changes nothing.
            vectors: Vectors = torch.nn.functional.normalize(rows.float(), dim=1).cpu().numpy()
        return vectors

    def _features(self, batch: Sequence[Tokens]) -> dict[str, Any]:
        """The batch as the model takes it: ids and mask, shape (rows, longest), int64."""
        ids, mask = _pad(batch, self._pad_id, left=self._pad_left)
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if "token_type_ids" in self._model.tokenizer.model_input_names:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        return {key: value.to(self._model.device) for key, value in features.items()} | self._constant

    def _checked_features(self) -> dict[str, Any]:
        """What the library feeds its model besides tensors, after checking that our tokens equal its own."""
        for text, tokens in zip(_PROBES, self.tokenise(_PROBES), strict=True):
            theirs = self._model.preprocess([text], prompt=self._prompt or None)
            unknown = theirs.keys() - _KNOWN_FEATURES
            if unknown:
                raise ModelError(f"this kind of model is not served: it also reads {sorted(unknown)}")
            if tuple(theirs["input_ids"][0].tolist()) != tokens.ids:
                raise ModelError(f"this kind of model is not served: it splits {text!r} in its own way")
        return {key: value for key, value in theirs.items() if not isinstance(value, torch.Tensor)}


def _longest(model: Any) -> int:
    """How many tokens the model reads, special tokens included."""
    limit = model.max_seq_length
    if limit is None or not 0 < limit <= _LONGEST:
        raise ModelError(f"this model does not say how many tokens it reads (max_seq_length is {limit})")
    return int(limit)


def _own_tokenizer(model: Any, limit: int) -> Tokenizer:
    """A copy of the model's fast tokenizer, without padding, cutting at `limit` tokens."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError("this kind of model is not served: it has no fast tokenizer (tokenizer.json)")
    tokenizer: Tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit, direction=model.tokenizer.truncation_side)
    return tokenizer


def _tokens(encoding: Encoding, limit: int) -> Tokens:
    ids = tuple(encoding.ids)
    # Asking for what was cut off copies it, so only a text of full length is asked.
    return Tokens(ids, truncated=len(ids) == limit and bool(encoding.overflowing))


def _pad(batch: Sequence[Tokens], pad_id: int, *, left: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids padded to the longest text of the batch, and the mask of what is real."""
    lengths = np.fromiter(map(len, batch), np.int64, len(batch))
    mask = np.arange(max(lengths.max(), 1)) < lengths[:, None]
    mask = mask[:, ::-1] if left else mask
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(tokens.ids for tokens in batch), np.int64, lengths.sum())
    return ids, mask.astype(np.int64)


def _describe(module: Any) -> str:
    """A module's part in the pooling, for the identity: `mean`, `normalize`, `dense`."""
    mode = getattr(module, "pooling_mode", None) or type(module).__name__.lower()
    return mode if isinstance(mode, str) else ",".join(mode)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On the processor torch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
