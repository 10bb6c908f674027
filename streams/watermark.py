"""The contiguous low-watermark of one partition: which offset may be committed."""

from collections import deque


class Watermark:
    """Knows which fetched offsets are finished, and up to where they are so without a hole.

    Offsets are added in rising order, with gaps where the log has none (compaction, transaction markers),
    and complete in any order. Completing an offset twice, or one that was never added, changes nothing.
    Not thread-safe: it lives on the event loop.
    """

    __slots__ = ("_open", "_pending", "_reached")

    def __init__(self, position: int) -> None:
        """Starts at `position`, the offset of the next record of the partition."""
        self._reached = position
        self._pending: deque[int] = deque()  # every added offset at or above the position, rising
        self._open: set[int] = set()  # those of them that are not finished

    def add(self, offset: int) -> None:
        """Notes that the record at `offset` is being worked on; raises ValueError where it does not rise."""
        if offset < self._reached:
            raise ValueError(f"offset {offset} was added after {self._reached - 1}")
        self._pending.append(offset)
        self._open.add(offset)
        self._reached = offset + 1

    def reach(self, position: int) -> None:
        """Notes that the log holds nothing of ours below `position` but what was added.

        This is how commits pass transaction markers and compacted ends: without it a lag stays for ever.
        """
        self._reached = max(self._reached, position)

    def complete(self, offset: int) -> None:
        """Notes that everything the record at `offset` caused has a receipt."""
        self._open.discard(offset)
        while self._pending and self._pending[0] not in self._open:
            self._pending.popleft()

    @property
    def position(self) -> int:
        """The offset to commit: every record below it is finished."""
        return self._pending[0] if self._pending else self._reached

    @property
    def pending(self) -> int:
        """How many added offsets are not finished."""
        return len(self._open)
