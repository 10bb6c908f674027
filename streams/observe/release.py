"""Which release this is, for those who collect traces and errors."""

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Returns the version of the installed product; `unknown` in a checkout that is not installed."""
    try:
        return version("sentence-streams")
    except PackageNotFoundError:
        return "unknown"
