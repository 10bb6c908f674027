"""How to reach the brokers safely: one frozen record that every Kafka client takes its settings from."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed
from pydantic import SecretStr

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

PREFIX = "STREAMS_KAFKA_"
#: The setting behind each field, as error messages name it.
SETTINGS = {
    "protocol": "SECURITY_PROTOCOL",
    "mechanism": "SASL_MECHANISM",
    "username": "SASL_USERNAME",
    "password": "SASL_PASSWORD",
    "cafile": "SSL_CAFILE",
    "certfile": "SSL_CERTFILE",
    "keyfile": "SSL_KEYFILE",
    "oauth_token_url": "OAUTH_TOKEN_URL",
    "oauth_client_id": "OAUTH_CLIENT_ID",
    "oauth_client_secret": "OAUTH_CLIENT_SECRET",
    "oauth_scope": "OAUTH_SCOPE",
}
TLS = ("cafile", "certfile", "keyfile")
LOGIN = ("username", "password")
OAUTH = ("oauth_token_url", "oauth_client_id", "oauth_client_secret")
#: Seconds the token endpoint may take, and seconds before its end that a token counts as expired.
TOKEN_TIMEOUT = 10.0
TOKEN_LEEWAY = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSecurity:
    """Protocol, login and certificates of the connection to the brokers; the default is an open, plain one.

    Raises ValueError, one line that names the setting, where the fields do not fit together or a file is
    missing or not what it should be. Certificates and keys are PEM files; without `cafile` the system's
    authorities are trusted (the token endpoint of OAUTHBEARER is always checked against those).
    """

    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism | None = None
    username: str | None = None
    password: SecretStr | None = None
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    oauth_token_url: str | None = None
    oauth_client_id: str | None = None
    oauth_client_secret: SecretStr | None = None
    oauth_scope: str | None = None

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(problem)
        if self.tls:
            self._ssl_context()

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.protocol in {"SSL", "SASL_SSL"}

    @property
    def sasl(self) -> bool:
        """Whether the client logs in."""
        return self.protocol.startswith("SASL_")

    def librdkafka(self) -> dict[str, Any]:
        """Returns the security settings of a confluent-kafka client; they hold the secrets in clear."""
        config: dict[str, Any] = {"security.protocol": self.protocol, "sasl.mechanism": self.mechanism}
        files = {"ca": self.cafile, "certificate": self.certfile, "key": self.keyfile}
        config |= {f"ssl.{name}.location": str(path) for name, path in files.items() if path}
        if self.mechanism == "OAUTHBEARER":
            config |= {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": self.oauth_token_url,
                "sasl.oauthbearer.client.id": self.oauth_client_id,
                "sasl.oauthbearer.client.secret": _reveal(self.oauth_client_secret),
                "sasl.oauthbearer.scope": self.oauth_scope,
            }
        else:
            config |= {"sasl.username": self.username, "sasl.password": _reveal(self.password)}
        return {name: value for name, value in config.items() if value is not None}

    def aiokafka(self) -> dict[str, Any]:
        """Returns the security arguments of an aiokafka client; they hold the secrets in clear."""
        arguments: dict[str, Any] = {"security_protocol": self.protocol}
        if self.tls:
            arguments["ssl_context"] = self._ssl_context()
        if self.sasl:
            arguments["sasl_mechanism"] = self.mechanism
        if self.mechanism == "OAUTHBEARER":
            arguments["sasl_oauth_token_provider"] = TokenProvider(self)
        elif self.sasl:
            arguments |= {"sasl_plain_username": self.username, "sasl_plain_password": _reveal(self.password)}
        return arguments

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.cafile)
        except ssl.SSLError:
            raise ValueError(f"{_name('cafile')}: {self.cafile} is not a PEM file of certificates") from None
        if self.certfile:
            try:
                context.load_cert_chain(self.certfile, self.keyfile, password=_no_passphrase)
            except (ssl.SSLError, ValueError):
                raise ValueError(
                    f"{_name('certfile')}: {self.certfile} is not a PEM certificate, or {_name('keyfile')} "
                    f"{self.keyfile} is not its unencrypted PEM key"
                ) from None
        return context


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Fetches OAUTHBEARER tokens by client credentials, and keeps each until shortly before its end.

    Safe to share between connections and event loops. Raises aiokafka's SaslAuthenticationFailed where the
    endpoint refuses the client, KafkaConnectionError where it does not answer: what aiokafka expects.
    """

    def __init__(self, security: KafkaSecurity) -> None:
        self._security = security
        self._token: Any = None
        self._lock = threading.Lock()

    async def token(self) -> str:
        """Returns a token that is good for at least another TOKEN_LEEWAY seconds."""
        return await asyncio.to_thread(self._fresh)

    def _fresh(self) -> str:
        with self._lock:
            # A token that names no end (None) is asked for again at every connection.
            if self._token is None or self._token.is_expired(leeway=TOKEN_LEEWAY) is not False:
                self._token = self._fetch()
            return str(self._token["access_token"])

    def _fetch(self) -> Any:
        # Imported here: these take as long as a fifth of a worker's start, and few logins need them.
        from authlib.integrations.base_client import OAuthError  # type: ignore[import-untyped]
        from authlib.integrations.httpx_client import OAuth2Client  # type: ignore[import-untyped]
        from httpx2 import HTTPError

        security = self._security
        try:
            with OAuth2Client(
                client_id=security.oauth_client_id,
                client_secret=_reveal(security.oauth_client_secret),
                scope=security.oauth_scope,
                timeout=TOKEN_TIMEOUT,
            ) as client:
                token = client.fetch_token(security.oauth_token_url, grant_type="client_credentials")
        except OAuthError as error:
            raise SaslAuthenticationFailed(f"{security.oauth_token_url} gave no token: {error}") from None
        except (HTTPError, ValueError) as error:
            raise KafkaConnectionError(f"{security.oauth_token_url} gave no token: {error}") from None
        if "access_token" not in token:
            raise SaslAuthenticationFailed(f"{security.oauth_token_url} answered without an access_token")
        return token


def _problems(security: KafkaSecurity) -> Iterator[str]:
    protocol, mechanism = _name("protocol"), _name("mechanism")
    if security.sasl and security.mechanism is None:
        yield f"{mechanism}: required with {security.protocol} ({', '.join(get_args(Mechanism))})"
    if not security.sasl:
        wanted = f"a {protocol} of SASL_SSL or SASL_PLAINTEXT"
        yield from _unused(security, ("mechanism", *LOGIN, *OAUTH, "oauth_scope"), wanted)
    elif security.mechanism == "OAUTHBEARER":
        yield from _missing(security, OAUTH)
        yield from _unused(security, LOGIN, f"a {mechanism} of PLAIN or SCRAM")
        if not (security.oauth_token_url or "").startswith(("http://", "https://")):
            yield f"{_name('oauth_token_url')}: expected a URL that begins with https:// or http://"
    else:
        yield from _missing(security, LOGIN)
        yield from _unused(security, (*OAUTH, "oauth_scope"), f"a {mechanism} of OAUTHBEARER")
    if not security.tls:
        yield from _unused(security, TLS, f"a {protocol} of SSL or SASL_SSL")
    for one, other in (("certfile", "keyfile"), ("keyfile", "certfile")):
        if getattr(security, one) and not getattr(security, other):
            yield f"{_name(other)}: required with {_name(one)}"
    for field in TLS:
        path = getattr(security, field)
        if path and not path.is_file():
            yield f"{_name(field)}: there is no file {path}"


def _missing(security: KafkaSecurity, fields: tuple[str, ...]) -> Iterator[str]:
    for field in fields:
        if not getattr(security, field):
            yield f"{_name(field)}: required with {_name('mechanism')} {security.mechanism}"


def _unused(security: KafkaSecurity, fields: tuple[str, ...], wanted: str) -> Iterator[str]:
    # A login or certificate that would silently not be used is a mistake: nobody sets one for nothing.
    for field in fields:
        if getattr(security, field):
            yield f"{_name(field)}: only used with {wanted}, unset it or change that"


def _name(field: str) -> str:
    return PREFIX + SETTINGS[field]


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _no_passphrase() -> str:
    # Without this OpenSSL asks the terminal for the passphrase of an encrypted key.
    raise ValueError("the key is encrypted")
