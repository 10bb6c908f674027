"""A secured Kafka for the tests: TLS with certificates of our own, every SASL mechanism, and mutual TLS."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr

from streams.brokers.security import KafkaSecurity, Mechanism
from tests.support.java import free_ports
from tests.support.kafka import Kafka, Properties, server_properties
from tests.support.tokens import token_endpoint

USERNAME = "alice"
PASSWORD = "correct horse 4711"
CLIENT_ID = "stream-worker"
CLIENT_SECRET = "battery staple 0815"
AUDIENCE = "kafka"
ISSUER = "test-issuer"
SCRAM: tuple[Mechanism, ...] = ("SCRAM-SHA-256", "SCRAM-SHA-512")
LOGIN_MODULES: dict[Mechanism, str] = {
    "PLAIN": f'plain.PlainLoginModule required user_{USERNAME}="{PASSWORD}"',
    "SCRAM-SHA-256": "scram.ScramLoginModule required",
    "SCRAM-SHA-512": "scram.ScramLoginModule required",
    "OAUTHBEARER": "oauthbearer.OAuthBearerLoginModule required",
}
VALIDATOR = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"


@dataclass(frozen=True)
class SecureKafka:
    """A secured broker and what its clients need: `security(mechanism)` or `mutual_tls` reach it."""

    broker: Kafka
    #: SASL over TLS: every mechanism.
    sasl_servers: str
    #: TLS that asks clients for a certificate.
    mutual_tls_servers: str
    cafile: Path
    certfile: Path
    keyfile: Path
    token_url: str

    def security(self, mechanism: Mechanism, **changes: Any) -> KafkaSecurity:
        """Returns settings that `sasl_servers` accepts, with `changes` to them."""
        login: dict[str, Any] = {"username": USERNAME, "password": SecretStr(PASSWORD)}
        if mechanism == "OAUTHBEARER":
            login = {
                "oauth_token_url": self.token_url,
                "oauth_client_id": CLIENT_ID,
                "oauth_client_secret": SecretStr(CLIENT_SECRET),
                "oauth_scope": "stream",
            }
        fields = {"protocol": "SASL_SSL", "mechanism": mechanism, "cafile": self.cafile} | login | changes
        return KafkaSecurity(**fields)

    @property
    def mutual_tls(self) -> KafkaSecurity:
        """Returns settings that `mutual_tls_servers` accepts."""
        return KafkaSecurity(protocol="SSL", cafile=self.cafile, certfile=self.certfile, keyfile=self.keyfile)


@contextmanager
def secure_kafka(folder: Path) -> Iterator[SecureKafka]:
    """Runs a secured broker and its token endpoint; raises Unavailable."""
    folder.mkdir(parents=True, exist_ok=True)
    _certificates(folder)
    with _tokens(folder / "jwks.json") as token_url:
        port, controller, sasl, mutual = free_ports(4)
        properties = server_properties(folder, 1, port, controller, f"1@127.0.0.1:{controller}")
        _secure(properties, folder, sasl, mutual)
        broker = Kafka(
            folder,
            port,
            properties,
            scram=[f"{mechanism}=[name={USERNAME},password={PASSWORD}]" for mechanism in SCRAM],
            jvm=[f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={(folder / 'jwks.json').as_uri()}"],
        )
        try:
            broker.start()
            yield SecureKafka(
                broker,
                f"127.0.0.1:{sasl}",
                f"127.0.0.1:{mutual}",
                folder / "ca.pem",
                folder / "client.pem",
                folder / "client.key",
                token_url,
            )
        finally:
            broker.stop()


def _secure(properties: Properties, folder: Path, sasl: int, mutual: int) -> None:
    for key in ("listeners", "advertised.listeners"):
        properties[key] = f"{properties[key]},SASL_SSL://127.0.0.1:{sasl},MUTUAL://127.0.0.1:{mutual}"
    properties["listener.security.protocol.map"] = (
        f"{properties['listener.security.protocol.map']},SASL_SSL:SASL_SSL,MUTUAL:SSL"
    )
    properties |= {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.mutual.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": ",".join(LOGIN_MODULES),
        "sasl.oauthbearer.jwks.endpoint.url": (folder / "jwks.json").as_uri(),
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "sasl.oauthbearer.expected.issuer": ISSUER,
        "listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class": VALIDATOR,
    }
    for mechanism, module in LOGIN_MODULES.items():
        properties[f"listener.name.sasl_ssl.{mechanism.lower()}.sasl.jaas.config"] = (
            f"org.apache.kafka.common.security.{module};"
        )


def _certificates(folder: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    broker = authority.issue_cert("127.0.0.1")
    key = load_pem_private_key(broker.private_key_pem.bytes(), password=None)
    chain = b"".join(blob.bytes() for blob in broker.cert_chain_pems)
    # Kafka reads a PEM key store only where the key is PKCS #8.
    (folder / "broker.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + chain)
    client = authority.issue_cert("worker@example.org")
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    client.private_key_pem.write_to_path(str(folder / "client.key"))


@contextmanager
def _tokens(jwks: Path) -> Iterator[str]:
    """Hands out tokens signed with the key that it writes to `jwks`, and yields its URL."""
    key = RSAKey.generate_key(2048, parameters={"kid": "test", "use": "sig", "alg": "RS256"})
    jwks.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    expected = "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()

    def answer(authorization: str) -> tuple[int, dict[str, Any]]:
        return (200, _token(key)) if authorization == expected else (401, {"error": "invalid_client"})

    with token_endpoint(answer) as endpoint:
        yield endpoint.url


def _token(key: RSAKey) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "sub": CLIENT_ID,
        "iss": ISSUER,
        "aud": AUDIENCE,
        "scope": "stream",
        "iat": now,
        "exp": now + 300,
    }
    token = jwt.encode({"alg": "RS256", "kid": "test"}, claims, key)
    return {"access_token": token, "token_type": "Bearer", "expires_in": 300}
