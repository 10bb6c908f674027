"""FastAPI with nothing behind it: the same body is checked, and a vector that is already there is answered."""

import sys
from typing import Annotated, Any

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

VECTOR = np.full(384, 384**-0.5, np.float32)

app = FastAPI()


class Question(BaseModel):
    """As the bridge's, as far as the benchmark asks."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    model: str | None = None


@app.post("/v1/embeddings")
async def embeddings(question: Question) -> Response:
    """Answers one constant vector in OpenAI's shape."""
    texts = [question.input] if isinstance(question.input, str) else question.input
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": n, "embedding": VECTOR, "truncated": False} for n in range(len(texts))
    ]
    body = {"object": "list", "data": data, "model": "none", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.get("/health/ready")
async def ready() -> bool:
    """It listens."""
    return True


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning", backlog=4096)
