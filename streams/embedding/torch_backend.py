"""A sentence-transformers model on torch: on the processor, or on a CUDA device when there is one."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from streams.embedding import golden, quality
from streams.embedding.embedder import Identity, ModelError, Tokens, Vectors
from streams.embedding.processors import processors
from streams.embedding.tokeniser import Padding, Tokeniser, pad

#: Texts whose tokens must match the library's own: upper case, accents, several scripts, odd spaces.
_PROBES = ("A Probe, LOUD and  spaced\tout.", "Größe naïve ﬁn", "日本語 и по-русски 🙂")
#: What a model may be fed besides its ids and mask; anything else is a kind of model not served here.
_KNOWN_FEATURES = {"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length"}
_LONGEST = 1_000_000  # a tokenizer without a limit reports a number far above this
#: Two AVX2 cores: larger batches fall out of the caches, smaller ones pay the start of a batch too often.
_BUDGET = 512
#: A device with thousands of arithmetic units idles on small batches; two of these fit the smallest in use.
_CUDA_BUDGET = 16_384


def load_torch(
    folder: Path, *, name: str, revision: str, digest: str, threads: int = 0, precision: str = "float32"
) -> "TorchEmbedder":
    """Load a model's folder: safetensors only, none of its own code, no network. Raises ModelError.

    `threads`: how many of the processor's to use, 0 for all that this process may use. `precision`: float32, or on a
    CUDA device float16.
    """
    transformers_logging.disable_progress_bar()  # standard error is for our logs
    if precision == "float16" and not torch.cuda.is_available():
        raise ModelError("model precision float16: needs a CUDA device, and there is none here")
    try:
        model = SentenceTransformer(
            str(folder),
            device="cuda" if torch.cuda.is_available() else "cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
        embedder = TorchEmbedder(model, name=name, revision=revision, digest=digest, threads=threads or processors())
        return embedder.halved() if precision == "float16" else embedder
    except Exception as error:  # a folder can be wrong in as many ways as the library has layers
        raise ModelError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}") from error


class Rows(torch.nn.Module):
    """A SentenceTransformer as one function of tensors: ids and mask, shape (rows, longest), give unit vectors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        #: What the library feeds its model besides tensors.
        self.constant: dict[str, Any] = {}
        self._types = "token_type_ids" in model.tokenizer.model_input_names

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        features = {"input_ids": ids, "attention_mask": mask, **self.constant}
        if self._types:
            features["token_type_ids"] = torch.zeros_like(ids)
        rows: torch.Tensor = self.model(features)["sentence_embedding"]
        # A model without a normalising module of its own gets one here; for others this changes nothing.
        return torch.nn.functional.normalize(rows.float(), dim=1)


class TorchEmbedder:
    """Embedder over a SentenceTransformer, in float32.

    Its own modules pool and normalise; only tokenising and padding are done here, so that a text is
    tokenised once, off the loop, and a batch is padded to its own longest text. On the processor torch gets one thread
    and callers bring theirs: several small batches side by side beat one batch on several threads (1.9 against 1.7
    times `encode` on two cores), and much more so where another process wants a core, too. On a CUDA device two
    callers have a stream each: while one batch is computed, the next is padded and copied.
    """

    def __init__(self, model: Any, *, name: str, revision: str, digest: str, threads: int = 1) -> None:
        """Take over a loaded SentenceTransformer. Raises ModelError if its kind of input is not served."""
        self._model = model.float().eval()
        self._device = model.device
        self._streams = threading.local()
        if self._cuda:
            self.concurrency, self.token_budget = 2, _CUDA_BUDGET
        else:
            self.concurrency, self.token_budget = threads, _BUDGET
            torch.set_num_threads(1)
        prompt = model.prompts.get(model.default_prompt_name) or ""
        limit = _longest(model)
        #: The tokenizer as this embedder uses it, and what pads a batch: for whoever prepares the model for others.
        self.tokenizer = _own_tokenizer(model, limit)
        self.padding = Padding(model.tokenizer.pad_token_id or 0, left=model.tokenizer.padding_side == "left")
        self.tokenise = Tokeniser(self.tokenizer, prompt=prompt, limit=limit)
        #: The model itself, from ids and mask to unit vectors.
        self.rows = Rows(self._model)
        self.rows.constant = self._checked_features(prompt)
        self.identity = Identity(
            name=name,
            revision=revision,
            digest=digest,
            precision="float32",
            prompt=prompt,
            pooling="+".join(_describe(module) for module in list(model)[1:]),
            dimensions=self._forward(self.tokenise(_PROBES)).shape[1],
            max_tokens=limit,
        )

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

    def halved(self) -> "TorchEmbedder":
        """The same embedder in float16, which replaces this one. Raises ModelError where its quality is too low."""
        sentences = golden.sentences()
        exact = self.embed(self.tokenise(sentences))
        self._model.half()
        if self._cuda:
            torch.cuda.synchronize(self._device)  # else another stream could read weights that are half written
        self.identity = replace(self.identity, precision="float16")
        quality.measure(self, sentences, exact).check()
        return self

    @property
    def _cuda(self) -> bool:
        return bool(self._device.type == "cuda")

    def _forward(self, batch: Sequence[Tokens]) -> Vectors:
        with torch.inference_mode(), self._stream():
            ids, mask = (self._sent(array) for array in pad(batch, self.padding))
            vectors: Vectors = self.rows(ids, mask).cpu().numpy()  # waits for this stream only
        return vectors

    def _sent(self, array: Any) -> torch.Tensor:
        """The array on the model's device; to a CUDA device it is copied while the processor goes on."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._cuda else tensor

    def _stream(self) -> AbstractContextManager[Any]:
        """On a CUDA device the calling thread's own stream."""
        if not self._cuda:
            return nullcontext()
        if not hasattr(self._streams, "own"):
            self._streams.own = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._streams.own.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self._streams.own)

    def _checked_features(self, prompt: str) -> dict[str, Any]:
        """What the library feeds its model besides tensors, after checking that our tokens equal its own."""
        for text, tokens in zip(_PROBES, self.tokenise(_PROBES), strict=True):
            theirs = self._model.preprocess([text], prompt=prompt or None)
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


def _describe(module: Any) -> str:
    """A module's part in the pooling, for the identity: `mean`, `normalize`, `dense`."""
    mode = getattr(module, "pooling_mode", None) or type(module).__name__.lower()
    return mode if isinstance(mode, str) else ",".join(mode)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On the processor torch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
