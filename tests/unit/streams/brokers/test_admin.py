"""What provisioning says, and how it fails where there is no broker."""

import socket
import time
from threading import Thread

import pytest

from streams.brokers.admin import BrokerUnreachable, CannotShrink, Provisioned, connect, describe, provision


@pytest.mark.parametrize(
    ("done", "line"),
    [
        (Provisioned("t"), "t: unchanged"),
        (Provisioned("t", created=True), "t: created"),
        (Provisioned("t", grown=(4, 8)), "t: grown 4->8"),
        (Provisioned("t", changed={"retention.ms": ("1", "2")}), "t: config changed retention.ms 1->2"),
        (Provisioned("t", replication=(1, 3)), "t: replication left at 1 (wanted 3)"),
        (
            Provisioned("t", grown=(4, 8), changed={"a": ("1", "2"), "b": ("3", "4")}),
            "t: grown 4->8, config changed a 1->2, config changed b 3->4",
        ),
    ],
)
def test_a_report_is_one_line(done: Provisioned, line: str) -> None:
    """What was done to a topic reads as one line."""
    assert str(done) == line


def test_shrinking_names_topic_and_numbers() -> None:
    """The refusal names the topic, what it has and what was wanted."""
    error = CannotShrink("sentence.requests", has=8, wanted=4)
    assert (error.topic, error.has, error.wanted) == ("sentence.requests", 8, 4)
    assert "sentence.requests has 8 partitions, wanted 4" in str(error)


@pytest.mark.parametrize("action", [connect, lambda servers, timeout: describe(servers, ["t"], timeout=timeout)])
def test_nobody_there(action, capfd: pytest.CaptureFixture[str]) -> None:
    """Where nobody listens the error says so within the timeout, with address and reason, and nothing is printed."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(BrokerUnreachable, match=f"{address} within 0.5 s: .*Connection refused"):
            action(address, timeout=0.5)
    assert time.monotonic() - begin < 5
    assert capfd.readouterr() == ("", "")


def test_provision_needs_a_broker() -> None:
    """Provisioning without a broker fails with the same error."""
    with pytest.raises(BrokerUnreachable):
        provision("127.0.0.1:1", [], timeout=0.5)


def test_a_port_that_hangs_up() -> None:
    """Something that closes every connection, as a TLS listener does to a plain client, points at the protocol."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=_hang_up, args=(server,), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(BrokerUnreachable, match="STREAMS_KAFKA_SECURITY_PROTOCOL"):
            connect(address, timeout=1.5)


def _hang_up(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return
