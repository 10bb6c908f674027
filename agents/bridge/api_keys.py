"""API keys: made by `sentence-streams api-key`, kept as hashes in a file with a line each.

    # name      roles            salt and hash
    billing     reader           blake2b:6f0c...:91ab...
    on-call     reader,operator  blake2b:77d2...:03fe...

Two lines with one name are two keys of one caller: so a key is replaced without an interruption.
"""

import hmac
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from agents.bridge.refusal import Refusal
from agents.bridge.watched import WatchedFile
from streams.settings import Settings, SettingsError

PREFIX = "ss_"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
LINE = re.compile(rf"({NAME.pattern})\s+([\w.:/-]+(?:,[\w.:/-]+)*)\s+blake2b:([0-9a-f]{{32}}):([0-9a-f]{{64}})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One line of the file."""

    name: str
    roles: tuple[str, ...]
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} {','.join(self.roles)} blake2b:{self.salt.hex()}:{self.digest.hex()}"


def make(name: str, roles: Sequence[str]) -> tuple[str, ApiKey]:
    """Returns a new key, which nobody can read again, and its line; raises ValueError for an impossible name."""
    if not NAME.fullmatch(name):
        raise ValueError("expected a name of a-z, 0-9 and -, 63 at most, not beginning with -")
    secret, salt = secrets.token_urlsafe(32), secrets.token_bytes(16)
    return f"{PREFIX}{name}_{secret}", ApiKey(name, tuple(roles), salt, _digest(secret, salt))


def _digest(secret: str, salt: bytes) -> bytes:
    # A slow hash as for passwords would cost each request its time, and gain nothing: there is no guessing 256 random
    # bits, however fast the guesses. The salt as the hash's key keeps two files from being compared.
    return blake2b(secret.encode(), key=salt, digest_size=32).digest()


def parse(document: bytes) -> Mapping[str, Sequence[ApiKey]]:
    """Returns the keys of a file by name; raises ValueError that names the first line that is wrong."""
    keys: dict[str, list[ApiKey]] = {}
    for number, line in enumerate(document.decode().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = LINE.fullmatch(text)
        if found is None:
            raise ValueError(f"line {number}: expected name, roles and hash as `sentence-streams api-key` prints them")
        name, roles, salt, digest = found.groups()
        key = ApiKey(name, tuple(roles.split(",")), bytes.fromhex(salt), bytes.fromhex(digest))
        keys.setdefault(name, []).append(key)
    return keys


class ApiKeys:
    """Tells whose a key is, by a file that is read again when it changes."""

    def __init__(self, file: WatchedFile[Mapping[str, Sequence[ApiKey]]]) -> None:
        self._file = file

    @classmethod
    def from_settings(cls, settings: Settings) -> "ApiKeys":
        """Raises SettingsError where there is no usable file."""
        path = settings.api_keys_file
        if path is None:
            raise SettingsError("STREAMS_API_KEYS_FILE: expected a file with auth=api-key")
        try:
            return cls(WatchedFile(path, parse))
        except (OSError, ValueError) as error:
            raise SettingsError(f"STREAMS_API_KEYS_FILE: cannot use {path}: {error}") from None

    def identify(self, credential: str) -> tuple[str, Collection[str]]:
        """Returns the name and the roles of a key's owner; raises Refusal where nobody has it."""
        name, _, secret = credential.removeprefix(PREFIX).partition("_")
        for key in self._file.get().get(name, ()):
            # In constant time, so that answers do not tell how much of a hash was right.
            if hmac.compare_digest(_digest(secret, key.salt), key.digest):
                return f"key:{name}", key.roles
        raise Refusal("unknown-api-key", "nobody has this API key")
