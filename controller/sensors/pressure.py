"""Pressure stall information (PSI): the share of time in which some task had to wait for a resource."""

from __future__ import annotations

from pathlib import Path

from .base import text

WINDOW_S = 1.0
"""Over how long the counter's rate is taken. Without privileges a trigger of the kernel's fires after two
seconds at the earliest, so the rate is the quicker signal."""


class Pressure:
    """Reads one pressure file, /proc/pressure/RESOURCE or a control group's RESOURCE.pressure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since: tuple[float, float] | None = None  # when the counter was taken, what it said
        self._rate = 0.0

    def read(self, now_s: float) -> float | None:
        """Return the greater of the kernel's 10 s average and the last second's share (0 … 1)."""
        for line in (text(self._path) or "").splitlines():
            kind, *pairs = line.split()
            if kind == "some":
                break
        else:
            return None
        try:
            fields = {name: float(value) for name, value in (p.split("=") for p in pairs)}
            average, total_s = fields["avg10"] / 100, fields["total"] / 1e6
        except (KeyError, ValueError):
            return None
        if self._since is None:
            self._since = now_s, total_s
        elif (passed_s := now_s - self._since[0]) >= WINDOW_S:
            self._rate = min(max(0.0, (total_s - self._since[1]) / passed_s), 1.0)
            self._since = now_s, total_s
        return max(average, self._rate)


def worst(pressures: list[Pressure], now_s: float) -> float | None:
    """Return the greatest of what several files say, None where none says anything."""
    seen = [share for p in pressures if (share := p.read(now_s)) is not None]
    return max(seen, default=None)
