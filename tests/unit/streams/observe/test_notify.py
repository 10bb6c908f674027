"""Notifications, received by an HTTP server that is not a fake."""

from collections.abc import Iterator

import pytest

from streams.observe.notify import Notifier, NotifyError
from tests.support.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on loopback."""
    with receiving() as server:
        yield server


def test_a_webhook_gets_title_and_text(receiver: Receiver) -> None:
    """Every address of the setting does."""
    url = f"json://127.0.0.1:{receiver.server_port}"
    assert Notifier(f"{url}/a  {url}/b").send("scorer-quarantined: topic", "It is quarantined.")
    assert [(got["title"], got["message"]) for got in receiver.received] == [
        ("scorer-quarantined: topic", "It is quarantined.")
    ] * 2


def test_whether_it_was_taken_is_known(receiver: Receiver) -> None:
    """A receiver that refuses is not told."""
    receiver.status = 500
    assert not Notifier(f"json://127.0.0.1:{receiver.server_port}").send("title", "text")


def test_an_address_of_nothing_is_refused_without_being_shown() -> None:
    """It may hold a password; a process that cannot notify does not start."""
    with pytest.raises(NotifyError, match="Apprise does not know address 2") as caught:
        Notifier("json://localhost nonsense://user:hunter2@host")
    assert "hunter2" not in str(caught.value)
