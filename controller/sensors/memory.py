"""Memory that can still be had before the kernel reclaims or kills."""

from __future__ import annotations

from pathlib import Path

from .base import Sample, table
from .cgroup import Cgroup
from .pressure import Pressure, worst


class MemorySensor:
    """The lesser of `MemAvailable` and the control group's room, and memory pressure (PSI)."""

    name = "memory"
    every_s = 0.0

    def __init__(self, root: str | Path = "/") -> None:
        proc = Path(root) / "proc"
        self._meminfo = proc / "meminfo"
        self._cgroup = Cgroup(root)
        files = proc / "pressure" / "memory", self._cgroup.pressure_file("memory")
        self._pressures = [Pressure(path) for path in files if path is not None]

    def probe(self) -> bool:
        """Say whether /proc/meminfo can be read."""
        return self.read(0.0) is not None

    def read(self, now_s: float) -> Sample | None:
        """Return the available bytes, and the share of time in which some task waited for memory."""
        free_kb = table(self._meminfo).get("MemAvailable")
        if free_kb is None:
            return None
        available = int(free_kb) * 1024
        try:
            room = self._cgroup.memory_room_bytes()
        except OSError:  # there is a limit, and nobody knows how near it is
            return None
        if room is not None:
            available = min(available, room)
        return Sample(
            available_bytes=available,
            pressure=worst(self._pressures, now_s),
            readings={"memory_available_bytes": available},
        )
