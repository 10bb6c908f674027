"""Fields that several requests and answers have."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

#: Most texts of a request: what OpenAI takes, and so its clients expect.
MAX_ITEMS = 2048

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_ITEMS)]
ModelName = Annotated[
    str | None, Field(description="Name or alias of a model, as /v1/models tells it; null: the default.")
]
Dimensions = Annotated[
    int | None,
    Field(ge=1, le=65_536, description="Leading dimensions to keep, rescaled to unit length; null: all."),
]
OverflowName = Annotated[
    Literal["truncate", "reject", "chunk"],
    Field(
        description="What to do with texts that have more tokens than the model reads; chunk: the mean of its windows."
    ),
]
EncodingName = Annotated[
    Literal["float32", "int8", "binary"], Field(description="How the record of the result holds the vector.")
]
Truncated = Annotated[bool, Field(description="Whether the text was longer than the model reads, and lost its end.")]
Revision = Annotated[str, Field(description="Revision of the model; another one may make other vectors.")]


class Question(BaseModel):
    """What every body has in common: a field of another name or type is an error, not a surprise."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Usage(BaseModel):
    """How much there was to read."""

    prompt_tokens: int = Field(description="Tokens that the model reads of all texts.")
    total_tokens: int = Field(description="The same.")
