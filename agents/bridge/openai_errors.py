"""OpenAI's shape of an error, as a member of our problems: their clients read it, and show its message."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Paths that OpenAI's clients know.
PATHS = ("/v1/embeddings", "/v1/models", "/v1/files", "/v1/batches")

#: For the OpenAPI document.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": f"The same in OpenAI's shape, on {', '.join(PATHS)}.",
    "required": ["message", "type", "param", "code"],
    "properties": {
        "message": {"type": "string"},
        "type": {"type": "string", "examples": ["invalid_request_error"]},
        "param": {"type": ["string", "null"], "description": "The first wrong field, as in input.3."},
        "code": {"type": "string", "examples": ["model_not_found"]},
    },
}


def member(status: int, slug: str, detail: str, errors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the `error` of a problem; its code is why the first field is wrong, where somebody said so."""
    first = errors[0] if errors else {}
    field = first.get("field", "")
    return {
        "message": detail,
        "type": _type(status),
        "param": field.strip("/").replace("/", ".") or None,
        "code": first.get("reason", slug),
    }


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
