"""Notifications: critical alerts by mail, Slack, webhook and whatever else Apprise knows."""

from typing import Any

from schemas.errors import StreamsError


class NotifyError(StreamsError):
    """Notifications cannot be sent as the settings say; the message tells why."""


class Notifier:
    """Sends to every address of STREAMS_NOTIFY_URLS."""

    def __init__(self, urls: str) -> None:
        """`urls` are Apprise's, separated by spaces; raises NotifyError for one that it does not know."""
        try:
            from apprise import Apprise, AppriseAsset
        except ImportError:
            raise NotifyError("STREAMS_NOTIFY_URLS needs apprise: pip install 'sentence-streams[notify]'") from None
        # No address is a file of more addresses or of commands: what the setting says is all there is.
        self._apprise: Any = Apprise(asset=AppriseAsset(app_id="sentence-streams", secure_logging=True))
        for number, url in enumerate(urls.split(), start=1):
            if not self._apprise.add(url):
                raise NotifyError(f"STREAMS_NOTIFY_URLS: Apprise does not know address {number}")

    def send(self, title: str, body: str) -> bool:
        """Sends now; blocks for as long as the receivers take. Returns whether all of them took it."""
        return bool(self._apprise.notify(title=title, body=body))
