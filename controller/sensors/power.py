"""Power: what the battery holds, whether the mains feed the device, and what the processor takes."""

from __future__ import annotations

import math
from pathlib import Path

from ...model_zoo.energy import RaplMeter
from .base import Sample, number, text

MAINS = ("Mains", "USB", "Wireless")


class BatterySensor:
    """What the batteries hold together: `energy_now` (µWh), or `charge_now` (µAh) × `voltage_now` (µV).

    While another supply is on line and no battery drains, energy is not scarce: `energy_j` is infinite. The
    battery of a mouse or a headset (`scope`: Device) is none of these.
    """

    name = "battery"
    every_s = 1.0

    def __init__(self, root: str | Path = "/") -> None:
        self._root = Path(root) / "sys/class/power_supply"

    def probe(self) -> bool:
        """Say whether there is a battery that tells."""
        return self.read(0.0) is not None

    def read(self, now_s: float) -> Sample | None:
        """Return the joules that are left."""
        supplies = [(text(folder / "type"), folder) for folder in sorted(self._root.glob("*"))]
        batteries = [
            folder
            for kind, folder in supplies
            if kind == "Battery" and text(folder / "scope") != "Device"
        ]
        held = [j for folder in batteries if (j := _energy_j(folder)) is not None]
        if not held:
            return None
        # 1: on line at a fixed voltage, 2: at one that is negotiated
        fed = any(
            kind in MAINS and number(folder / "online") in (1, 2) for kind, folder in supplies
        )
        draining = any(text(folder / "status") == "Discharging" for folder in batteries)
        readings = {"battery_energy_joules": sum(held), "mains_online": float(fed)}
        levels = [
            level for folder in batteries if (level := number(folder / "capacity")) is not None
        ]
        if levels:
            readings["battery_level_ratio"] = sum(levels) / len(levels) / 100
        return Sample(energy_j=math.inf if fed and not draining else sum(held), readings=readings)


def _energy_j(battery: Path) -> float | None:
    energy_uwh = number(battery / "energy_now")
    if energy_uwh is not None:
        return energy_uwh * 1e-6 * 3600
    charge_uah, voltage_uv = number(battery / "charge_now"), number(battery / "voltage_now")
    if charge_uah is None or voltage_uv is None:
        return None
    return charge_uah * 1e-6 * voltage_uv * 1e-6 * 3600


class RaplSensor:
    """What the processor's packages take (RAPL), beside their long-term power limit where they have one.

    It caps nothing: at its limit a processor lowers its clock, and runs are seen to take longer.
    """

    name = "rapl"
    every_s = 1.0

    def __init__(self, root: str | Path = "/") -> None:
        self._meter = RaplMeter(Path(root) / "sys/class/powercap")
        self._last: tuple[float, float] | None = None

    def probe(self) -> bool:
        """Say whether a counter can be read (as root, or with CAP_DAC_READ_SEARCH)."""
        return self._meter.available

    def read(self, now_s: float) -> Sample | None:
        """Return the share of the power limit that was taken since the last reading."""
        if not self._meter.available:
            return None
        try:
            energy_j = self._meter.total_mj() / 1e3
        except (OSError, ValueError):
            return None
        before, self._last = self._last, (now_s, energy_j)
        if before is None or now_s <= before[0]:
            return Sample()
        power_w = (energy_j - before[1]) / (now_s - before[0])
        share = min(power_w / self._meter.limit_w, 1.0) if self._meter.limit_w else None
        return Sample(pressure=share, readings={"package_power_watts": power_w})
