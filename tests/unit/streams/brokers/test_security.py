"""KafkaSecurity: one record, the same settings for every client, mistakes named, secrets kept."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import SecretStr

from streams.brokers.security import KafkaSecurity, TokenProvider
from tests.support.tokens import token_endpoint

SECRET = "not for anyone's eyes"
LOGIN: dict[str, Any] = {"username": "alice", "password": SecretStr(SECRET)}
OAUTH: dict[str, Any] = {
    "oauth_token_url": "https://login.example.org/token",
    "oauth_client_id": "worker",
    "oauth_client_secret": SecretStr(SECRET),
}
SCRAM: dict[str, Any] = {"protocol": "SASL_PLAINTEXT", "mechanism": "SCRAM-SHA-512"} | LOGIN
BEARER: dict[str, Any] = {"protocol": "SASL_PLAINTEXT", "mechanism": "OAUTHBEARER"} | OAUTH


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, client.pem, its client.key, the same key encrypted, and other.key of somebody else."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    client, other = authority.issue_cert("worker@example.org"), authority.issue_cert("other@example.org")
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    client.private_key_pem.write_to_path(str(folder / "client.key"))
    other.private_key_pem.write_to_path(str(folder / "other.key"))
    key = load_pem_private_key(client.private_key_pem.bytes(), password=None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"locked"))
    (folder / "locked.key").write_bytes(locked)
    (folder / "empty.pem").touch()
    return folder


def test_default_is_a_plain_connection() -> None:
    """Without settings both clients connect in clear and without a login."""
    security = KafkaSecurity()
    assert security.librdkafka() == {"security.protocol": "PLAINTEXT"}
    assert security.aiokafka() == {"security_protocol": "PLAINTEXT"}


def test_scram_reaches_both_clients() -> None:
    """A SCRAM login is handed to librdkafka and to aiokafka alike."""
    security = KafkaSecurity(**SCRAM)
    assert security.librdkafka() == {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "alice",
        "sasl.password": SECRET,
    }
    assert security.aiokafka() == {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "alice",
        "sasl_plain_password": SECRET,
    }


def test_mutual_tls_reaches_both_clients(pem: Path) -> None:
    """Authorities, certificate and key go to librdkafka as paths, to aiokafka as a context that checks the broker."""
    security = KafkaSecurity(
        protocol="SSL", cafile=pem / "ca.pem", certfile=pem / "client.pem", keyfile=pem / "client.key"
    )
    assert security.librdkafka() == {
        "security.protocol": "SSL",
        "ssl.ca.location": str(pem / "ca.pem"),
        "ssl.certificate.location": str(pem / "client.pem"),
        "ssl.key.location": str(pem / "client.key"),
    }
    arguments = security.aiokafka()
    context = arguments.pop("ssl_context")
    assert arguments == {"security_protocol": "SSL"}
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1


def test_system_authorities_are_the_default() -> None:
    """TLS without an authority file trusts what the system trusts."""
    security = KafkaSecurity(protocol="SASL_SSL", mechanism="PLAIN", **LOGIN)
    assert "ssl.ca.location" not in security.librdkafka()
    assert security.aiokafka()["ssl_context"].verify_mode is ssl.CERT_REQUIRED


def test_oauth_reaches_both_clients() -> None:
    """Client credentials are librdkafka's own OIDC method, and a token provider for aiokafka."""
    security = KafkaSecurity(**BEARER, oauth_scope="stream")
    assert security.librdkafka() == {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "https://login.example.org/token",
        "sasl.oauthbearer.client.id": "worker",
        "sasl.oauthbearer.client.secret": SECRET,
        "sasl.oauthbearer.scope": "stream",
    }
    arguments = security.aiokafka()
    assert isinstance(arguments.pop("sasl_oauth_token_provider"), TokenProvider)
    assert arguments == {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": "SASL_SSL"} | LOGIN, "SASL_MECHANISM: required with SASL_SSL"),
        (SCRAM | {"username": None}, "SASL_USERNAME: required with STREAMS_KAFKA_SASL_MECHANISM SCRAM-SHA-512"),
        (SCRAM | {"password": None}, "SASL_PASSWORD: required with"),
        (SCRAM | {"password": SecretStr("")}, "SASL_PASSWORD: required with"),
        (SCRAM | {"protocol": "PLAINTEXT"}, "SASL_MECHANISM: only used with a STREAMS_KAFKA_SECURITY_PROTOCOL"),
        (LOGIN, "SASL_USERNAME: only used with a STREAMS_KAFKA_SECURITY_PROTOCOL of SASL_SSL"),
        (OAUTH, "OAUTH_TOKEN_URL: only used with"),
        (SCRAM | {"oauth_scope": "stream"}, "OAUTH_SCOPE: only used with a STREAMS_KAFKA_SASL_MECHANISM of OAUTH"),
        (BEARER | {"oauth_client_id": None}, "OAUTH_CLIENT_ID: required with"),
        (BEARER | {"oauth_client_secret": None}, "OAUTH_CLIENT_SECRET: required with"),
        (BEARER | {"oauth_token_url": "login/token"}, "OAUTH_TOKEN_URL: expected a URL"),
        (BEARER | LOGIN, "SASL_USERNAME: only used with a STREAMS_KAFKA_SASL_MECHANISM of PLAIN or SCRAM"),
        ({"cafile": "ca.pem"}, "SSL_CAFILE: only used with a STREAMS_KAFKA_SECURITY_PROTOCOL of SSL"),
        ({"protocol": "SSL", "certfile": "client.pem"}, "SSL_KEYFILE: required with STREAMS_KAFKA_SSL_CERTFILE"),
        ({"protocol": "SSL", "keyfile": "client.key"}, "SSL_CERTFILE: required with STREAMS_KAFKA_SSL_KEYFILE"),
        ({"protocol": "SSL", "cafile": "gone.pem"}, "SSL_CAFILE: there is no file "),
        ({"protocol": "SSL", "cafile": "client.key"}, "SSL_CAFILE: "),
        ({"protocol": "SSL", "cafile": "empty.pem"}, "SSL_CAFILE: "),
        ({"protocol": "SSL", "certfile": "client.pem", "keyfile": "other.key"}, "SSL_CERTFILE: "),
        ({"protocol": "SSL", "certfile": "client.pem", "keyfile": "locked.key"}, "SSL_CERTFILE: "),
        ({"protocol": "SSL", "certfile": "empty.pem", "keyfile": "client.key"}, "SSL_CERTFILE: "),
    ],
)
def test_a_mistake_is_named(pem: Path, fields: dict[str, Any], message: str) -> None:
    """Settings that do not fit together are refused with one line that names the setting, and no secret."""
    files = {name: pem / value if name.endswith("file") else value for name, value in fields.items()}
    with pytest.raises(ValueError, match="STREAMS_KAFKA_") as caught:
        KafkaSecurity(**files)
    assert str(caught.value).startswith(f"STREAMS_KAFKA_{message}")
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("fields", [SCRAM, BEARER])
def test_secrets_are_never_shown(fields: dict[str, Any]) -> None:
    """Neither repr nor str of the settings, nor of what aiokafka gets for OAuth, holds a secret."""
    security = KafkaSecurity(**fields)
    assert SECRET not in f"{security!r} {security!s}"
    assert SECRET not in repr(security.aiokafka().get("sasl_oauth_token_provider"))


async def _two_tokens(url: str) -> list[str]:
    provider = TokenProvider(KafkaSecurity(**BEARER | {"oauth_token_url": url}, oauth_scope="stream"))
    return list(await asyncio.gather(provider.token(), provider.token()))


async def test_a_token_is_asked_for_once() -> None:
    """Connections share a token that is still good, got with the client's id, secret and scope."""
    with token_endpoint(lambda _: (200, {"access_token": "t", "token_type": "Bearer", "expires_in": 300})) as endpoint:
        assert await _two_tokens(endpoint.url) == ["t", "t"]
    ((authorization, form),) = endpoint.requests
    assert authorization.startswith("Basic ")
    assert form == {"grant_type": "client_credentials", "scope": "stream"}


@pytest.mark.parametrize("lifetime", [{"expires_in": 5}, {}])
async def test_an_ageing_token_is_replaced(lifetime: dict[str, int]) -> None:
    """A token about to end, or one that does not say when it ends, is not used for a second connection."""
    with token_endpoint(lambda _: (200, {"access_token": "t", "token_type": "Bearer", **lifetime})) as endpoint:
        await _two_tokens(endpoint.url)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, {"error": "invalid_client"}, SaslAuthenticationFailed),
        (200, {"token_type": "Bearer"}, SaslAuthenticationFailed),
        (503, b"busy", KafkaConnectionError),
        (200, b"<html>", KafkaConnectionError),
    ],
)
async def test_no_token_is_an_error_aiokafka_knows(status: int, body: Any, error: type[Exception]) -> None:
    """A refusal, or an endpoint that is not one, becomes aiokafka's own error, naming the endpoint, not the secret."""
    with token_endpoint(lambda _: (status, body)) as endpoint, pytest.raises(error, match=endpoint.url) as caught:
        await _two_tokens(endpoint.url)
    assert SECRET not in str(caught.value)


async def test_an_endpoint_that_is_away_is_a_connection_error() -> None:
    """Where nobody listens, aiokafka sees a connection error, which it retries."""
    with token_endpoint(lambda _: (200, {})) as endpoint:
        pass
    with pytest.raises(KafkaConnectionError, match=endpoint.url):
        await _two_tokens(endpoint.url)
