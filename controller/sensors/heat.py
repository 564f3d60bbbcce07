"""What nearness to a temperature that costs speed admits: by degrees, and by the time left at this rate."""

from __future__ import annotations

from collections import deque

WINDOW_S = 30.0
"""Over how long the rate of warming is taken."""
NEAR_CELSIUS, NEAR_S = 10.0, 60.0
"""Headroom in degrees and in time below which the larger variants are given up, bit by bit."""
RECOVERY_S = 30.0
"""How long it takes at least until all variants are admitted again: so that a cap does not flutter."""


class Warming:
    """How long one thing takes, as it warms now, until it is as hot as its trip."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, float]] = deque()

    def left_s(self, now_s: float, celsius: float, trip_celsius: float) -> float:
        """Return the seconds until the trip at the rate of the last half minute; infinite if it cools."""
        self._past.append((now_s, celsius))
        while self._past[0][0] < now_s - WINDOW_S:
            self._past.popleft()
        rate = _slope(self._past)
        return max(0.0, trip_celsius - celsius) / rate if rate > 0 else float("inf")


class Admission:
    """The share of the ladder that heat admits: it falls at once and rises slowly."""

    def __init__(self) -> None:
        self._admitted, self._last_s = 1.0, 0.0

    def at(self, now_s: float, headroom_celsius: float, left_s: float) -> float:
        """Return the lesser of headroom ÷ `NEAR_CELSIUS` and time left ÷ `NEAR_S`, risen slowly (0 … 1)."""
        wanted = min(1.0, max(0.0, headroom_celsius / NEAR_CELSIUS), left_s / NEAR_S)
        risen = self._admitted + (now_s - self._last_s) / RECOVERY_S
        self._admitted, self._last_s = min(wanted, risen), now_s
        return self._admitted


def _slope(points: deque[tuple[float, float]]) -> float:
    """Return the rate (°C/s) of the straight line that fits best; 0 for less than a third of the window."""
    if points[-1][0] - points[0][0] < WINDOW_S / 3:
        return 0.0
    mean_s = sum(t for t, _ in points) / len(points)
    mean = sum(c for _, c in points) / len(points)
    spread = sum((t - mean_s) ** 2 for t, _ in points)
    return sum((t - mean_s) * (c - mean) for t, c in points) / spread
