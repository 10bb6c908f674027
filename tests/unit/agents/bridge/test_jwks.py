"""Where keys come from: rotation, outages, and how seldom anybody is asked."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from joserfc.util import int_to_base64

from agents.bridge import jwks
from agents.bridge.jwks import APART, LARGEST, OLD, RemoteKeys, key_source, parse
from agents.bridge.refusal import Refusal
from streams.settings import SettingsError
from tests.unit.agents.bridge.issuer import JwksServer, key, serving
from tests.unit.agents.bridge.issuer import jwks as document


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    """An identity provider with one key, `ec`."""
    async with serving(document(key("ec"))) as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """The clock of `keys`."""
    return Clock()


@pytest.fixture
def keys(server: JwksServer, clock: Clock) -> RemoteKeys:
    """That provider's keys."""
    return RemoteKeys(server.url, clock)


async def kids(keys: RemoteKeys) -> list[str | None]:
    """Returns the names of the keys, once a look that was begun has ended."""
    await keys.keys()
    if keys._look is not None:
        await keys._look
    return [each.kid for each in await keys.keys()]


async def test_nothing_is_asked_before_somebody_needs_it(server: JwksServer, keys: RemoteKeys) -> None:
    """The bridge starts without its identity provider."""
    assert server.asked == 0
    assert await kids(keys) == ["ec"]
    assert server.asked == 1


async def test_all_who_wait_share_one_look(server: JwksServer, keys: RemoteKeys) -> None:
    """A hundred first tokens at once are one question."""
    assert len(await asyncio.gather(*(keys.keys() for _ in range(100)))) == 100
    assert server.asked == 1


async def test_unknown_keys_cannot_make_it_ask_more_often(server: JwksServer, keys: RemoteKeys, clock: Clock) -> None:
    """Whatever tokens name, there is one look in APART seconds, also where it found nothing new."""
    await keys.keys()
    for _ in range(50):
        assert not await keys.renewed()
    clock.now += APART - 1
    assert not await keys.renewed()
    assert server.asked == 1
    clock.now += 1
    assert await keys.renewed()
    assert not await keys.renewed()
    assert server.asked == 2


async def test_a_new_key_is_found_when_a_token_names_it(server: JwksServer, keys: RemoteKeys, clock: Clock) -> None:
    """Rotation is picked up by the first token that is signed with the new key, APART seconds after the last look."""
    await keys.keys()
    server.document = document(key("ec"), key("ec-two"))
    clock.now += APART
    assert await keys.renewed()
    assert [each.kid for each in await keys.keys()] == ["ec", "ec-two"]


async def test_a_withdrawn_key_is_gone_within_a_minute(server: JwksServer, keys: RemoteKeys, clock: Clock) -> None:
    """Also after hours without a token: old keys are not used before the provider was asked again."""
    await keys.keys()
    server.document = document(key("ec-two"))
    clock.now += 3600
    assert [each.kid for each in await keys.keys()] == ["ec-two"]
    assert OLD < 60


async def test_keys_are_kept_fresh_on_the_side(server: JwksServer, keys: RemoteKeys, clock: Clock) -> None:
    """With tokens coming in, a look in good time costs none of them a wait, and the next ones have its keys."""
    await keys.keys()
    server.document = document(key("ec-two"))
    clock.now += APART
    assert [each.kid for each in await keys.keys()] == ["ec"]
    assert await kids(keys) == ["ec-two"]


@pytest.mark.parametrize("trouble", ["status", "redirect", "no-json", "no-keys", "too-large", "away"])
async def test_the_last_keys_stay_good_while_the_url_is_unusable(
    trouble: str, server: JwksServer, keys: RemoteKeys, clock: Clock
) -> None:
    """Whatever the provider answers but keys, nobody is locked out, and it is not asked the more often for it."""
    await keys.keys()
    match trouble:
        case "status":
            server.status, server.document = 503, document(key("ec-two"))
        case "redirect":
            server.status, server.location = 302, server.url
        case "no-json":
            server.document = b"<html>"
        case "no-keys":
            server.document = b'{"keys": []}'
        case "too-large":
            server.document = document(key("ec-two")) + b" " * LARGEST
        case "away":
            keys._url = "http://127.0.0.1:1/jwks"
    clock.now += 3600
    for _ in range(3):
        assert [each.kid for each in await keys.keys()] == ["ec"]
    assert server.asked == (1 if trouble == "away" else 2)


async def test_a_slow_provider_is_given_up(
    server: JwksServer, keys: RemoteKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look ends after TIMEOUT, and whoever waited for it is told that it is our fault."""
    monkeypatch.setattr(jwks, "TIMEOUT", 0.01)
    server.answers.clear()
    with pytest.raises(Refusal) as caught:
        await keys.keys()
    server.answers.set()
    assert caught.value.ours


async def test_a_caller_who_leaves_does_not_stop_the_look(server: JwksServer, keys: RemoteKeys) -> None:
    """The others who wait for it get their keys."""
    first = asyncio.ensure_future(keys.keys())
    second = asyncio.ensure_future(keys.keys())
    await asyncio.sleep(0)
    first.cancel()
    assert [each.kid for each in await second] == ["ec"]
    assert server.asked == 1


@pytest.mark.parametrize("url", ["http://issuer.example/jwks", "http://10.0.0.1/jwks", "ftp://127.0.0.1/jwks"])
def test_a_url_that_others_could_tamper_with_is_refused(url: str) -> None:
    """Keys come over TLS, or from this machine."""
    with pytest.raises(SettingsError, match="STREAMS_JWT_JWKS: expected a file, or a URL with https"):
        key_source(url)


@pytest.mark.parametrize(
    "url", ["https://issuer.example/jwks", "http://127.0.0.1:1/x", "http://[::1]:1/x", "http://localhost/x"]
)
def test_safe_urls_are_taken(url: str) -> None:
    """https from anywhere, http on loopback."""
    assert isinstance(key_source(url), RemoteKeys)


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """Rotation by file needs no restart; a file that went bad changes nothing."""
    path = tmp_path / "jwks"
    path.write_bytes(document(key("ec")))
    keys = key_source(str(path))
    assert [each.kid for each in await keys.keys()] == ["ec"]
    path.write_bytes(document(key("ec"), key("ec-two")))
    assert [each.kid for each in await keys.keys()] == ["ec", "ec-two"]
    path.write_bytes(b"no keys")
    assert [each.kid for each in await keys.keys()] == ["ec", "ec-two"]
    assert not await keys.renewed()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": 7}', b'{"keys": [7]}', b'{"keys": [{}]}', b'{"keys": []}', b"\xff"]
)
def test_what_is_no_key_set_is_told(content: bytes) -> None:
    """The error says what was expected, whatever came."""
    with pytest.raises(ValueError, match="expected"):
        parse(content)


def test_keys_that_cannot_be_used_are_left_out() -> None:
    """Symmetric, weak, broken and future keys do not take the good one away, and private parts are not kept."""
    good = key("ec").as_dict(private=True)
    weak = generate_private_key(65537, 1024).public_key().public_numbers()
    others = [
        {"kty": "oct", "k": "AAAA"},
        {"kty": "RSA", "n": int_to_base64(weak.n), "e": int_to_base64(weak.e)},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "AKP", "alg": "ML-DSA-44"},
    ]
    (kept,) = parse(orjson.dumps({"keys": [*others, good]}))
    assert not kept.is_private
