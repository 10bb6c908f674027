"""Who calls, and what they may do.

    authenticator = Authenticator.from_settings(settings)          # SettingsError where they do not fit together
    app.add_middleware(Identify, authenticator=authenticator)      # every request below /v1 gets its Caller, or a 401

`endpoints` has the dependencies that give an endpoint its caller, or a 403 where the scope is missing.

`guard.middleware` puts `Identify` in its place: a stranger's body is not even read.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import structlog
from fastapi import Request
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from agents.bridge.api_keys import PREFIX, ApiKeys
from agents.bridge.jwt import Tokens
from agents.bridge.problems import Kind, Problem, respond
from agents.bridge.refusal import Refusal
from streams.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

REALM = 'Bearer realm="sentence-streams"'
#: Everything here needs a caller; health, metrics and documentation lie elsewhere.
PROTECTED = "/v1/"


class Scope(StrEnum):
    """What somebody may do."""

    EMBED = "embed"
    SCORE = "score"
    MODELS = "models"
    REPLAY = "replay"
    DEAD_LETTERS = "dead-letters"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: `jwt:<issuer>:<subject>`, `key:<name>` or `anonymous:<address>`; limits and idempotency go by it."""

    name: str
    scopes: frozenset[Scope]


class Roles:
    """What each role may do, read from `reader=embed+score,admin=all`."""

    def __init__(self, text: str) -> None:
        """Raises SettingsError where the text has another shape or names an unknown scope."""
        self._scopes = dict(map(_role, text.split(",")))

    def __contains__(self, role: str) -> bool:
        return role in self._scopes

    def scopes(self, roles: Collection[str]) -> frozenset[Scope]:
        """Returns what these roles may do together; roles that are not ours may do nothing."""
        return frozenset().union(*(self._scopes.get(role, frozenset()) for role in roles))


def _role(part: str) -> tuple[str, frozenset[Scope]]:
    role, equals, names = part.strip().partition("=")
    if not re.fullmatch(r"[\w.:/-]+", role) or not equals:
        raise SettingsError(f"STREAMS_ROLES: expected role=scope+scope, separated by commas, got {part.strip()!r}")
    if names == "all":
        return role, frozenset(Scope)
    try:
        return role, frozenset(map(Scope, names.split("+")))
    except ValueError:
        raise SettingsError(f"STREAMS_ROLES: expected all, or some of {'+'.join(Scope)}, got {names!r}") from None


class Authenticator:
    """Tells who sent a request, by JWT, by API key, or by nothing where authentication is off."""

    def __init__(self, roles: Roles, *, off: bool, tokens: Tokens | None, keys: ApiKeys | None) -> None:
        self._roles, self._off, self._tokens, self._keys = roles, off, tokens, keys

    @classmethod
    def from_settings(cls, settings: Settings) -> "Authenticator":
        """Raises SettingsError where something is missing, and where authentication is off without anybody saying so.

        Reads files, but connects to nothing: the keys behind a URL are fetched when the first token comes.
        """
        methods = settings.auth or (("off",) if _loopback(settings.http_host) else ())
        if not methods:
            raise SettingsError(
                f"STREAMS_AUTH: expected jwt, api-key or off, since the bridge listens on {settings.http_host}"
            )
        return cls(
            Roles(settings.roles),
            off="off" in methods,
            tokens=Tokens.from_settings(settings) if "jwt" in methods else None,
            keys=ApiKeys.from_settings(settings) if "api-key" in methods else None,
        )

    async def authenticate(self, headers: Headers, address: str) -> Caller:
        """Returns who sent these headers from `address`.

        Raises Problem: 401 where it cannot be told, 503 where there are no keys to check a token with.
        """
        if self._off:
            return Caller(f"anonymous:{address}", frozenset(Scope))
        try:
            name, roles = await self._identify(_bearer(headers))
        except Refusal as refusal:
            log.warning("authentication-failed", reason=refusal.reason, address=address)
            raise _refused(refusal) from None
        return Caller(name, self._roles.scopes(roles))

    async def _identify(self, credential: str) -> tuple[str, Collection[str]]:
        if self._keys is not None and credential.startswith(PREFIX):
            return self._keys.identify(credential)
        if self._tokens is not None:
            return await self._tokens.identify(credential)
        raise Refusal("unknown-scheme", "an API key is expected")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bearer(headers: Headers) -> str:
    values = headers.getlist("authorization")
    if not values:
        raise Refusal("no-credentials", "an Authorization header is expected")
    scheme, _, credential = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not credential.strip():
        raise Refusal("unknown-scheme", "one Authorization header with a Bearer token is expected")
    return credential.strip()


def _refused(refusal: Refusal) -> Problem:
    if refusal.ours:
        return Problem(Kind.UNAVAILABLE, refusal.detail, headers={"Retry-After": "30"})
    challenge = REALM
    if refusal.reason != "no-credentials":  # RFC 6750: an error only where something was sent
        challenge += f', error="invalid_token", error_description="{refusal.detail}"'
    return Problem(Kind.UNAUTHENTICATED, refusal.detail, headers={"WWW-Authenticate": challenge})


class Identify:
    """ASGI middleware: `request.state.caller` of every request below PROTECTED, or the answer that refuses it."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app, self._authenticator = app, authenticator

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED):
            try:
                caller = await self._authenticator.authenticate(Headers(scope=scope), (scope["client"] or ("",))[0])
            except Problem as problem:
                await respond(problem, scope)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)


class Needs(HTTPBearer):
    """FastAPI dependency of an endpoint that needs a scope; in the OpenAPI document it is the lock on the operation."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(
            scheme_name="HTTPBearer", description="A JWT of your identity provider, or an API key.", auto_error=False
        )
        self._scope = scope

    def caller(self, request: Request) -> Caller:
        """Returns who asks; raises Problem 403 where the scope is missing."""
        caller: Caller | None = getattr(request.state, "caller", None)
        if caller is None:  # no middleware went before: never let anybody in by mistake
            raise _refused(Refusal("no-credentials", "an Authorization header is expected"))
        if self._scope not in caller.scopes:
            log.warning("forbidden", caller=caller.name, scope=self._scope)
            challenge = f'{REALM}, error="insufficient_scope", scope="{self._scope}"'
            detail = f"this needs the scope {self._scope}"
            raise Problem(Kind.FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})
        return caller
