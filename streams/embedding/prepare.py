"""Prepares models for onnxruntime: exported once, on request in 8 bits, and kept only if they pass their gate."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from streams.embedding import golden, loader, prepared, quality, tuning, weights
from streams.embedding.embedder import Identity, ModelError
from streams.embedding.onnx_backend import OnnxEmbedder, load_onnx, open_session
from streams.embedding.prepared import GRAPH, TOKENIZER, Manifest, Prepared
from streams.embedding.processors import processors
from streams.embedding.quality import Quality
from streams.embedding.tokeniser import Padding, pad

if TYPE_CHECKING:
    from streams.embedding.quantise import Batch

#: Least cosine between a sentence's vector by the exported graph and by the model's own library.
EXACT = 0.99999
_CALIBRATION = 200  # sentences
_COMPARED = 150  # an exported graph is right or wrong; no need to ask many
_TUNING = 100
_TOOLS = ("torch", "transformers", "sentence-transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Sentences:
    """What a model is prepared with, besides itself."""

    #: Show how large activations get.
    calibration: Sequence[str]
    #: Measure the quality; none of them is in `calibration`.
    held_out: Sequence[str]

    @classmethod
    def split(cls, texts: Sequence[str]) -> "Sentences":
        """Every fifth text is held out, always the same ones; calibration gets some of the others."""
        distinct = list(dict.fromkeys(text for text in texts if text.strip()))
        rest = [text for number, text in enumerate(distinct) if number % 5 != 4]
        return cls(rest[:: max(1, len(rest) // _CALIBRATION)], distinct[4::5])


@dataclass(frozen=True, slots=True)
class Workshop:
    """Prepares models into the folder `models`; `tell` hears what is being done."""

    models: Path
    sentences: Sentences
    tell: Callable[[str], None] = lambda _: None

    def prepare(self, model: str, revision: str | None, precision: str) -> Prepared:
        """Prepares a model, or finds that it is prepared; then this machine's best token budget is known, too.

        int8 is made from the prepared float32, which is prepared first where it is missing. Raises ModelError.
        """
        if model == loader.DETERMINISTIC:
            raise ModelError(f"{model}: there is nothing to prepare, it has no model")
        source = weights.fingerprint(loader.find(model, revision).folder)
        there = prepared.by_source(self.models, source, precision)
        if there is not None:
            return self._tuned(there)
        if precision == "float32":
            return self._exported(model, revision, source)
        return self._quantised(self.prepare(model, revision, "float32"))

    def _exported(self, model: str, revision: str | None, source: str) -> Prepared:
        self.tell("loading the model")
        original = loader.load(model, revision, "torch")
        from streams.embedding.export import export  # it needs what loading has just proved to be there

        held_out = self.sentences.held_out[:_COMPARED]
        exact = quality.alone(original, held_out)
        with prepared.workplace(self.models) as folder:
            self.tell("exporting it")
            padding = export(original, folder / GRAPH, folder / TOKENIZER)
            self.tell("comparing its vectors")
            embedder = _opened(folder, original.identity, padding)
            found = quality.measure(embedder, held_out, exact)
            if not found.min_cosine >= EXACT:
                raise ModelError(
                    f"{model}: this kind of model cannot be exported, only served by torch: cosine "
                    f"{found.min_cosine:.6f} between a vector of the graph and the model's own, not {EXACT}"
                )
            return self._published(folder, embedder, _Origin(source, revision, padding), found)

    def _quantised(self, exact: Prepared) -> Prepared:
        from streams.embedding.quantise import quantise

        float32 = load_onnx(exact)
        identity = replace(float32.identity, precision="int8")
        origin = _Origin(exact.manifest.source, exact.manifest.asked, exact.manifest.padding)
        with prepared.workplace(self.models) as folder:
            self.tell("putting its layers in 8 bits")
            quantise(exact.folder / GRAPH, folder / GRAPH, _samples(float32, self.sentences.calibration))
            shutil.copyfile(exact.folder / TOKENIZER, folder / TOKENIZER)
            self.tell("measuring its quality")
            embedder = _opened(folder, identity, origin.padding)
            reference = quality.alone(float32, self.sentences.held_out)
            found = quality.measure(embedder, self.sentences.held_out, reference)
            found.check()
            return self._published(folder, embedder, origin, found)

    def _published(self, folder: Path, embedder: OnnxEmbedder, origin: "_Origin", found: Quality) -> Prepared:
        manifest = Manifest(
            identity=embedder.identity,
            asked=origin.asked,
            source=origin.source,
            padding=origin.padding,
            quality=found,
            golden=golden.packed(golden.vectors(embedder)),
            budget=None,
            tools=_versions(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            files=prepared.digests(folder),
        )
        return self._tuned(prepared.publish(self.models, folder, manifest))

    def _tuned(self, there: Prepared) -> Prepared:
        """The prepared model, after measuring the best token budget where it was not measured on this processor."""
        budget, embedder = there.manifest.budget, load_onnx(there)
        if budget is not None and budget.processor == tuning.processor():
            return there
        self.tell("measuring token budgets")
        texts = self.sentences.held_out[:_TUNING]
        there = prepared.amended(there, budget=(budget := tuning.measured(embedder, texts)))
        if there.manifest.identity.precision != "float32" or not loader.has_openvino():
            return there
        from streams.embedding.openvino_backend import load_openvino

        self.tell("measuring backends")
        found = tuning.fastest({"onnx": load_onnx(there), "openvino": load_openvino(there)}, texts, "onnx")
        return prepared.amended(there, budget=replace(budget, backend=found))


@dataclass(frozen=True, slots=True)
class _Origin:
    source: str
    asked: str | None
    padding: Padding


def _opened(folder: Path, identity: Identity, padding: Padding) -> OnnxEmbedder:
    session = open_session(str(folder / GRAPH))
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    return OnnxEmbedder(session, tokenizer, identity, padding, threads=processors())


def _samples(embedder: OnnxEmbedder, texts: Sequence[str]) -> Iterator["Batch"]:
    """Each text as a batch of its own, so that no padding is in it."""
    for tokens in embedder.tokenise(texts):
        yield pad([tokens], Padding())


def _versions() -> dict[str, str]:
    found = {}
    for tool in _TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found
