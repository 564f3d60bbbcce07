"""How much slower a run is on this processor than when it was profiled, as far as can be known beforehand."""

from __future__ import annotations

import math
import os
from pathlib import Path

from .base import Sample, number, table
from .cgroup import Cgroup
from .pressure import Pressure, worst


class _Lowered:
    """How far a limit is below the highest that was ever seen (≥ 1).

    Not how far below what the hardware could do: the profile was measured under some limit, too, and a
    lasting one must not count twice.
    """

    def __init__(self) -> None:
        self._highest = 0.0

    def by(self, limit: float | None) -> float:
        """Return the highest limit ÷ this one; 1 where there is none."""
        if limit is None or limit <= 0:
            return 1.0
        self._highest = max(self._highest, limit)
        return self._highest / limit


class CpuSensor:
    """Contention for the processor, limits on it that were lowered, and the time that work waits for it.

    With n tasks besides ours ready to run on c cores, a single-threaded run gets a core's share of
    about c / (n + 1), never more than 1: slow-down = max(1, (n + 1) / c), smoothed over half a second.
    `own_tasks` says how many of the runnable tasks are ours at this moment. A group's limit below the
    `threads` that run a model, and a cap on the clock (`scaling_max_freq`; the clock of the moment is low
    on an idle processor, too), slow down by what they were lowered since the start.
    """

    name = "cpu"
    every_s = 0.0

    def __init__(
        self, root: str | Path = "/", *, cores: int | None = None, threads: int = 1
    ) -> None:
        root = Path(root)
        self._stat = root / "proc" / "stat"
        self._cgroup = Cgroup(root)
        files = root / "proc" / "pressure" / "cpu", self._cgroup.pressure_file("cpu")
        self._pressures = [Pressure(path) for path in files if path is not None]
        self._clocks = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
        self._cores = cores or len(os.sched_getaffinity(0))
        self._threads = threads
        self._smooth: float | None = None
        self._last_s = -math.inf
        self._clock, self._limit = _Lowered(), _Lowered()
        self._periods = self._cgroup.throttled_periods()
        self.own_tasks = 1  # the reader itself is running while it reads

    def probe(self) -> bool:
        """Say whether /proc/stat can be read."""
        return self._runnable() is not None

    def read(self, now_s: float) -> Sample | None:
        """Return the slow-down to expect, and the share of time in which some task waited."""
        runnable = self._runnable()
        if runnable is None:
            return None
        limit, clock, readings = self._cgroup.cpu_limit(), self._clock_cap(), {}
        enough = self._threads if limit is None else min(limit, self._threads)
        slowdown = max(self._contention(runnable, now_s), self._limit.by(enough))
        waited = worst(self._pressures, now_s)
        if limit is not None:
            readings["cpu_limit_cores"] = limit
            throttled = readings["cpu_throttled_ratio"] = self._throttled()
            waited = max(waited or 0.0, throttled)
        if clock is not None:
            slowdown *= self._clock.by(clock)
            readings["cpu_frequency_limit_hertz"] = clock * 1e3
        return Sample(slowdown=slowdown, pressure=waited, readings=readings)

    def _contention(self, runnable: float, now_s: float) -> float:
        others = max(0, runnable - self.own_tasks)
        seen = max(1.0, (others + 1) / self._cores)
        if self._smooth is None:
            self._smooth = seen
        weight = 1 - math.exp(-(now_s - self._last_s) / 0.5)
        self._smooth += weight * (seen - self._smooth)
        self._last_s = now_s
        return self._smooth

    def _runnable(self) -> float | None:
        return table(self._stat).get("procs_running")

    def _clock_cap(self) -> float | None:
        """Return the lowest cap on a core's clock (kHz), None where there is no frequency scaling."""
        caps = [cap for clock in self._clocks if (cap := number(clock / "scaling_max_freq"))]
        return min(caps, default=None)

    def _throttled(self) -> float:
        """Return the share of the group's periods since the last reading in which it was held back."""
        before, now = self._periods, self._cgroup.throttled_periods()
        self._periods = now
        if before is None or now is None or now[0] <= before[0]:
            return 0.0
        return min(max(0.0, (now[1] - before[1]) / (now[0] - before[0])), 1.0)
