"""The gateway without a mesh: its configuration, run by a real nginx in front of a bridge that only answers."""

import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx2
import pytest
import trustme

from streams.settings import Settings
from tests.deploy.manifests import ROOT
from tests.support.java import free_ports

CONFIG = (ROOT / "k8s/nginx/nginx.conf").read_text()


class Bridge(BaseHTTPRequestHandler):
    """Answers everything, and says what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"{self.path} {self.headers['X-Forwarded-For']} {self.headers.get('traceparent', '-')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-Id", self.headers["X-Request-Id"])
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A client of a running gateway."""
    nginx, folder = shutil.which("nginx") or "/usr/sbin/nginx", tmp_path_factory.mktemp("nginx")
    if not Path(nginx).exists():
        pytest.skip("nginx is not here (Debian's package nginx has it)")
    (port,) = free_ports(1)
    authority = trustme.CA()
    identity = authority.issue_cert("localhost")
    identity.private_key_pem.write_to_path(folder / "tls.key")
    for blob in identity.cert_chain_pems:
        blob.write_to_path(folder / "tls.crt", append=True)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Bridge) as bridge:
        Thread(target=bridge.serve_forever, daemon=True).start()
        (folder / "upstream.conf").write_text(f"upstream bridge {{ server 127.0.0.1:{bridge.server_port}; }}")
        text = CONFIG.replace("listen 8443", f"listen 127.0.0.1:{port}").replace("/dev/stdout", "/tmp/access.log")
        text = text.replace("rate=50r/s", "rate=1r/s")  # else it is the machine's speed that decides about a flood
        text = re.sub(r" (/tmp|/etc/nginx|/run/secrets/tls)/", f" {folder}/", text)
        (folder / "nginx.conf").write_text(text)
        command = [
            nginx,
            "-c",
            f"{folder}/nginx.conf",
            "-p",
            str(folder),
            "-g",
            "daemon off;",
            "-e",
            f"{folder}/error.log",
        ]
        subprocess.run([*command, "-t"], check=True, capture_output=True)
        process = subprocess.Popen(command)
        try:
            verify = ssl.create_default_context(cafile=folder / "ca.pem")
            with httpx2.Client(base_url=f"https://localhost:{port}", verify=verify, timeout=30) as client:
                _await(client)
                yield client
        finally:
            process.terminate()
            process.wait()
            bridge.shutdown()


def _await(client: httpx2.Client) -> None:
    for _ in range(100):
        try:
            client.get("/healthz")
        except httpx2.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("nginx does not listen")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/sentences/s-1/results", "/docs", "/openapi.json"])
def test_callers_reach_their_routes(gateway: httpx2.Client, path: str) -> None:
    """Trace and request id go through; who calls is not what the caller says."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = gateway.get(path, headers={"traceparent": trace, "X-Request-Id": "mine", "X-Forwarded-For": "8.8.8.8"})
    assert answer.text == f"{path} 127.0.0.1 {trace}"
    assert answer.headers["X-Request-Id"] == "mine"


@pytest.mark.parametrize("path", ["/metrics", "/health/ready", "/", "/v2/embeddings"])
def test_nobody_reaches_anything_else(gateway: httpx2.Client, path: str) -> None:
    """Metrics and health are for the inside."""
    answer = gateway.get(path)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_body_beyond_the_bridges_limit_is_refused_here(gateway: httpx2.Client) -> None:
    """As a problem, like the bridge's own."""
    answer = gateway.post("/v1/embeddings", content=b"x" * (Settings().max_body_bytes + 1))
    assert answer.status_code == 413
    assert answer.json()["status"] == 413


def test_a_flood_is_told_to_come_back(gateway: httpx2.Client) -> None:
    """Beyond the rate and its burst callers get 429 and Retry-After; another caller is not concerned."""
    flood = {"Authorization": "Bearer one"}
    answers = [gateway.get("/v1/models", headers=flood) for _ in range(200)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(answer.headers["Retry-After"] == "1" for answer in refused)
    assert gateway.get("/v1/models", headers={"Authorization": "Bearer two"}).status_code == 200


def test_limits_are_those_of_the_settings() -> None:
    """Size and times follow the bridge's defaults; it answers before the gateway gives up."""
    settings = Settings()
    assert f"client_max_body_size {settings.max_body_bytes};" in CONFIG
    assert f"client_body_timeout {settings.receive_seconds:.0f}s;" in CONFIG
    assert f"proxy_read_timeout {settings.request_timeout + 5:.0f}s;" in CONFIG
