"""How the bridge's port is served: TLS, and patience with senders whose request never comes to its end.

    uvicorn.Config(app, host=..., port=..., **wire.options(settings, door))

`guard` bounds what an ASGI application can see. Before that, the server itself waits for headers, and it would wait
for ever and keep any number of them.
"""

import asyncio
import ssl
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agents.bridge.door import Door
from streams.settings import Settings, SettingsError

#: Bytes of a request before its body; servers and proxies in front allow less.
HEAD_BYTES = 64 * 1024


class Patient(HttpToolsProtocol):
    """Uvicorn's connection, cut where a request takes longer than `seconds` to arrive or its head is too large.

    A request that the door refuses gets its answer right here: nothing is made for it that costs time.
    """

    seconds: float
    door: Door

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Also the first byte has to come in time."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; what it keeps of an unfinished head is bounded."""
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Its head is here, and the application takes over."""
        self._in_head = False
        self._refused = self._is_free() and self.parser.get_method() != b"HEAD" and self.door.refuses(self.url)
        if not self._refused:
            super().on_headers_complete()
        elif self.expect_100_continue:  # it has not sent its body, and need not
            self._turn_away(keep=False)

    def on_body(self, body: bytes) -> None:
        """A part of it is here."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._stop_timer()
        if not self._refused:
            super().on_message_complete()
        elif not self.transport.is_closing():
            self._turn_away(keep=self.parser.should_keep_alive())

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nothing to wait for any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def _is_free(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _turn_away(self, *, keep: bool) -> None:
        head = [*self.server_state.default_headers, *(() if keep else ((b"connection", b"close"),))]
        self.transport.write(self.door.refusal(self.url, self.headers, head))
        if keep:
            self.on_response_complete()
        else:
            self.transport.close()

    def _expect_head(self) -> None:
        self._in_head, self._head = True, 0
        self._start_timer()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.seconds, self._cut)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        if not self._is_free():
            self._start_timer()  # an answer is under way: either Guard's to this sender, or one it pipelined behind
        elif self._in_head:
            self._refuse(b"408 Request Timeout")
        else:
            self.transport.close()

    def _refuse(self, status: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


def options(settings: Settings, door: Door) -> dict[str, Any]:
    """Returns what `uvicorn.Config` needs of the settings; raises SettingsError where certificates cannot be used."""
    protocol = type("BridgeProtocol", (Patient,), {"seconds": settings.receive_seconds, "door": door})
    return {"http": protocol, "ws": "none", "server_header": False} | _tls(settings)


def _tls(settings: Settings) -> dict[str, Any]:
    certfile, keyfile, cafile = (
        settings.http_tls_certfile,
        settings.http_tls_keyfile,
        settings.http_tls_client_cafile,
    )
    if certfile is None:
        if keyfile is not None or cafile is not None:
            raise SettingsError("STREAMS_HTTP_TLS_CERTFILE: expected a file, since other TLS files are set")
        return {}
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certfile, keyfile)
        if cafile is not None:
            context.load_verify_locations(cafile)
    except OSError as error:
        raise SettingsError(f"STREAMS_HTTP_TLS_CERTFILE, _KEYFILE, _CLIENT_CAFILE: cannot be used: {error}") from None
    found: dict[str, Any] = {"ssl_certfile": str(certfile), "ssl_keyfile": keyfile and str(keyfile)}
    if cafile is not None:
        found |= {"ssl_ca_certs": str(cafile), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return found
