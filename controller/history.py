"""The last minutes, second by second: what the live page draws and `adaphi status` sums up."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

SECONDS = 300


class Second(NamedTuple):
    """One second: answers, late ones among them, requests turned away (shed, expired, busy), switches.

    At its end the active φ and the budget (ms).
    """

    answered: int
    late: int
    refused: int
    switches: int
    active: int
    budget_ms: float | None


class History:
    """Counts answers and switches, and closes a `Second` whenever one has passed."""

    def __init__(self) -> None:
        self.seconds: deque[Second] = deque(maxlen=SECONDS)
        self._answered = self._late = self._refused = self._switches = 0
        self._until_s: float | None = None

    def answer(self, count: int, late: int) -> None:
        """Count answers, and how many of them were late."""
        self._answered += count
        self._late += late

    def refuse(self, count: int) -> None:
        """Count requests for which there was no time or no room."""
        self._refused += count

    def switch(self) -> None:
        """Count a change of the active variant."""
        self._switches += 1

    def tick(self, now_s: float, active: int, budget_ms: float | None) -> None:
        """Close what has passed; to be called at least once a second. Seconds that were missed are empty."""
        if self._until_s is None:
            self._until_s = now_s + 1
        missed = min(int(now_s - self._until_s) + 1, SECONDS) if now_s >= self._until_s else 0
        for _ in range(missed):
            counts = self._answered, self._late, self._refused, self._switches
            self.seconds.append(Second(*counts, active, budget_ms))
            self._answered = self._late = self._refused = self._switches = 0
        if missed:
            self._until_s = now_s + 1 - (now_s - self._until_s) % 1

    def summary(self, last: int = 60) -> dict[str, float | int | None]:
        """Return what happened in the last `last` seconds; the late share is None where nobody asked.

        Late is also who was turned away: a device that refuses everybody is not on time.
        """
        seconds = list(self.seconds)[-last:]
        answered, refused = sum(s.answered for s in seconds), sum(s.refused for s in seconds)
        late, asked = refused + sum(s.late for s in seconds), answered + refused
        return {
            "seconds": len(seconds),
            "answered": answered,
            "refused": refused,
            "late_share": late / asked if asked else None,
            "switches": sum(s.switches for s in seconds),
        }
