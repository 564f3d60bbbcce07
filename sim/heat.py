r"""A device that heats up and slows down: one thermal mass, and a clock that is lowered above a limit.

    τ dT/dt = T_s + R · W − T,        clock = 1 − k · (T − limit) above the limit, never below the floor

T in °C, W the watts it takes, T_s what surrounds it, R °C a watt, τ the time constant (Incropera & DeWitt,
Fundamentals of Heat and Mass Transfer, ch. 5: the lumped capacitance). From row to row W is constant, so the
step is exact whatever its length:

    T′ = T_∞ + (T − T_∞) e^{−Δt/τ},        T_∞ = T_s + R · W

One mass is too few for a chip on a board, which has a quick and a slow part: what the fit leaves over is
stated with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingExtraError
from ..policies.trace import Trace
from .generating import alternate, check, ticks

Floats = NDArray[np.float64]

_LEAST_CLOCK = 0.7  # below, a clock was lowered because nothing was to do: no sign of heat


@dataclass(frozen=True)
class HeatModel:
    """The numbers of the module's docstring; `clock_per_celsius` is k, the share of the clock a degree."""

    time_constant_s: float
    celsius_per_watt: float
    surroundings_celsius: float
    limit_celsius: float = 80.0
    clock_per_celsius: float = 0.0
    least_clock: float = 1 / 3

    def clock(self, celsius: float) -> float:
        """Return the share of the full clock that the heat admits."""
        lost = self.clock_per_celsius * max(celsius - self.limit_celsius, 0.0)
        return max(1.0 - lost, self.least_clock)

    def settled(self, watts: float) -> float:
        """Return T_∞, where a constant power leads."""
        return self.surroundings_celsius + self.celsius_per_watt * watts

    def simulate(self, time_s: Floats, watts: Floats, start_celsius: float) -> Floats:
        """Return the temperature (T,) at each row, `watts` (T,) holding until the next."""
        decay = np.exp(-np.diff(time_s) / self.time_constant_s).tolist()
        goals = (self.surroundings_celsius + self.celsius_per_watt * watts).tolist()
        celsius = [start_celsius]
        for keep, goal in zip(decay, goals, strict=False):
            celsius.append(goal + (celsius[-1] - goal) * keep)
        return np.array(celsius)


PI_DESK = HeatModel(155.3, 6.94, 25.9, 79.4, 0.0121)
"""A Raspberry Pi 4B on a desk, its throttling as in orbit (`python -m benchmarks heat`)."""
PI_ORBIT = HeatModel(263.1, 16.1, 5.8, 79.4, 0.0121)
"""A Raspberry Pi 4B in a satellite, where no air cools it (`python -m benchmarks heat`)."""


class HeatFit(NamedTuple):
    """A fitted model and what it leaves over: root mean square errors, and shares of variance explained.

    Those of the clock are 0 where none was given.
    """

    model: HeatModel
    error_celsius: float
    explained: float
    error_clock: float = 0.0
    clock_explained: float = 0.0


def fit_heat(
    time_s: Floats, celsius: Floats, watts: Floats, clock: Floats | None = None
) -> HeatFit:
    """Return the model whose temperature, simulated from the first row on, is closest to `celsius` (T,).

    Least squares over all rows (Levenberg–Marquardt of scipy). `clock` (T,) in any unit, its median taken as
    full, gives limit and slope. Raises `InputError` for what tells nothing, `MissingExtraError` if there is
    no scipy.
    """
    given = {"celsius": celsius, "watts": watts} | ({} if clock is None else {"clock": clock})
    Trace(time_s, np.zeros_like(time_s), given, "heat")  # refuses what is no series
    if len(time_s) < 10 or np.ptp(watts) == 0 or np.ptp(celsius) == 0:
        raise InputError("a heat model needs ten rows, of different watts and temperatures")
    if clock is not None and np.median(clock) <= 0:
        raise InputError("a heat model needs a clock above 0")

    def model(parameters: Floats) -> HeatModel:
        return HeatModel(float(np.exp(parameters[0])), *parameters[1:].tolist())

    def error(parameters: Floats) -> Floats:
        return model(parameters).simulate(time_s, watts, float(celsius[0])) - celsius

    slope = float(np.ptp(celsius) / np.ptp(watts))
    span_s = float(time_s[-1] - time_s[0])
    found, left = _least_squares(
        error, [np.log(span_s / 20), slope, celsius.min() - slope * watts.min()]
    )
    fitted, quality = model(found), _quality(left, celsius)
    if clock is None:
        return HeatFit(fitted, *quality)
    share = clock / np.median(clock)
    awake = share > _LEAST_CLOCK

    def excess(parameters: Floats) -> Floats:
        lost = parameters[1] * np.maximum(celsius[awake] - parameters[0], 0.0)
        return np.asarray(1 - lost - share[awake])

    (limit, per_celsius), left = _least_squares(excess, [np.median(celsius[awake]), 0.02])
    fitted = replace(
        fitted, limit_celsius=float(limit), clock_per_celsius=max(float(per_celsius), 0.0)
    )
    return HeatFit(fitted, *quality, *_quality(left, share[awake]))


def _least_squares(
    error: Callable[[Floats], Floats], start: Sequence[float]
) -> tuple[Floats, Floats]:
    """Return the parameters with the least squares, and the errors that are left."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MissingExtraError("fitting a heat model", "fast") from None
    found = least_squares(error, start, method="lm")
    return found.x, found.fun


def _quality(error: Floats, seen: Floats) -> tuple[float, float]:
    """Return the root mean square error, and the share of the variance that is explained."""
    left, there = float((error**2).mean()), float(seen.var())
    return left**0.5, 1 - left / there if there > 0 else 0.0


def thermal(
    model: HeatModel,
    rows: int,
    *,
    budget_ms: float = 50.0,
    idle_w: float = 2.5,
    busy_w: float = 4.9,
    idle_s: float = 300.0,
    busy_s: float = 900.0,
    step_s: float = 1.0,
    seed: int = 0,
) -> Trace:
    """Return the budgets of a device that is busy and idle by turns, and slows down when it is hot.

    It takes `busy_w` · clock or `idle_w` for geometric times of mean `busy_s` and `idle_s`, from the
    temperature of the surroundings on; `budget_ms` is for the full clock, of which it has the share in the
    column `clock`. `celsius` is the other. Raises `InputError`.
    """
    check(rows, budget_ms=budget_ms, busy_w=busy_w)
    busy = alternate(rows, idle_s, busy_s, step_s, np.random.default_rng(seed)).tolist()
    keep = float(np.exp(-step_s / model.time_constant_s))
    celsius, clock = np.empty(rows), np.empty(rows)
    now = model.surroundings_celsius
    for row, loaded in enumerate(busy):
        celsius[row], clock[row] = now, model.clock(now)
        goal = model.settled(busy_w * clock[row] if loaded else idle_w)
        now = goal + (now - goal) * keep
    columns = {"celsius": celsius, "clock": clock}
    return Trace(ticks(rows, step_s), budget_ms * clock, columns, "thermal")
