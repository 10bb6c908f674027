"""The public keys that tokens are checked with: a JWKS (RFC 7517) from a file or a URL."""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from agents.bridge.refusal import Refusal
from agents.bridge.watched import WatchedFile
from streams.settings import SettingsError

log = structlog.get_logger(__name__)

Key = RSAKey | ECKey | OKPKey
#: Symmetric keys have no place in a public document, so no signature with one can ever be accepted.
TYPES: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth")
#: The base64 text of a modulus of 2,048 bits; anything shorter is too weak.
MODULUS = 342

#: Seconds between two looks at a URL, whoever asks and however the last one went.
APART = 30.0
#: Seconds after which keys are not used before another look was tried.
OLD = 55.0
TIMEOUT = 5.0
LARGEST = 256 * 1024


class KeySource(Protocol):
    """Where keys come from."""

    async def keys(self) -> Sequence[Key]:
        """Returns the keys as they are now; raises Refusal (`ours`) where there are none yet."""

    async def renewed(self) -> bool:
        """Looks for new keys, since none of those known fits; False where it is too soon to look again."""


def key_source(place: str) -> KeySource:
    """Returns the keys at a file's path or a URL; raises SettingsError for a URL others could tamper with."""
    if "://" in place:
        return RemoteKeys(_checked(place))
    try:
        return FileKeys(Path(place))
    except (OSError, ValueError) as error:
        raise SettingsError(f"STREAMS_JWT_JWKS: cannot use {place}: {error}") from None


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _loopback(parts.hostname or "")):
        return url
    raise SettingsError(f"STREAMS_JWT_JWKS: expected a file, or a URL with https (http on loopback), got {url!r}")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse(document: bytes) -> tuple[Key, ...]:
    """Returns the usable keys of a JWKS; raises ValueError where it is none, or has none."""
    try:
        entries = orjson.loads(document)["keys"]
        keys = tuple(key for key in map(_key, entries) if key is not None)
    except (ValueError, KeyError, TypeError):
        raise ValueError("expected a JSON Web Key Set") from None
    if not keys:
        raise ValueError("expected at least one public RSA (2,048 bits or more), EC or OKP key")
    return keys


def _key(entry: dict[str, str]) -> Key | None:
    kind = TYPES.get(entry["kty"])
    if kind is None or (kind is RSAKey and len(entry.get("n", "")) < MODULUS):
        return None
    try:
        return kind.import_key({name: value for name, value in entry.items() if name not in PRIVATE})
    except (JoseError, ValueError):
        return None  # one that we cannot read must not take the others away


class FileKeys:
    """Keys from a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Reads it; raises OSError or ValueError where that fails."""
        self._file = WatchedFile(path, parse)

    async def keys(self) -> Sequence[Key]:
        """Returns the keys in the file."""
        return self._file.get()

    async def renewed(self) -> bool:
        """There is nothing newer than what `keys` just read."""
        return False


class RemoteKeys:
    """Keys from a URL, asked at most every APART seconds, once for all; while it is away the last stay good."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._clock = url, clock
        self._keys: Sequence[Key] = ()
        self._asked = self._answered = float("-inf")
        self._look: asyncio.Task[None] | None = None

    async def keys(self) -> Sequence[Key]:
        """Returns the last keys. They are kept fresh on the side; only those older than OLD make their callers wait."""
        self._start_if_due()
        old = self._clock() - self._answered > OLD
        if self._look is not None and (old or not self._keys):
            await asyncio.shield(self._look)  # a caller who leaves must not stop it for the others
        if not self._keys:
            raise Refusal("no-keys", "tokens cannot be checked at the moment", ours=True)
        return self._keys

    async def renewed(self) -> bool:
        """Looks now if it may, or joins the look that is under way."""
        self._start_if_due()
        if self._look is None:
            return False
        await asyncio.shield(self._look)
        return True

    def _start_if_due(self) -> None:
        now = self._clock()
        if now - self._asked >= APART:  # longer than any look takes
            self._asked = now
            self._look = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        try:
            self._keys = parse(await self._fetch())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            log.warning("jwks-unusable", url=self._url, error=reason, meaning="the last keys stay good")
        finally:
            self._answered, self._look = self._clock(), None

    async def _fetch(self) -> bytes:
        document = b""
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT), auto_decompress=False)
        async with session, session.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"expected status 200, got {response.status}")
            async for chunk in response.content.iter_any():
                document += chunk
                if len(document) > LARGEST:
                    raise ValueError(f"expected at most {LARGEST} bytes")
        return document
