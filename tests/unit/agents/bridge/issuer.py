"""An identity provider for tests: it has keys, signs whatever it is told to, and serves its JWKS on loopback."""

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import orjson
from aiohttp import web
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

#: When its tokens are from: once for all, so that a slow machine changes nothing.
NOW = int(time.time())
ISSUER, AUDIENCE = "https://issuer.example", "sentence-streams"
Key = RSAKey | ECKey | OKPKey


@cache
def key(kid: str) -> Key:
    """Returns the private key of this name, made once: `rsa...`, `p384...`, `x25519...`, `ed...`, else P-256."""
    parameters = {"kid": kid}
    if kid.startswith("rsa"):
        return RSAKey.generate_key(2048, parameters)
    if kid.startswith("p384"):
        return ECKey.generate_key("P-384", parameters)
    if kid.startswith(("ed", "x25519")):
        return OKPKey.generate_key("X25519" if kid.startswith("x") else "Ed25519", parameters)
    return ECKey.generate_key("P-256", parameters)


def jwks(*keys: Key, **members: str) -> bytes:
    """Returns the document with the public halves; `members` go into each of them."""
    return orjson.dumps({"keys": [each.as_dict(private=False) | members for each in keys]})


def claims(**changes: Any) -> dict[str, Any]:
    """Returns claims of a good token; a change to None takes the claim away."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": NOW + 3600, "nbf": NOW - 60, "roles": ["reader"]}
    return {name: value for name, value in (good | changes).items() if value is not None}


def b64(data: bytes) -> str:
    """Returns base64url without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def signed(
    signer: Key,
    algorithm: str = "RS256",
    payload: Mapping[str, Any] | bytes | None = None,
    header: Mapping[str, Any] | None = None,
) -> str:
    """Returns a token of exactly this header (with `alg` and the signer's `kid`, where it does not say otherwise)."""
    head = {"alg": algorithm, "kid": signer.kid} | dict(header or {})
    head = {name: value for name, value in head.items() if value is not None}
    body = payload if isinstance(payload, bytes) else orjson.dumps(claims() if payload is None else payload)
    return sealed(signer, algorithm, orjson.dumps(head), body)


def sealed(signer: Any, algorithm: str, header: bytes, payload: bytes) -> str:
    """Returns a token of any header and payload, signed as `algorithm` wants."""
    content = f"{b64(header)}.{b64(payload)}"
    return f"{content}.{b64(JWSRegistry.algorithms[algorithm].sign(content.encode(), signer))}"


class JwksServer:
    """What the provider serves at `url`; `asked` counts. Any attribute may be changed; no answer until `answers`."""

    def __init__(self, document: bytes) -> None:
        self.document, self.status, self.location = document, 200, ""
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0
        self.url = ""

    async def answer(self, _: web.Request) -> web.Response:
        """Answers as the attributes say."""
        self.asked += 1
        await self.answers.wait()
        return web.Response(body=self.document, status=self.status, headers={"Location": self.location})


@asynccontextmanager
async def serving(document: bytes) -> AsyncIterator[JwksServer]:
    """Serves a document on loopback while the block runs."""
    server = JwksServer(document)
    app = web.Application()
    app.router.add_get("/jwks", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    try:
        yield server
    finally:
        await runner.cleanup()
