"""What the bridge listens on; how it leaves is in tests/integration, with a real one."""

import socket

import pytest

from agents.bridge.server import bridge
from streams.settings import SettingsError, load


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_is_one_line(host: str) -> None:
    """Where somebody else listens it says so, and does not start."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        other = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with other, pytest.raises(SettingsError, match=r"STREAMS_HTTP_PORT: cannot listen on .*: Address already in use"):
        bridge(load(http_host=host, http_port=other.getsockname()[1]))
