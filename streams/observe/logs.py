"""JSON logs with structlog; texts appear in them only as far as a setting allows."""

import hashlib
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import orjson
import structlog

from streams.settings import LogText, Settings

#: Libraries whose every step is not news; their warnings are.
CHATTY = ("aiokafka", "faust", "mode", "httpx", "httpx2", "sentence_transformers", "transformers", "urllib3")


def configure(settings: Settings) -> None:
    """Sends all logs, ours and the libraries', to standard error: one JSON object or one coloured line each."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(_json)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _json(line: dict[str, Any], default: Callable[[Any], Any]) -> str:
    try:
        return orjson.dumps(line, default, orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # half a surrogate, or a number beyond 64 bits: a line is never lost for that
        return json.dumps(line, default=default)


def text_fields(text: str, policy: LogText) -> dict[str, str]:
    """Returns the log fields that may describe a text: none, its hash, or the text."""
    if policy is LogText.FULL:
        return {"text": text}
    if policy is LogText.HASH:
        return {"text_sha256": hashlib.sha256(text.encode()).hexdigest()[:16]}
    return {}
