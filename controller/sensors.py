"""What the device can spend: small readers of /proc, a pushed budget, and a trace played back.

Every sensor knows whether it works here (`probe`), reads at a given time, and returns None where its
source is missing: that is a sensor that is down, not one without an opinion. Files are found under a
`root` that is an argument, so that tests can replay a tree.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import ConfigError, InvalidRequest
from ..policies.trace import Trace


class Sample(NamedTuple):
    """What one sensor says; None where it has no opinion.

    `slowdown`: how much slower a run would be than on an idle device (≥ 1). `budget_ms`: time for an
    answer. `max_phi`: the highest variant admitted. `available_bytes`: memory that can still be had.
    `pressure`: share of time in which some work had to wait (0 … 1). `energy_j`: what the battery holds.
    """

    slowdown: float | None = None
    budget_ms: float | None = None
    max_phi: int | None = None
    available_bytes: int | None = None
    pressure: float | None = None
    energy_j: float | None = None


class Sensor(Protocol):
    """A source of budgets."""

    name: str

    def probe(self) -> bool:
        """Say whether this sensor works on this machine."""
        ...

    def read(self, now_s: float) -> Sample | None:
        """Return what the sensor says at `now_s` (monotonic seconds), None if it has nothing."""
        ...


class CpuSensor:
    """Contention for the processor, from the count of runnable tasks and from pressure (PSI).

    With n tasks besides ours ready to run on c cores, a single-threaded run gets a core's share of
    about c / (n + 1), never more than 1: slow-down = max(1, (n + 1) / c), smoothed over half a second.
    `own_tasks` says how many of the runnable tasks are ours at this moment.
    """

    name = "cpu"

    def __init__(self, root: str | Path = "/proc", *, cores: int | None = None) -> None:
        self._stat = Path(root) / "stat"
        self._pressure = Path(root) / "pressure" / "cpu"
        self._cores = cores or len(os.sched_getaffinity(0))
        self._smooth: float | None = None
        self._last_s = -math.inf
        self.own_tasks = 1  # the reader itself is running while it reads

    def probe(self) -> bool:
        """Say whether /proc/stat can be read."""
        return self._runnable() is not None

    def read(self, now_s: float) -> Sample | None:
        """Return the slow-down to expect, and the share of time in which some task waited."""
        runnable = self._runnable()
        if runnable is None:
            return None
        others = max(0, runnable - self.own_tasks)
        seen = max(1.0, (others + 1) / self._cores)
        if self._smooth is None:
            self._smooth = seen
        weight = 1 - math.exp(-(now_s - self._last_s) / 0.5)
        self._smooth += weight * (seen - self._smooth)
        self._last_s = now_s
        return Sample(slowdown=self._smooth, pressure=read_pressure(self._pressure))

    def _runnable(self) -> int | None:
        try:
            for line in self._stat.read_text().splitlines():
                if line.startswith("procs_running "):
                    return int(line.split()[1])
        except (OSError, ValueError, IndexError):
            pass
        return None


class MemorySensor:
    """Memory that can still be had (`MemAvailable`), and memory pressure (PSI)."""

    name = "memory"

    def __init__(self, root: str | Path = "/proc") -> None:
        self._meminfo = Path(root) / "meminfo"
        self._pressure = Path(root) / "pressure" / "memory"

    def probe(self) -> bool:
        """Say whether /proc/meminfo can be read."""
        return self.read(0.0) is not None

    def read(self, now_s: float) -> Sample | None:
        """Return the available bytes, and the share of time in which some task waited for memory."""
        try:
            for line in self._meminfo.read_text().splitlines():
                if line.startswith("MemAvailable:"):
                    available = int(line.split()[1]) * 1024
                    pressure = read_pressure(self._pressure)
                    return Sample(available_bytes=available, pressure=pressure)
        except (OSError, ValueError, IndexError):
            pass
        return None


class BatterySensor:
    """What the batteries hold together: `energy_now` (µWh), or `charge_now` (µAh) × `voltage_now` (µV)."""

    name = "battery"

    def __init__(self, root: str | Path = "/sys/class/power_supply") -> None:
        self._root = Path(root)

    def probe(self) -> bool:
        """Say whether there is a battery that tells."""
        return self.read(0.0) is not None

    def read(self, now_s: float) -> Sample | None:
        """Return the joules that are left."""
        each = [self._energy_j(supply) for supply in sorted(self._root.glob("*"))]
        held = [energy_j for energy_j in each if energy_j is not None]
        return Sample(energy_j=sum(held)) if held else None

    @staticmethod
    def _energy_j(supply: Path) -> float | None:
        def number(name: str) -> float:
            return float((supply / name).read_text())

        try:
            if (supply / "type").read_text().strip() != "Battery":
                return None
            if (supply / "energy_now").exists():
                return number("energy_now") * 1e-6 * 3600
            return number("charge_now") * 1e-6 * number("voltage_now") * 1e-6 * 3600
        except (OSError, ValueError):
            return None


class PushedBudget:
    """What an application pushes by `Client.push_budget`; it expires after the time it was given for."""

    name = "pushed"

    def __init__(self) -> None:
        self._sample = Sample()
        self._until_s = -math.inf

    def probe(self) -> bool:
        """Say that this always works."""
        return True

    def push(
        self, now_s: float, budget_ms: float | None, max_phi: int | None, ttl_s: float
    ) -> None:
        """Hold a budget for `ttl_s` seconds; raise `InvalidRequest` for an impossible one."""
        if budget_ms is not None and not (math.isfinite(budget_ms) and budget_ms >= 0):
            raise InvalidRequest(f"budget_ms is {budget_ms}; expected a finite number ≥ 0")
        if max_phi is not None and max_phi < 0:
            raise InvalidRequest(f"max_phi is {max_phi}; expected a number ≥ 0")
        if not (math.isfinite(ttl_s) and ttl_s >= 0):
            raise InvalidRequest(f"ttl_s is {ttl_s}; expected a finite number ≥ 0")
        self._sample = Sample(budget_ms=budget_ms, max_phi=max_phi)
        self._until_s = now_s + ttl_s

    def read(self, now_s: float) -> Sample | None:
        """Return the pushed budget while it holds, and no opinion when it no longer does."""
        return self._sample if now_s < self._until_s else Sample()


class PlayedTrace:
    """A budget trace played back in real time, from its first row again when it ends."""

    name = "trace"

    def __init__(self, trace: Trace) -> None:
        self._time_s: list[float] = (trace.time_s - trace.time_s[0]).tolist()
        self._budget_ms: list[float] = trace.budget_ms.tolist()
        step = self._time_s[-1] / max(1, len(trace) - 1)
        self._length_s = self._time_s[-1] + (step or 1.0)
        self._began_s: float | None = None

    def probe(self) -> bool:
        """Say that this always works."""
        return True

    def read(self, now_s: float) -> Sample | None:
        """Return the row that holds now."""
        if self._began_s is None:
            self._began_s = now_s
        elapsed = (now_s - self._began_s) % self._length_s
        row = bisect_right(self._time_s, elapsed) - 1
        return Sample(budget_ms=self._budget_ms[max(0, row)])


def read_pressure(path: Path) -> float | None:
    """Return the share (0 … 1) of the last 10 s in which some task waited (PSI); None if unknown."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith("some "):
                return float(line.split("avg10=")[1].split()[0]) / 100
    except (OSError, ValueError, IndexError):
        pass
    return None


def make_sensor(source: str) -> Sensor:
    """Return the sensor that a configuration's `budget.sources` names; raise `ConfigError`."""
    if source == "cpu":
        return CpuSensor()
    if source == "memory":
        return MemorySensor()
    if source == "battery":
        return BatterySensor()
    if source == "pushed":
        return PushedBudget()
    if source.startswith("trace:"):
        return PlayedTrace(Trace.read(source.removeprefix("trace:")))
    raise ConfigError(
        f"no budget source is called {source!r} - at `$.budget.sources`",
        help="use cpu, memory, battery, pushed, trace:FILE",
    )
