"""A token endpoint for the tests: OAuth client credentials, answered by a function of the test's."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs


@dataclass
class TokenEndpoint:
    """What clients asked of `url`: one (Authorization header, form) a request."""

    url: str
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


#: Authorization header -> HTTP status and body (a dict is sent as JSON, bytes as they are).
Answer = Callable[[str], tuple[int, dict[str, Any] | bytes]]


@contextmanager
def token_endpoint(answer: Answer) -> Iterator[TokenEndpoint]:
    """Serves POST on a loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            endpoint.requests.append((self.headers["Authorization"], {name: form[name][0] for name in form}))
            status, body = answer(self.headers["Authorization"])
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Keeps requests off the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint = TokenEndpoint(f"http://127.0.0.1:{server.server_port}/token")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()
