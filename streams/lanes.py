"""The lanes a request can take, and how long each may be kept waiting by a more urgent one."""

from dataclasses import dataclass
from enum import StrEnum


class LaneName(StrEnum):
    """Names as `STREAMS_LANES` and the metrics spell them."""

    INTERACTIVE = "interactive"
    BULK = "bulk"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class Lane:
    """A request topic and its urgency.

    `patience` (seconds) is how much longer a record of this lane may wait than one of the interactive lane
    that came at the same moment: the queue serves the record whose arrival + patience is earliest, so urgent
    lanes go first and no lane starves.
    """

    name: LaneName
    topic: str
    patience: float


#: Measured against nothing but taste: interactive callers feel 100 ms, bulk producers feel minutes.
PATIENCE = {LaneName.INTERACTIVE: 0.0, LaneName.BULK: 2.0, LaneName.REPLAY: 20.0}
