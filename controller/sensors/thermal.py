"""Heat: how far a thermal zone is from the temperature at which the device is slowed down or stopped."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from .base import Sample, number, text

TRIPS = ("passive", "hot", "critical")
"""Kinds of trip points that cost speed; an `active` one only starts a fan."""
WINDOW_S = 30.0
"""Over how long the rate of warming is taken."""
NEAR_CELSIUS, NEAR_S = 10.0, 60.0
"""Headroom in degrees and in time below which the larger variants are given up, bit by bit."""
RECOVERY_S = 30.0
"""How long it takes at least until all variants are admitted again: so that a cap does not flutter."""


class ThermalSensor:
    """The headroom of the tightest zone, in degrees and, at the present rate, in seconds until its trip.

    The share of the ladder that is admitted is the lesser of headroom ÷ `NEAR_CELSIUS` and time left ÷
    `NEAR_S`: it falls at once and rises slowly. `trip_celsius` is where the device throttles if its zones
    have no trip point that says so (many boards throttle in firmware).
    """

    name = "thermal"
    every_s = 1.0  # a zone may be a slow chip on a slow bus

    def __init__(self, root: str | Path = "/", *, trip_celsius: float | None = None) -> None:
        self._zones = [
            (zone, trip)
            for zone in sorted((Path(root) / "sys/class/thermal").glob("thermal_zone*"))
            if (trip := _trip_celsius(zone) if trip_celsius is None else trip_celsius) is not None
        ]
        self._past: dict[Path, deque[tuple[float, float]]] = {z: deque() for z, _ in self._zones}
        self._admitted, self._last_s = 1.0, 0.0

    def probe(self) -> bool:
        """Say whether a zone tells its temperature and where it trips."""
        return any(number(zone / "temp") is not None for zone, _ in self._zones)

    def read(self, now_s: float) -> Sample | None:
        """Return the share of the ladder that the heat admits."""
        seen = []
        for zone, trip in self._zones:
            if (milli := number(zone / "temp")) is not None:
                left_s = self._left_s(zone, now_s, milli / 1e3, trip)
                seen.append((trip - milli / 1e3, left_s, milli / 1e3))
        if not seen:
            return None
        headroom, _, celsius = min(seen)
        left_s = min(left for _, left, _ in seen)
        wanted = min(1.0, max(0.0, headroom / NEAR_CELSIUS), left_s / NEAR_S)
        risen = self._admitted + (now_s - self._last_s) / RECOVERY_S
        self._admitted, self._last_s = min(wanted, risen), now_s
        return Sample(
            admitted=self._admitted,
            readings={
                "temperature_celsius": celsius,
                "thermal_headroom_celsius": headroom,
                "thermal_trip_in_seconds": left_s,
            },
        )

    def _left_s(self, zone: Path, now_s: float, celsius: float, trip: float) -> float:
        """Return the seconds until the trip at the rate of the last half minute; infinite if it cools."""
        past = self._past[zone]
        past.append((now_s, celsius))
        while past[0][0] < now_s - WINDOW_S:
            past.popleft()
        rate = _slope(past)
        return max(0.0, trip - celsius) / rate if rate > 0 else float("inf")


def _slope(points: deque[tuple[float, float]]) -> float:
    """Return the rate (°C/s) of the straight line that fits best; 0 for less than a third of the window."""
    if points[-1][0] - points[0][0] < WINDOW_S / 3:
        return 0.0
    mean_s = sum(t for t, _ in points) / len(points)
    mean = sum(c for _, c in points) / len(points)
    spread = sum((t - mean_s) ** 2 for t, _ in points)
    return sum((t - mean_s) * (c - mean) for t, c in points) / spread


def _trip_celsius(zone: Path) -> float | None:
    """Return the lowest trip point that costs speed; None where the zone has none."""
    trips = [
        milli / 1e3
        for kind in zone.glob("trip_point_*_type")
        if text(kind) in TRIPS
        and (milli := number(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
        and milli > 0
    ]
    return min(trips, default=None)
