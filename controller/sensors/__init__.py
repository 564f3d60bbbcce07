"""What the device can spend: small readers of /proc, /sys and NVML, a pushed budget, and a trace played back.

Every sensor knows whether it works here (`probe`), reads at a given time, and returns None where its
source is gone: that is a sensor that is down, not one without an opinion. Files are found under a `root`
that is an argument, so that tests can replay a tree. docs/sensors.md says what each one means.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError
from ...policies.trace import Trace
from .base import Sample, Sensor
from .cgroup import Cgroup
from .cpu import CpuSensor
from .given import PlayedTrace, PushedBudget
from .memory import MemorySensor
from .nvml import NvmlSensor
from .power import BatterySensor, RaplSensor
from .thermal import ThermalSensor

__all__ = [
    "BatterySensor",
    "Cgroup",
    "CpuSensor",
    "MemorySensor",
    "NvmlSensor",
    "PlayedTrace",
    "PushedBudget",
    "RaplSensor",
    "Sample",
    "Sensor",
    "ThermalSensor",
    "make_sensor",
]

SOURCES = (
    "cpu, memory, thermal, thermal:CELSIUS, battery, rapl, nvml, nvml:NUMBER, pushed, trace:FILE"
)


def make_sensor(source: str, root: str | Path = "/", *, threads: int = 1) -> Sensor:
    """Return the sensor that a configuration's `budget.sources` names; raise `ConfigError`.

    Files are read below `root`; `threads` is how many run a model.
    """
    kind, _, given = source.partition(":")
    match kind:
        case "cpu" if not given:
            return CpuSensor(root, threads=threads)
        case "memory" if not given:
            return MemorySensor(root)
        case "thermal":
            return ThermalSensor(root, trip_celsius=_celsius(source, given))
        case "battery" if not given:
            return BatterySensor(root)
        case "rapl" if not given:
            return RaplSensor(root)
        case "nvml" if not given or given.isdecimal():
            return NvmlSensor(int(given or 0))
        case "pushed" if not given:
            return PushedBudget()
        case "trace" if given:
            return PlayedTrace(Trace.read(given))
    raise ConfigError(
        f"no budget source is called {source!r} - at `$.budget.sources`", help=f"use {SOURCES}"
    )


def _celsius(source: str, given: str) -> float | None:
    try:
        return float(given) if given else None
    except ValueError:
        raise ConfigError(
            f"{source!r}: {given!r} is not a temperature - at `$.budget.sources`",
            help="write thermal:80 for a device that throttles at 80 °C",
        ) from None
