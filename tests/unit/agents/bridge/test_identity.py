"""Who calls, and what they may do."""

from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
import structlog
from fastapi import Depends, FastAPI

from agents.bridge import problems
from agents.bridge.api_keys import make
from agents.bridge.identity import Authenticator, Caller, Identify, Needs, Roles, Scope
from streams.settings import Settings, SettingsError
from tests.unit.agents.bridge.issuer import AUDIENCE, ISSUER, claims, jwks, key, signed

DEFAULT = Settings.model_fields["roles"].default


def app_with(authenticator: Authenticator | None) -> httpx2.AsyncClient:
    """Returns a client of an app with one endpoint for each of two scopes, and one for everybody."""
    app = FastAPI()
    problems.install(app)
    if authenticator is not None:
        app.add_middleware(Identify, authenticator=authenticator)

    @app.get("/v1/embed")
    async def embed(caller: Annotated[Caller, Depends(Needs(Scope.EMBED).caller)]) -> str:
        return caller.name

    @app.get("/v1/replay")
    async def replay(caller: Annotated[Caller, Depends(Needs(Scope.REPLAY).caller)]) -> str:
        return caller.name

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://bridge")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Both ways to prove who one is; `api_key` beside the file is the key of `billing`, a reader."""
    api_key, line = make("billing", ["reader"])
    (tmp_path / "api_key").write_text(api_key)
    (tmp_path / "keys").write_text(str(line))
    (tmp_path / "jwks").write_bytes(jwks(key("ec")))
    return Settings(
        auth=("jwt", "api-key"),
        http_host="0.0.0.0",
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        jwt_jwks=str(tmp_path / "jwks"),
        api_keys_file=tmp_path / "keys",
    )


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


async def test_each_way_leads_to_a_caller(settings: Settings, tmp_path: Path) -> None:
    """A token and an API key work side by side, and either names a caller of its own."""
    async with app_with(Authenticator.from_settings(settings)) as client:
        by_key = await client.get("/v1/embed", headers=bearer((tmp_path / "api_key").read_text()))
        by_token = await client.get("/v1/embed", headers=bearer(signed(key("ec"), "ES256")))
    assert (by_key.json(), by_token.json()) == ("key:billing", f"jwt:{ISSUER}:ann")


@pytest.mark.parametrize(
    ("headers", "reason", "error"),
    [
        ([], "no-credentials", False),
        ([("Authorization", "Bearer")], "unknown-scheme", True),
        ([("Authorization", "Basic YTpi")], "unknown-scheme", True),
        ([("Authorization", "Bearer secret-1"), ("Authorization", "Bearer secret-2")], "unknown-scheme", True),
        ([("Authorization", "Bearer ss_billing_secret")], "unknown-api-key", True),
        ([("Authorization", "Bearer a.b.c")], "malformed-token", True),
    ],
)
async def test_a_stranger_is_told_how_to_prove_who_it_is(
    headers: list[tuple[str, str]], reason: str, error: bool, settings: Settings
) -> None:
    """401 with a challenge (RFC 6750), before anything else; the log has the reason and never the credential."""
    with structlog.testing.capture_logs() as logs:
        async with app_with(Authenticator.from_settings(settings)) as client:
            answer = await client.get("/v1/nowhere", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["type"] == "/problems/unauthenticated"
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="sentence-streams"')
    assert ('error="invalid_token"' in answer.headers["WWW-Authenticate"]) == error
    assert [entry["reason"] for entry in logs] == [reason]
    assert not [value for _, value in headers if len(value.split()) > 1 and value.split()[1] in str(logs)]


async def test_a_role_is_not_enough_for_every_scope(settings: Settings, tmp_path: Path) -> None:
    """403 names the scope that is missing, and the log names the caller."""
    with structlog.testing.capture_logs() as logs:
        async with app_with(Authenticator.from_settings(settings)) as client:
            answer = await client.get("/v1/replay", headers=bearer((tmp_path / "api_key").read_text()))
    assert answer.status_code == 403
    assert 'error="insufficient_scope", scope="replay"' in answer.headers["WWW-Authenticate"]
    assert [(entry["event"], entry["caller"]) for entry in logs] == [("forbidden", "key:billing")]


@pytest.mark.parametrize("roles", [[], ["stranger"], None])
async def test_who_has_no_role_of_ours_may_do_nothing(roles: Any, settings: Settings) -> None:
    """A token that is good says who one is, not that one may do anything."""
    token = signed(key("ec"), "ES256", payload=claims(roles=roles))
    async with app_with(Authenticator.from_settings(settings)) as client:
        assert (await client.get("/v1/embed", headers=bearer(token))).status_code == 403


async def test_health_needs_nobody(settings: Settings) -> None:
    """Only what lies below /v1 is protected."""
    async with app_with(Authenticator.from_settings(settings)) as client:
        assert (await client.get("/health")).status_code == 200


async def test_an_endpoint_is_closed_where_the_middleware_is_missing() -> None:
    """A mistake in putting the app together lets nobody in."""
    async with app_with(None) as client:
        assert (await client.get("/v1/embed")).status_code == 401


async def test_an_api_key_is_no_token(settings: Settings, tmp_path: Path) -> None:
    """A way that is not switched on is no way in."""
    api_key = (tmp_path / "api_key").read_text()
    only_tokens = Authenticator.from_settings(settings.model_copy(update={"auth": ("jwt",)}))
    only_keys = Authenticator.from_settings(settings.model_copy(update={"auth": ("api-key",)}))
    async with app_with(only_tokens) as client:
        assert (await client.get("/v1/embed", headers=bearer(api_key))).status_code == 401
    async with app_with(only_keys) as client:
        assert (await client.get("/v1/embed", headers=bearer(signed(key("ec"), "ES256")))).status_code == 401


async def test_without_keys_to_check_it_is_503(settings: Settings) -> None:
    """Nobody is called a stranger because the identity provider is away."""
    away = settings.model_copy(update={"jwt_jwks": "http://127.0.0.1:1/jwks"})
    async with app_with(Authenticator.from_settings(away)) as client:
        answer = await client.get("/v1/embed", headers=bearer(signed(key("ec"), "ES256")))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
async def test_on_loopback_nobody_has_to_prove_anything(host: str) -> None:
    """Where nothing is set, callers of this machine are anonymous, go by their address, and may do everything."""
    async with app_with(Authenticator.from_settings(Settings(http_host=host))) as client:
        answer = await client.get("/v1/replay")
    assert answer.json() == "anonymous:127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "bridge.example"])
def test_elsewhere_it_is_off_only_if_somebody_says_so(host: str) -> None:
    """A bridge that others can reach does not start by mistake without authentication."""
    with pytest.raises(SettingsError, match="STREAMS_AUTH: expected jwt, api-key or off"):
        Authenticator.from_settings(Settings(http_host=host))
    assert Authenticator.from_settings(Settings(http_host=host, auth=("off",)))


# -- roles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "scopes"),
    [
        ([], ""),
        (["stranger"], ""),
        (["reader"], "embed score models"),
        (["operator"], "embed score models replay dead-letters"),
        (["reader", "admin"], "embed score models replay dead-letters admin"),
    ],
)
def test_the_default_roles(roles: list[str], scopes: str) -> None:
    """Readers ask, operators repair, admins may do everything; several roles add up."""
    assert Roles(DEFAULT).scopes(roles) == set(map(Scope, scopes.split()))


def test_roles_can_be_others() -> None:
    """A setting names them, as an identity provider calls them."""
    roles = Roles("team:ml/users=embed, ops=replay+dead-letters")
    assert roles.scopes(["team:ml/users", "ops"]) == {Scope.EMBED, Scope.REPLAY, Scope.DEAD_LETTERS}
    assert "ops" in roles
    assert "reader" not in roles


@pytest.mark.parametrize("text", ["", "reader", "reader=", "=embed", "reader=embed+fly", "reader=embed,", "a b=embed"])
def test_wrong_roles_are_one_line(text: str) -> None:
    """It names the setting and what came."""
    with pytest.raises(SettingsError, match=r"^STREAMS_ROLES: expected [^\n]*$"):
        Roles(text)
