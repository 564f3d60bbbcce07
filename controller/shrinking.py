"""What leaves the memory when it runs short, and comes back when there is room again."""

from __future__ import annotations

from collections.abc import Sequence

ROOM_TO_RETURN = 1.1
"""Room, in sizes of the whole set, that has to be there before a variant returns: so that none flutters."""


class Shrinking:
    """Says which variants are to be resident while memory is short, whatever the policy would like.

    `sizes_bytes` (M,) is what each variant takes. The smallest stay the longest. What was `evicted` comes
    back one at a time, the smallest first, unless the policy plans the resident set itself.
    """

    def __init__(self, sizes_bytes: Sequence[int]) -> None:
        self._sizes = sizes_bytes
        self.evicted: frozenset[int] = frozenset()

    def order(
        self, resident: frozenset[int], memory_bytes: float | None, *, planned: bool = False
    ) -> frozenset[int] | None:
        """Return the set to be resident, None where nothing is to change.

        `memory_bytes` is what variants may take together (None: not known); `planned` says that the policy
        decides about loads.
        """
        if memory_bytes is None:
            return None
        self.evicted = frozenset() if planned else self.evicted - resident
        if self._bytes(resident) > memory_bytes:
            kept = self._smallest(resident, memory_bytes)
            if not planned:
                self.evicted |= resident - kept
            return kept if kept != resident else None
        if not self.evicted:
            return None
        wanted = resident | {min(self.evicted)}
        return wanted if self._bytes(wanted) * ROOM_TO_RETURN <= memory_bytes else None

    def _smallest(self, resident: frozenset[int], memory_bytes: float) -> frozenset[int]:
        """Return as many of the smallest as fit; never none, for something has to answer."""
        kept: frozenset[int] = frozenset()
        for phi in sorted(resident):
            if kept and self._bytes(kept | {phi}) > memory_bytes:
                break
            kept |= {phi}
        return kept

    def _bytes(self, phis: frozenset[int]) -> int:
        return sum(self._sizes[phi] for phi in phis)
