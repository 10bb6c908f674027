"""Health that tells the truth, and metrics, on a port of the worker's own."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


@dataclass(frozen=True, slots=True)
class Check:
    """The answer of one health question: whether it holds, and why (not)."""

    ok: bool
    why: str


Question = Callable[[], Awaitable[Check]]


class HealthServer:
    """Serves `/health/live|ready|startup` and `/metrics`; 200 where the answer is yes, 503 where it is no."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        *,
        live: Question,
        ready: Question,
        startup: Question,
    ) -> None:
        """`port` 0 picks a free one; `address` tells which, once started."""
        self._host, self._port = host, port
        self._registry = registry
        app = web.Application()
        app.add_routes([web.get("/metrics", self._metrics)])
        for name, question in {"live": live, "ready": ready, "startup": startup}.items():
            app.add_routes([web.get(f"/health/{name}", _handler(question))])
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Listens; raises OSError where the port is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Closes the port."""
        await self._runner.cleanup()

    @property
    def address(self) -> str:
        """Where it listens, host:port."""
        host, port = self._runner.addresses[0][:2]
        return f"{host}:{port}"

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _handler(question: Question) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        check = await question()
        return web.json_response({"ok": check.ok, "why": check.why}, status=200 if check.ok else 503)

    return answer
