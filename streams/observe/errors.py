"""Errors sent to Sentry, where a setting names a project; texts are never among them unless logs may hold them."""

from typing import Any

from streams.observe.release import release
from streams.settings import Settings, SettingsError


def report_errors(settings: Settings) -> None:
    """Sends log lines of level error, and exceptions that end the process, from now on; raises SettingsError."""
    if settings.sentry_dsn is None:
        return
    try:
        import sentry_sdk
    except ImportError:
        raise SettingsError(
            "STREAMS_SENTRY_DSN: expected the Sentry package, too: pip install 'sentence-streams[telemetry]'"
        ) from None
    try:
        sentry_sdk.init(
            dsn=settings.sentry_dsn.get_secret_value(),
            release=f"sentence-streams@{release()}",
            before_send=_named,
            include_local_variables=False,  # the variables of a failing function are sentences and vectors
            max_request_body_size="never",
            auto_enabling_integrations=False,
        )
    except sentry_sdk.utils.BadDsn:
        raise SettingsError("STREAMS_SENTRY_DSN: expected a project's DSN, https://KEY@HOST/PROJECT") from None


def _named(event: Any, hint: dict[str, Any]) -> Any:
    """Names an event of ours as its log line is named, so that the same error is one issue; the rest goes beside it."""
    fields = getattr(hint.get("log_record"), "msg", None)
    if isinstance(fields, dict):
        event["logentry"] = {"message": str(fields.get("event"))}
        event["extra"] = {name: value for name, value in fields.items() if name != "event"}
    return event
