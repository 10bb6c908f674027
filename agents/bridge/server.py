"""Serving the bridge over HTTP until it is told to leave: then nothing new, and an answer to all that was accepted."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
import uvloop

from agents.bridge import wire
from agents.bridge.app import Bridge, create
from agents.clients import codec
from streams.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

#: Seconds between "not ready any more" and the end of accepting: what balances the load needs them to notice.
NOTICE = 1.0
#: Seconds an idle connection is kept: longer than load balancers do, so that it is never us who close first.
KEEP_ALIVE = 75
#: Connections that the system may hold before we accept them.
BACKLOG = 4096


def bridge(settings: Settings) -> None:
    """Serves until it is told to leave; raises SettingsError where settings do not fit together."""
    with codec(settings) as coder:
        made = Bridge(settings, coder)
        server = _Server(_config(made))
        with _listening(settings) as port:
            uvloop.run(serve(made, server, port))


async def serve(bridge: Bridge, server: uvicorn.Server, port: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT; raises what ended the hearing of the stream, if that ever happens."""
    async with bridge.running() as hearing:
        serving = asyncio.get_running_loop().create_task(server.serve([port]))
        leaving = _Leaving(bridge, server)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, leaving.begin)
        await asyncio.wait({serving, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if hearing.done() and not serving.done():
            log.critical("crashed", error=repr(hearing.exception()))
            server.should_exit = True
            await serving
            hearing.result()
        serving.result()


class _Leaving:
    """Not ready at once; a moment later, or at the second signal, nothing is accepted any more."""

    def __init__(self, bridge: Bridge, server: uvicorn.Server) -> None:
        self._bridge, self._server = bridge, server

    def begin(self) -> None:
        if self._bridge.leaving:
            self._end()
            return
        log.info("leaving", in_flight=self._bridge.replies.asked)
        self._bridge.leaving = True
        asyncio.get_running_loop().call_later(NOTICE, self._end)

    def _end(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn's, but for the signals, which are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listening(settings: Settings) -> socket.socket:
    """Returns the socket, listening; raises SettingsError where that is not possible."""
    host, port = settings.http_host, settings.http_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        why = f"cannot listen on {host}:{port}: {error.strerror}"
        raise SettingsError(f"STREAMS_HTTP_HOST, STREAMS_HTTP_PORT: {why}") from None
    log.info("listening", address="{}:{}".format(*listening.getsockname()[:2]))
    return listening


def _config(bridge: Bridge) -> uvicorn.Config:
    settings = bridge.settings
    return uvicorn.Config(
        create(bridge),
        lifespan="off",
        log_config=None,
        access_log=False,  # ours has more in it
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.drain_timeout),
        **wire.options(settings, bridge.door),
    )
