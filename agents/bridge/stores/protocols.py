"""What the stores of the bridge answer; `agents.bridge.stores` says what to rely on."""

import hashlib
import json
from dataclasses import dataclass
from typing import Protocol

#: Seconds that an answer is kept, and that a result is remembered as gone.
DAY = 86_400


class StoreUnavailable(Exception):
    """The store that replicas share does not answer, or refuses; what was asked for may or may not have happened."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The key is yours: do what it is for, then `finish` or `abandon`."""


@dataclass(frozen=True, slots=True)
class Running:
    """Another request with this key and body has no answer yet."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was used with another body."""


@dataclass(frozen=True, slots=True)
class Done:
    """A request with this key and body was answered with this."""

    answer: bytes


class Idempotency(Protocol):
    """Answers by caller (the scope), its key, and a fingerprint of the request's body."""

    async def begin(self, scope: str, key: str, fingerprint: str) -> Begun | Running | Done | Mismatch:
        """Takes the key, or says why not; raises StoreUnavailable."""

    async def finish(self, scope: str, key: str, answer: bytes) -> None:
        """Keeps the answer of what was begun here; raises StoreUnavailable.

        Where the lease has ended meanwhile and another answer came first, that one stays.
        """

    async def abandon(self, scope: str, key: str) -> None:
        """Frees a key that was begun here: nothing was done under it. Never raises: at worst the lease frees it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """This client never sent such an id, or longer ago than is remembered."""


@dataclass(frozen=True, slots=True)
class Gone:
    """It was sent, and its result is not kept any more, or never came."""


@dataclass(frozen=True, slots=True)
class Pending:
    """It was sent and has no result yet."""


@dataclass(frozen=True, slots=True)
class Found:
    """The last result that came for this id."""

    result: bytes


Looked = Unknown | Gone | Pending | Found


class Results(Protocol):
    """Results by client and id. All may raise StoreUnavailable."""

    async def expect(self, client: str, *ids: str) -> None:
        """Notes ids that are about to be sent: from now on they are Pending, whatever was there before."""

    async def put(self, client: str, id: str, result: bytes) -> None:
        """Keeps a result and wakes whoever waits for it, on any replica."""

    async def get(self, client: str, id: str) -> Looked:
        """Returns what is known of an id now."""

    async def wait(self, client: str, id: str, timeout: float) -> Looked:
        """Returns the same once it is not Pending, or after `timeout` seconds whatever it is."""

    async def close(self) -> None:
        """Ends what runs in the background."""


def name_of(*parts: str) -> str:
    """Returns one short name for several strings of any length; other strings have another name."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
