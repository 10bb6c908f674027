"""Records that kill: how a text that makes the process die is found, though nobody is left to tell.

What survives the death of a process is the metadata of a committed offset. Before a worker touches the first records
of a partition it commits there how often this was done without any progress since; progress, or a clean leave, commits
the count away. One death can have any cause. A worker that finds two takes the records that were in hand one at a
time, with nothing else prepared or run meanwhile, and commits the offset of each before it touches it and takes it back
afterwards: the one that was named when the process died again is found, and after some deaths it is a dead letter.
"""

from dataclasses import dataclass, replace
from typing import Final

#: How many offsets behind the committed one a process may have had in hand when it died.
REACH: Final = 1024
#: Deaths without progress after which records are taken alone.
ENOUGH: Final = 2


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What earlier processes left in a partition's commit metadata."""

    #: Processes that touched the partition since its last progress, and did not leave in good order.
    deaths: int = 0
    #: The record that was being tried alone, and how many processes died over it.
    offset: int = -1
    times: int = 0
    #: Offsets below this one are taken alone.
    until: int = 0

    @classmethod
    def parse(cls, metadata: str, position: int) -> "Suspicion":
        """Reads commit metadata; what is not ours means no suspicion."""
        parts = metadata.split()
        if len(parts) != 4 or parts[0] != "suspect" or not all(part.isdigit() for part in parts[1:]):
            return cls()
        deaths, offset, times = map(int, parts[1:])
        return cls(deaths, offset, times, position + REACH if deaths >= ENOUGH else 0)

    def metadata(self) -> str:
        """Returns what to commit; empty where nothing is suspected."""
        return f"suspect {self.deaths} {max(self.offset, 0)} {self.times}" if self.deaths else ""

    def taken_over(self) -> "Suspicion":
        """Returns what a process that takes the partition over commits before it touches anything."""
        return replace(self, deaths=self.deaths + 1)

    def trying(self, offset: int) -> "Suspicion":
        """Returns what to commit before this record is tried alone."""
        return replace(self, offset=offset, times=self.times + 1 if offset == self.offset else 1)

    def covers(self, offset: int) -> bool:
        """Whether a record is to be taken alone."""
        return offset < self.until
