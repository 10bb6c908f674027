"""Opens the object store that artifacts and files lie in: a folder, or a bucket of S3, GCS or Azure.

Credentials of a bucket are never settings of ours: the store's own variables and identities are read (AWS_*, GOOGLE_*,
AZURE_*, the instance's or the pod's role), as in every other tool.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from obstore import exceptions
from obstore.store import LocalStore, ObjectStore, from_url

from schemas.errors import Retry, StreamsError

if TYPE_CHECKING:  # the library's names for types are not there when it runs
    from obstore.store import RetryConfig

#: Schemes of places that are not folders.
SCHEMES = ("s3", "gs", "az")
# A caller waits: the library's three minutes of retries would outlast every deadline.
_RETRIES: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


class BadPlace(StreamsError):
    """What should say where artifacts lie is neither a folder nor a URL with s3://, gs:// or az://."""


class StoreUnavailable(Retry):
    """The object store did not do what it was asked; the message has its words."""


def default_place() -> str:
    """Where artifacts lie when no setting says otherwise: the user's data folder, since they cannot be made again."""
    data = os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()
    return str(Path(data) / "sentence-streams" / "artifacts")


def open_store(place: str | None) -> ObjectStore:
    """Returns the store at a folder or URL; None is `default_place`. Connects to nothing yet.

    Raises BadPlace, or StoreUnavailable for a folder that cannot be made.
    """
    where = place or default_place()
    with explained(where):
        if "://" not in where:
            return LocalStore(Path(where).expanduser().absolute(), mkdir=True)
        if where.split("://")[0] not in SCHEMES:
            raise BadPlace(f"{where}: expected a folder, or a URL with s3://, gs:// or az://")
        try:
            return from_url(where, retry_config=_RETRIES)
        except ValueError as error:
            raise BadPlace(f"{where}: {first_line(error)}") from None


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turns what the library raises into StoreUnavailable; that an object is missing stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (exceptions.BaseError, OSError) as error:
        raise StoreUnavailable(f"{place}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The library's message without the dump of its own structures that follows."""
    return str(error).split("\n", 1)[0].strip()
