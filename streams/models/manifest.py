"""What a trained version is: its base model, its data, how it was trained, what it achieved, what it looked like then.

The manifest lies in the artifact as `manifest.json` and is a part of its digest. So it holds no times, hosts or paths:
the same data, parameters and seed give the same bytes. schemas/manifest.schema.json is the published form.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.errors import StreamsError

#: The manifest's name in an artifact.
MANIFEST = "manifest.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class BadManifest(StreamsError):
    """A manifest that does not say what the schema asks for; the message names the fields."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(_Part):
    """The embedder that a head was trained on: it gives scores for no other's vectors."""

    name: str = Field(min_length=1)
    revision: str
    digest: str = Field(description="sha256 of its weights, as on every embedding.")
    precision: str
    dimensions: int = Field(ge=1)


class TrainingData(_Part):
    """What a head was trained on."""

    digest: Sha256 = Field(description="sha256 of the rows in their canonical form.")
    place: str | None = Field(None, description="Address in the artifact store, data/SHA256; null: not kept.")
    rows: int = Field(ge=1)
    labels: dict[str, Count] = Field({}, description="Rows of each label; empty for a regression.")


class Histogram(_Part):
    """How often values fell into each bin. The outer bins are open, so every later value has one."""

    edges: tuple[Finite, ...] = Field(description="Inner edges, ascending: bin i holds edge[i-1] <= value < edge[i].")
    counts: tuple[Count, ...] = Field(description="One count a bin: one more than edges.")

    @model_validator(mode="after")
    def _fits(self) -> "Histogram":
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError("expected one count more than edges")
        if any(left >= right for left, right in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("expected ascending edges")
        return self


class Baseline(_Part):
    """What the training data looked like to the trained head; drift is measured against it."""

    scores: dict[str, Histogram] = Field(description="Label, or the scorer's one value -> histogram of its scores.")
    projections: tuple[Histogram, ...] = Field(
        (), description="Vectors along each row of the tensor `projections` (k, dimensions) in head.safetensors."
    )
    shares: dict[str, Finite] = Field({}, description="Label -> share of sentences it is the best label of.")
    tokens: Histogram | None = Field(None, description="Tokens of a sentence.")
    truncated: Finite = Field(0.0, ge=0, le=1, description="Share of sentences that were cut.")


class Manifest(_Part):
    """One version of a trained scorer."""

    format: Literal[1] = 1
    head: Literal["logistic", "ridge"]
    labels: tuple[str, ...] = Field(description="In the order of the head's rows; one name for a regression.")
    base: Base
    data: TrainingData
    parameters: dict[str, Any] = Field(description="What training was told, as JSON.")
    seed: int
    libraries: dict[str, str] = Field(description="Library -> version.")
    code: str = Field(description="Version of sentence-streams that trained it.")
    metrics: dict[str, Finite] = Field(description="Cross-validated, such as accuracy, macro_f1, log_loss, ece, r2.")
    baseline: Baseline

    def to_bytes(self) -> bytes:
        """The canonical form: JSON with sorted keys, the same bytes for the same content."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def read(cls, content: bytes) -> "Manifest":
        """Reads `to_bytes`. Raises BadManifest."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise BadManifest("; ".join(_said(item) for item in error.errors(include_url=False))) from None


def json_schema() -> dict[str, Any]:
    """The published schema (JSON Schema 2020-12); schemas/manifest.schema.json holds it."""
    schema = Manifest.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _said(item: Any) -> str:
    return f"manifest: {'.'.join(str(part) for part in item['loc']) or 'all'}: {item['msg']}"
