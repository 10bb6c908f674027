"""The port itself: senders that never come to an end, and TLS. Real sockets on loopback."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvicorn
from uvicorn.server import ServerState

from agents.bridge import wire
from agents.bridge.door import Door
from agents.bridge.metrics import BridgeMetrics
from streams.settings import Settings, SettingsError

SECONDS = 0.3
GET = b"GET / HTTP/1.1\r\nHost: bridge\r\n"


@pytest.fixture
def answers() -> asyncio.Event:
    """The app answers once this is set; it is, unless a test clears it."""
    event = asyncio.Event()
    event.set()
    return event


@pytest.fixture
def app(answers: asyncio.Event) -> Any:
    """An app that answers with its path, at `/early` without reading the body."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await answers.wait()
        while scope["path"] != "/early" and (await receive()).get("more_body"):
            pass
        body = scope["path"].encode()
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    return answer


@asynccontextmanager
async def serving(app: Any, **settings: Any) -> AsyncIterator[int]:
    """Serves `app` as `uvicorn` would with our options, and yields the port."""
    config = uvicorn.Config(
        app, log_config=None, **wire.options(Settings(receive_seconds=SECONDS, **settings), Door(BridgeMetrics()))
    )
    config.load()
    protocol: Any = config.http_protocol_class
    loop, state = asyncio.get_running_loop(), ServerState()
    server = await loop.create_server(
        lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0, ssl=config.ssl
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


async def talk(port: int, *pieces: bytes, pause: float = 0.0, **tls: Any) -> bytes:
    """Sends pieces, then returns what comes until the other side ends it, nothing where it does so harshly."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)
        return await asyncio.wait_for(reader.read(), timeout=10)
    except (ssl.SSLError, ConnectionError):
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "pieces",
    [(), (b"GET / HT",), (GET,), (GET, b"X-Slow: ", b"1")],
    ids=["nothing", "half a line", "half a head", "in pieces"],
)
async def test_a_head_that_does_not_end_is_cut(app: Any, pieces: tuple[bytes, ...]) -> None:
    """Nobody holds a connection by saying nothing, or a little at a time."""
    async with serving(app) as port:
        assert (await talk(port, *pieces, pause=SECONDS / 8)).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_nobody_waits_for_is_cut(app: Any) -> None:
    """After the answer, as after a 413, the rest of the body has its time, and no more."""
    async with serving(app) as port:
        said = await talk(port, b"POST /early HTTP/1.1\r\nHost: bridge\r\nContent-Length: 1000\r\n\r\nhalf")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert said.endswith(b"/early")


async def test_a_slow_answer_is_not_cut(app: Any, answers: asyncio.Event) -> None:
    """The time is for sending a request, not for answering it, also where the next one comes slowly behind it."""
    answers.clear()
    asyncio.get_running_loop().call_later(SECONDS * 3, answers.set)
    whole, half = GET.replace(b"/ ", b"/first ") + b"\r\n", GET.replace(b"/ ", b"/second ")
    async with serving(app) as port:
        said = await talk(port, whole + half)
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"/first" in said
    assert b"/second" not in said


async def test_a_connection_serves_one_request_after_another(app: Any) -> None:
    """Each request has the time of its own."""
    one, last = GET + b"\r\n", GET + b"Connection: close\r\n\r\n"
    async with serving(app) as port:
        said = await talk(port, one, one, one, last, pause=SECONDS / 2)
    assert said.count(b"HTTP/1.1 200 ") == 4


async def test_an_idle_connection_is_kept(app: Any) -> None:
    """Between two requests nobody is slow; how long it is kept then is the server's own matter."""
    async with serving(app) as port:
        said = await talk(port, GET + b"\r\n", GET + b"Connection: close\r\n\r\n", pause=SECONDS * 2)
    assert said.count(b"HTTP/1.1 200 ") == 2


async def test_a_later_request_is_cut_too(app: Any) -> None:
    """One request that was whole is no licence for the next."""
    async with serving(app) as port:
        said = await talk(port, GET + b"\r\n" + GET)
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


async def test_a_head_that_is_too_large_is_refused(app: Any) -> None:
    """The parser would keep all of it; many headers or one long one make no difference."""
    many, end = [b"X-Much: " + b"x" * 1000 + b"\r\n"] * 70, b"\r\n\r\n"
    long = [b"X-Much: ", *[b"x" * 7000] * 10]
    async with serving(app) as port:
        for pieces in (many, long):
            said = await talk(port, GET, *pieces, pause=0.001)
            assert said.startswith(b"HTTP/1.1 431 ") or said == b""
            assert (await talk(port, GET, *pieces[: len(pieces) // 2], end + GET)).startswith(b"HTTP/1.1 200 ")


async def test_a_large_body_is_not_a_large_head(app: Any) -> None:
    """Even if it arrives together with its head."""
    size = wire.HEAD_BYTES * 2
    head = f"POST / HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
    async with serving(app) as port:
        assert (await talk(port, head + b"x" * size)).startswith(b"HTTP/1.1 200 ")


# -- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    """Signs certificates."""
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    """Settings of a bridge with a certificate of that authority."""
    certificate = authority.issue_cert("127.0.0.1")
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(certfile))
    certificate.private_key_pem.write_to_path(str(keyfile))
    return {"http_tls_certfile": certfile, "http_tls_keyfile": keyfile}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls_by_settings(app: Any, authority: trustme.CA, tls: dict[str, Path]) -> None:
    """A certificate and a key, and the port speaks TLS; the clock runs from the connection, before any handshake."""
    async with serving(app, **tls) as port:
        said = await talk(port, GET + b"Connection: close\r\n\r\n", ssl=trusting(authority))
    assert said.startswith(b"HTTP/1.1 200 ")


async def test_mutual_tls_by_settings(app: Any, authority: trustme.CA, tls: dict[str, Path], tmp_path: Path) -> None:
    """With an authority of clients, whoever has no certificate of it does not get in."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    request = GET + b"Connection: close\r\n\r\n"
    async with serving(app, http_tls_client_cafile=tmp_path / "ca.pem", **tls) as port:
        assert await talk(port, request, ssl=trusting(authority)) == b""
        known = trusting(authority)
        authority.issue_cert("client.example").configure_cert(known)
        assert (await talk(port, request, ssl=known)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("missing", ["certfile", "file", "match"])
def test_certificates_that_cannot_be_used_are_one_line(missing: str, tls: dict[str, Path], tmp_path: Path) -> None:
    """The bridge says so before it listens."""
    match missing:
        case "certfile":
            del tls["http_tls_certfile"]
        case "file":
            tls["http_tls_keyfile"] = tmp_path / "none"
        case "match":
            other = trustme.CA().issue_cert("127.0.0.1")
            other.private_key_pem.write_to_path(str(tls["http_tls_keyfile"]))
    with pytest.raises(SettingsError, match=r"^STREAMS_HTTP_TLS_CERTFILE[^\n]*$"):
        wire.options(Settings(**tls), Door(BridgeMetrics()))
