"""Heat: how far a thermal zone is from the temperature at which the device is slowed down or stopped."""

from __future__ import annotations

import math
from pathlib import Path

from .base import Sample, number, text
from .heat import Admission, Warming

TRIPS = ("passive", "hot", "critical")
"""Kinds of trip points that cost speed; an `active` one only starts a fan."""
NEAR_CELSIUS = 20.0
"""A zone that was so near its trip when it fell silent may be there by now."""


class ThermalSensor:
    """The headroom of the tightest zone, in degrees and, at the present rate, in seconds until its trip.

    `trip_celsius` is where the device throttles if its zones have no trip point that says so (many boards
    throttle in firmware). While a zone that was last seen near its trip is silent, so is the sensor; a cool
    one may be: that of a radio is while it is switched off.
    """

    name = "thermal"
    every_s = 1.0  # a zone may be a slow chip on a slow bus

    def __init__(self, root: str | Path = "/", *, trip_celsius: float | None = None) -> None:
        self._zones = [
            (zone, trip)
            for zone in sorted((Path(root) / "sys/class/thermal").glob("thermal_zone*"))
            if (trip := _trip_celsius(zone) if trip_celsius is None else trip_celsius) is not None
        ]
        self._warming = {zone: Warming() for zone, _ in self._zones}
        self._admission = Admission()
        self._headroom: dict[Path, float] = {}  # of each zone, when it last answered

    def probe(self) -> bool:
        """Say whether a zone tells its temperature and where it trips."""
        return any(number(zone / "temp") is not None for zone, _ in self._zones)

    def read(self, now_s: float) -> Sample | None:
        """Return the share of the ladder that the heat admits."""
        seen, near_and_silent = [], False
        for zone, trip in self._zones:
            if (milli := number(zone / "temp")) is None:
                near_and_silent |= self._headroom.get(zone, math.inf) < NEAR_CELSIUS
                continue
            celsius = milli / 1e3
            self._headroom[zone] = trip - celsius
            left_s = self._warming[zone].left_s(now_s, celsius, trip)
            seen.append((trip - celsius, left_s, celsius))
        if not seen or near_and_silent:
            return None
        headroom, _, celsius = min(seen)
        left_s = min(left for _, left, _ in seen)
        return Sample(
            admitted=self._admission.at(now_s, headroom, left_s),
            readings={
                "temperature_celsius": celsius,
                "thermal_headroom_celsius": headroom,
                "thermal_trip_in_seconds": left_s,
            },
        )


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
