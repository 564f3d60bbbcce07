"""How well a first-order heat model tells a Raspberry Pi's temperature, and its throttling.

Temperature, current and clock of a Pi 4B that runs models in a satellite for 180 minutes (5 V), and of one on
a desk under load (5.48 V): `edge_pi_*` of the traces (`$ADAPHI_TRACES`). The model is simulated from the
first row on with the power that was measured, never corrected on the way. In orbit it is fitted to the first
half, too, and tested on the second; on the desk that half is one constant power, which tells nothing apart.

    python -m benchmarks heat
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adaphi.policies.trace import read_csv
from adaphi.sim.generating import alternate
from adaphi.sim.heat import PI_ORBIT, HeatFit, fit_heat

from .harness import Row
from .policy import trace_folder

PLACES = {"orbit": ("edge_pi_orbit", 5.0), "desk": ("edge_pi_ground_stress4", 5.48)}


def recorded(
    name: str, volts: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Return times (s), temperature (°C), power (W) and, where there is one, the clock of a recording.

    Without the traces a made-up Pi stands in.
    """
    folder = trace_folder() / "budget"
    if not folder.exists():
        time_s, random = np.arange(4000.0), np.random.default_rng(0)
        watts = np.where(alternate(len(time_s), 300, 600, 1, random), 4.9, 2.5)
        celsius = PI_ORBIT.simulate(time_s, watts, 20.0)
        return time_s, celsius, watts, np.array([PI_ORBIT.clock(hot) for hot in celsius])
    celsius, current = (read_csv(folder / f"{name}_{what}.csv") for what in ("temp", "current"))
    watts = volts / 1e3 * np.interp(celsius["time_s"], current["time_s"], current["value"])
    clock = folder / f"{name}_freq.csv"
    shares = read_csv(clock)["value"] if clock.exists() else None
    return celsius["time_s"], celsius["value"], watts, shares


def run(quick: bool = False) -> Iterator[Row]:
    """Yield each recording's parameters and errors."""
    for place, (name, volts) in PLACES.items():
        time_s, celsius, watts, clock = recorded(name, volts)
        fit = fit_heat(time_s, celsius, watts, clock)
        yield from rows(place, fit)
        off = np.abs(fit.model.simulate(time_s, watts, float(celsius[0])) - celsius)
        yield Row(f"{place}: greatest error", float(off.max()), "°C", "less")
        yield Row(f"{place}: rows off by more than 5 °C", float((off > 5).mean()), "share", "less")
        if clock is not None:
            half = len(time_s) // 2
            learned = fit_heat(time_s[:half], celsius[:half], watts[:half]).model
            told = learned.simulate(time_s, watts, float(celsius[0]))[half:]
            error = float(np.sqrt(((told - celsius[half:]) ** 2).mean()))
            yield Row(f"{place}: error on the half not fitted to", error, "°C", "less")


def rows(place: str, fit: HeatFit) -> Iterator[Row]:
    """Yield what was fitted, and what is left over."""
    model = fit.model
    yield Row(f"{place}: time constant", model.time_constant_s, "s", "")
    yield Row(f"{place}: heat a watt", model.celsius_per_watt, "°C/W", "")
    yield Row(f"{place}: surroundings", model.surroundings_celsius, "°C", "")
    yield Row(f"{place}: root mean square error", fit.error_celsius, "°C", "less")
    yield Row(f"{place}: variance explained", fit.explained, "share", "more")
    if fit.clock_explained:
        yield Row(f"{place}: throttles from", model.limit_celsius, "°C", "")
        yield Row(f"{place}: clock lost a degree", model.clock_per_celsius, "share/°C", "")
        yield Row(f"{place}: error of the clock", fit.error_clock, "share", "less")
        yield Row(f"{place}: variance of the clock explained", fit.clock_explained, "share", "more")
