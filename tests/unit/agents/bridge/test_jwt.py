"""Tokens: which are believed, and a table of attacks."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from joserfc.jwk import OctKey

from agents.bridge.jwks import APART, RemoteKeys
from agents.bridge.jwt import LARGEST, LEEWAY, Tokens, roles_of
from agents.bridge.refusal import Refusal
from streams.settings import Settings, SettingsError
from tests.unit.agents.bridge.issuer import (
    AUDIENCE,
    ISSUER,
    NOW,
    JwksServer,
    b64,
    claims,
    jwks,
    key,
    sealed,
    serving,
    signed,
)

ALGORITHMS = ("RS256", "ES256", "EdDSA")
TRUSTED = ("rsa", "ec", "ed", "p384", "x25519")


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    """An identity provider with a key of each type."""
    async with serving(jwks(*map(key, TRUSTED))) as running:
        yield running


@pytest.fixture
def tokens(server: JwksServer) -> Tokens:
    """Checks tokens of that provider."""
    return reader_of(server)


def reader_of(server: JwksServer, algorithms: tuple[str, ...] = ALGORITHMS) -> Tokens:
    keys = RemoteKeys(server.url)
    return Tokens(keys, issuer=ISSUER, audience=AUDIENCE, algorithms=algorithms, roles_claim="roles", clock=lambda: NOW)


@pytest.mark.parametrize(
    ("kid", "algorithm"), [("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA")], ids=["RS256", "ES256", "EdDSA"]
)
async def test_a_good_token_names_its_owner(tokens: Tokens, kid: str, algorithm: str) -> None:
    """The caller is issuer and subject, so that two issuers' subjects are two callers; roles come along."""
    assert await tokens.identify(signed(key(kid), algorithm)) == (f"jwt:{ISSUER}:ann", ["reader"])


@pytest.mark.parametrize(
    ("changes", "header"),
    [
        ({"aud": ["another", AUDIENCE]}, {}),
        ({"exp": NOW - LEEWAY + 5, "nbf": NOW - 60}, {}),
        ({"nbf": NOW + LEEWAY - 1}, {}),
        ({}, {"typ": "JWT"}),
        ({}, {"typ": "application/at+jwt"}),
        ({}, {"x5t": "of-a-certificate", "vendor": "of no meaning to us"}),
    ],
    ids=["several-audiences", "just-expired", "just-early", "typ", "access-token", "harmless-headers"],
)
async def test_good_tokens_vary(tokens: Tokens, changes: dict[str, Any], header: dict[str, Any]) -> None:
    """What providers do differently, and clocks that differ by some seconds, are no reason to refuse."""
    assert await tokens.identify(signed(key("rsa"), payload=claims(**changes), header=header))


# -- attacks --------------------------------------------------------------------------------------------------
# Each is right in everything but one, so each needs its own check: without it the token is believed.


def _unsigned(algorithm: str) -> str:
    header = orjson.dumps({"alg": algorithm, "kid": "rsa"})
    return f"{b64(header)}.{b64(orjson.dumps(claims()))}."


def _with_public_key_as_secret(secret: bytes) -> str:
    header = orjson.dumps({"alg": "HS256", "kid": "rsa"})
    return sealed(OctKey.import_key(secret), "HS256", header, orjson.dumps(claims()))


def _public_pem() -> bytes:
    return key("rsa").as_pem(private=False)


def _cut(token: str, part: int, length: int) -> str:
    parts = token.split(".")
    parts[part] = parts[part][:length]
    return ".".join(parts)


def _claiming(**changes: Any) -> Callable[[], str]:
    return lambda: signed(key("rsa"), payload=claims(**changes))


def _headed(signer: str = "rsa", **header: Any) -> Callable[[], str]:
    return lambda: signed(key(signer), header=header)


ATTACKS: dict[str, tuple[Callable[[], str], str]] = {
    # algorithms
    "none": (lambda: _unsigned("none"), "algorithm"),
    "None": (lambda: _unsigned("None"), "algorithm"),
    "HS256 with our PEM": (lambda: _with_public_key_as_secret(_public_pem().replace(b"-----", b"")), "algorithm"),
    "HS256 with our modulus": (lambda: _with_public_key_as_secret(str(key("rsa")["n"]).encode()), "algorithm"),
    "not on our list": (lambda: signed(key("rsa"), "RS512"), "algorithm"),
    "no algorithm": (_headed(alg=None), "malformed-token"),
    "algorithm no text": (_headed(alg=["RS256"]), "malformed-token"),
    # keys
    "ES256 by an RSA key": (_headed(alg="ES256"), "unknown-key"),
    "RS256 by an EC key": (lambda: signed(key("ec"), "ES256", header={"alg": "RS256"}), "unknown-key"),
    "ES256 on another curve": (lambda: signed(key("p384"), "ES384", header={"alg": "ES256"}), "unknown-key"),
    "a stranger's key": (_headed("rsa-stranger"), "unknown-key"),
    "a stranger's key under our name": (_headed("rsa-stranger", kid="rsa"), "signature"),
    "kid no text": (_headed(kid=7), "malformed-token"),
    "EdDSA by a key for exchanges": (
        lambda: signed(key("ed"), "EdDSA", header={"kid": "x25519"}),
        "signature",
    ),
    # headers that bring keys, or more
    "jku": (_headed(jku="http://127.0.0.1:1/jwks"), "unwanted-header"),
    "jwk": (_headed(jwk={"kty": "oct", "k": "AAAA"}), "unwanted-header"),
    "a stranger's jwk": (
        lambda: signed(key("ec-stranger"), "ES256", header={"jwk": key("ec-stranger").as_dict(private=False)}),
        "unwanted-header",
    ),
    "x5u": (_headed(x5u="https://127.0.0.1:1/x5u"), "unwanted-header"),
    "x5c": (_headed(x5c=["AAAA"]), "unwanted-header"),
    "crit": (_headed(crit=["exp"], exp=NOW), "unwanted-header"),
    "b64": (_headed(b64=True), "unwanted-header"),
    "logout token": (_headed(typ="logout+jwt"), "token-type"),
    # claims
    "expired": (_claiming(exp=NOW - LEEWAY - 2), "expired"),
    "not yet valid": (_claiming(nbf=NOW + LEEWAY + 60), "claim-nbf"),
    "another audience": (_claiming(aud="another"), "claim-aud"),
    "other audiences": (_claiming(aud=["another", "one more"]), "claim-aud"),
    "another issuer": (_claiming(iss="https://another.example"), "claim-iss"),
    "an issuer longer than ours": (_claiming(iss=ISSUER + "/"), "claim-iss"),
    "no exp": (_claiming(exp=None), "claim-exp"),
    "no nbf": (_claiming(nbf=None), "claim-nbf"),
    "no iss": (_claiming(iss=None), "claim-iss"),
    "no aud": (_claiming(aud=None), "claim-aud"),
    "no sub": (_claiming(sub=None), "claim-sub"),
    "empty sub": (_claiming(sub=""), "claim-sub"),
    "sub no text": (_claiming(sub=7), "claim-sub"),
    "exp as text": (_claiming(exp=str(NOW + 60)), "claim-exp"),
    "exp as truth": (_claiming(exp=True), "claim-exp"),
    "exp as no number": (
        lambda: signed(key("rsa"), payload=orjson.dumps(claims(exp=1)).replace(b'"exp":1', b'"exp":NaN')),
        "malformed-token",
    ),
    "claims no object": (lambda: signed(key("rsa"), payload=b"[1]"), "malformed-token"),
    "claims no UTF-8": (lambda: signed(key("rsa"), payload=b'{"sub":"\xff"}'), "malformed-token"),
    # form
    "empty signature": (lambda: _cut(signed(key("rsa")), 2, 0), "signature"),
    "half a signature": (lambda: _cut(signed(key("rsa")), 2, 160), "signature"),
    "half the claims": (lambda: _cut(signed(key("rsa")), 1, 40), "signature"),
    "no claims": (lambda: _cut(signed(key("rsa")), 1, 0), "signature"),
    "two dots": (lambda: "..", "malformed-token"),
    "no dots": (lambda: "token", "malformed-token"),
    "five parts": (lambda: signed(key("rsa")) + ".AAAA.AAAA", "malformed-token"),
    "no base64": (lambda: "*" + signed(key("rsa"))[1:], "malformed-token"),
    "header no UTF-8": (lambda: sealed(key("rsa"), "RS256", b'{"alg":"\xff"}', b"{}"), "malformed-token"),
    "header no object": (lambda: sealed(key("rsa"), "RS256", b'["alg"]', b"{}"), "malformed-token"),
    "huge header": (_headed(note="x" * 2000), "malformed-token"),
    "huge token": (_claiming(note="x" * LARGEST), "malformed-token"),
    "no ASCII": (lambda: signed(key("rsa")) + "é", "malformed-token"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_refused(name: str, tokens: Tokens) -> None:
    """Each is refused for the reason that is its own."""
    attack, reason = ATTACKS[name]
    with pytest.raises(Refusal) as caught:
        await tokens.identify(attack())
    assert caught.value.reason == reason


@pytest.mark.parametrize("member", ["jku", "x5u"])
async def test_no_address_in_a_token_is_ever_asked(member: str, server: JwksServer, tokens: Tokens) -> None:
    """A stranger's JWKS is served, and nobody fetches it."""
    stranger = key("rsa-stranger")
    async with serving(jwks(stranger)) as strangers:
        with pytest.raises(Refusal):
            await tokens.identify(signed(stranger, header={member: strangers.url}))
        assert strangers.asked == 0


async def test_a_symmetric_key_in_the_document_is_no_key(server: JwksServer) -> None:
    """A provider that publishes a secret by mistake lets nobody sign with it, even if HS256 were on the list."""
    secret = OctKey.import_key(b"0123456789abcdef0123456789abcdef", {"kid": "oct"})
    published = orjson.loads(jwks(key("rsa")))
    published["keys"].append(secret.as_dict(private=True))
    server.document = orjson.dumps(published)
    token = sealed(secret, "HS256", orjson.dumps({"alg": "HS256", "kid": "oct"}), orjson.dumps(claims()))
    with pytest.raises(Refusal) as caught:
        await reader_of(server, ("RS256", "HS256")).identify(token)
    assert caught.value.reason == "unknown-key"


async def test_two_keys_may_have_one_name(server: JwksServer) -> None:
    """With duplicate `kid`s both keys are good, and nobody else's is."""
    one, two = key("ec"), key("ec-two")
    server.document = jwks(one, two, kid="same")
    tokens = reader_of(server)
    assert await tokens.identify(signed(one, "ES256", header={"kid": "same"}))
    assert await tokens.identify(signed(two, "ES256", header={"kid": "same"}))
    with pytest.raises(Refusal) as caught:
        await tokens.identify(signed(key("ec-stranger"), "ES256", header={"kid": "same"}))
    assert caught.value.reason == "signature"


async def test_a_token_without_kid_needs_no_guess(server: JwksServer) -> None:
    """It is good where one key fits; where several do, it must say which."""
    server.document = jwks(key("rsa"), key("ec"))
    assert await reader_of(server).identify(signed(key("rsa"), header={"kid": None}))
    server.document = jwks(key("rsa"), key("rsa-stranger"))
    with pytest.raises(Refusal) as caught:
        await reader_of(server).identify(signed(key("rsa"), header={"kid": None}))
    assert caught.value.reason == "unknown-key"


@pytest.mark.parametrize(
    "members", [{"use": "enc"}, {"alg": "PS256"}, {"key_ops": ["encrypt"]}], ids=["use", "alg", "key_ops"]
)
async def test_a_key_for_something_else_signs_nothing(members: dict[str, Any], server: JwksServer) -> None:
    """What a key's owner made it for is respected."""
    server.document = jwks(key("rsa"), **members)
    with pytest.raises(Refusal) as caught:
        await reader_of(server).identify(signed(key("rsa")))
    assert caught.value.reason == "unknown-key"


async def test_a_new_key_is_good_with_its_first_token(server: JwksServer) -> None:
    """Rotation needs nobody: as soon as the provider may be asked again, a token that names a new key makes us ask."""
    now = 0.0
    keys = RemoteKeys(server.url, lambda: now)
    tokens = Tokens(keys, issuer=ISSUER, audience=AUDIENCE, algorithms=ALGORITHMS, roles_claim="roles")
    new = signed(key("ec-two"), "ES256")
    for _ in range(2):
        with pytest.raises(Refusal):
            await tokens.identify(new)
    server.document = jwks(key("ec"), key("ec-two"))
    now += APART
    assert await tokens.identify(new)
    assert server.asked == 2


async def test_without_keys_it_is_our_fault(server: JwksServer) -> None:
    """Where no key was ever fetched, a token is neither good nor bad."""
    server.status = 500
    with pytest.raises(Refusal) as caught:
        await reader_of(server).identify(signed(key("rsa")))
    assert caught.value.ours


@pytest.mark.parametrize(
    ("token", "claim", "roles"),
    [
        ({"roles": ["reader", 7, "admin"]}, "roles", ["reader", "admin"]),
        ({"scope": "reader operator"}, "scope", ["reader", "operator"]),
        ({"realm_access": {"roles": ["admin"]}}, "realm_access.roles", ["admin"]),
        ({"https://example.com/roles": ["admin"]}, "https://example.com/roles", ["admin"]),
        ({"roles": {"admin": True}}, "roles", []),
        ({"realm_access": "admin"}, "realm_access.roles", []),
        ({}, "roles", []),
    ],
)
def test_roles_are_where_a_setting_says(token: dict[str, Any], claim: str, roles: list[str]) -> None:
    """A list or words, at the top or deeper; anything else is no role."""
    assert list(roles_of(token, claim)) == roles


def test_settings_must_say_whom_to_trust(tmp_path: Path) -> None:
    """Each of the three that is missing has its line; a document without keys has one, too."""
    with pytest.raises(SettingsError) as caught:
        Tokens.from_settings(Settings(jwt_issuer=ISSUER))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "STREAMS_JWT_AUDIENCE",
        "STREAMS_JWT_JWKS",
    ]
    (tmp_path / "jwks").write_bytes(b'{"keys": []}')
    with pytest.raises(SettingsError, match="STREAMS_JWT_JWKS: cannot use"):
        Tokens.from_settings(Settings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks=str(tmp_path / "jwks")))
