"""JSON Web Tokens: whose they are, and whether to believe them (RFC 7519, RFC 8725)."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import orjson
from joserfc import jws
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwa import JWSAlgModel
from joserfc.jws import CompactSignature, JWSRegistry
from joserfc.jwt import JWTClaimsRegistry

from agents.bridge.jwks import Key, KeySource, key_source
from agents.bridge.refusal import Refusal
from streams.settings import Settings, SettingsError

#: Characters of a token; joserfc bounds its header (512) and its signature (1,024) besides.
LARGEST = 8192
#: Seconds that clocks may differ.
LEEWAY = 10
#: A token that brings or names its own keys, or wants what we do not know, is refused whatever else it says.
UNWANTED = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64"})
#: `typ` of tokens that are meant for this; others, as of logout tokens, are signed with the same keys.
TYPES = (None, "jwt", "at+jwt")


class Algorithms(JWSRegistry):
    """The allow-list of signatures. joserfc's own look-up warns of each EdDSA token, since RFC 9864 renamed it."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(algorithms=names, strict_check_header=False)

    def get_alg(self, name: str) -> JWSAlgModel:
        """Returns the algorithm; raises Refusal where it is not on the list."""
        if self.allowed is None or name not in self.allowed:
            raise Refusal("algorithm", "the token's algorithm is not accepted")
        return self.algorithms[name]


class Tokens:
    """Checks tokens of one issuer for one audience."""

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str,
        audience: str,
        algorithms: Collection[str],
        roles_claim: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys, self._issuer, self._roles_claim = keys, issuer, roles_claim
        self._algorithms = Algorithms(algorithms)
        self._claims = JWTClaimsRegistry(
            now=lambda: int(clock()),
            leeway=LEEWAY,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            nbf={"essential": True},
            sub={"essential": True},
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> "Tokens":
        """Raises SettingsError where something that makes a token trustworthy is not set."""
        issuer, audience, place = settings.jwt_issuer, settings.jwt_audience, settings.jwt_jwks
        if not (issuer and audience and place):
            needed = {"ISSUER": issuer, "AUDIENCE": audience, "JWKS": place}
            lines = [
                f"STREAMS_JWT_{name}: expected a value where callers send tokens"
                for name, it in needed.items()
                if not it
            ]
            raise SettingsError("\n".join(lines))
        return cls(
            key_source(place),
            issuer=issuer,
            audience=audience,
            algorithms=settings.jwt_algorithms,
            roles_claim=settings.jwt_roles_claim,
        )

    async def identify(self, token: str) -> tuple[str, Collection[str]]:
        """Returns the name and the roles of whoever the token is for; raises Refusal where it proves nothing."""
        signature = self._parsed(token)
        header = signature.headers()
        if not any(self._signed(signature, key) for key in await self._candidates(header)):
            raise Refusal("signature", "the token's signature is wrong")
        claims = self._checked(signature.payload)
        return f"jwt:{self._issuer}:{claims['sub']}", roles_of(claims, self._roles_claim)

    def _parsed(self, token: str) -> CompactSignature:
        if len(token) > LARGEST or not token.isascii():
            raise Refusal("malformed-token", "the token is too long, or no token")
        try:
            signature = jws.extract_compact(token.encode(), registry=self._algorithms)
            header = signature.headers()
            if UNWANTED.isdisjoint(header):
                self._algorithms.check_header(header)
        except (JoseError, ValueError, TypeError, RecursionError):
            raise Refusal("malformed-token", "the token is malformed") from None
        if not UNWANTED.isdisjoint(header):
            raise Refusal("unwanted-header", "the token's header has a member that is not accepted")
        kind = header.get("typ")
        if (kind and kind.lower().removeprefix("application/")) not in TYPES:
            raise Refusal("token-type", "the token is of another type")
        return signature

    async def _candidates(self, header: Mapping[str, Any]) -> Sequence[Key]:
        """Returns the keys that may have signed this; two may have one `kid`, but not guess for a token without."""
        algorithm = self._algorithms.get_alg(header["alg"])
        found = self._fitting(await self._keys.keys(), algorithm, header.get("kid"))
        if not found and await self._keys.renewed():  # signed with a key that is newer than our last look
            found = self._fitting(await self._keys.keys(), algorithm, header.get("kid"))
        if not found:
            raise Refusal("unknown-key", "no known key fits the token")
        if "kid" not in header and len(found) > 1:
            raise Refusal("unknown-key", "the token does not say which key signed it")
        return found

    def _fitting(self, keys: Sequence[Key], algorithm: JWSAlgModel, kid: str | None) -> list[Key]:
        return [key for key in keys if kid in (None, key.kid) and _fits(key, algorithm)]

    def _signed(self, signature: CompactSignature, key: Key) -> bool:
        try:
            return jws.validate_compact(signature, key, registry=self._algorithms)
        except (JoseError, ValueError):
            return False

    def _checked(self, payload: bytes) -> dict[str, Any]:
        try:
            claims = orjson.loads(payload)
            if not isinstance(claims, dict):
                raise Refusal("malformed-token", "the token is malformed")
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise Refusal("expired", "the token has expired") from None
        except JoseError as error:
            claim = getattr(error, "claim", "")
            raise Refusal(f"claim-{claim}", f"the token is wrong in {claim}") from None
        except ValueError:
            raise Refusal("malformed-token", "the token is malformed") from None
        return claims


def _fits(key: Key, algorithm: JWSAlgModel) -> bool:
    """Whether a key may be used so: its type and curve, and what its owner made it for (use, alg, key_ops)."""
    try:
        algorithm.check_key(key)
        key.check_key_op("verify")
    except JoseError:
        return False
    return True


def roles_of(claims: Mapping[str, Any], claim: str) -> Collection[str]:
    """Returns the roles a token names in `claim`: a list, or words in one text; none where there is no such claim."""
    value: Any = claims.get(claim)
    if value is None:  # some providers nest them, others put a URL with dots into the name
        value = claims
        for part in claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        return value.split()
    return [role for role in value if isinstance(role, str)] if isinstance(value, list) else []
