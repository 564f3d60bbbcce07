"""Budget traces made by a law: a chain, regimes, days, a battery (heat: sim/heat.py).

The same arguments and seed give the same trace. Noise is a stationary first-order autoregression of the
logarithm, so budgets stay above 0 and its standard deviation is relative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..policies.chain import EXTRA_BINS, PRIOR_STRENGTH, fit_chain
from ..policies.trace import Trace

Floats = NDArray[np.float64]


def markov(
    like: Trace,
    rows: int,
    *,
    levels: int = EXTRA_BINS,
    prior_strength: float = PRIOR_STRENGTH,
    seed: int = 0,
) -> Trace:
    """Return a trace that moves as the chain fitted to `like`, with its middle step.

    The chain is the one that policies learn (`fit_chain`), on `levels` equally full bins; inside a bin each
    budget of `like` is as likely as the other. Raises `InputError` for fewer than two rows, here or there.
    """
    check(rows, levels=levels, prior_strength=prior_strength)
    if len(like) < 2:
        raise InputError(f"{like.name}: a chain needs a trace of at least two rows")
    middle = np.array([np.median(like.budget_ms)])  # one edge, at least: a trace may be constant
    chain = fit_chain([like.budget_ms], middle, extra_bins=levels, prior_strength=prior_strength)
    budgets = chain.sample(rows, seed)
    where, known = chain.bins(budgets), np.sort(like.budget_ms)
    first, end = np.searchsorted(chain.bins(known), [where, where + 1])
    pick = first + np.floor(np.random.default_rng([seed, 1]).random(rows) * (end - first)).astype(
        int
    )
    seen = end > first  # a bin that the chain enters and the trace did not keeps the even spread
    budgets[seen] = known[pick[seen]]
    step_s = float(np.median(np.diff(like.time_s)))
    return Trace.from_budgets(budgets, step_s=step_s, name="markov")


def regime(
    rows: int,
    *,
    levels_ms: Sequence[float] = (20.0, 45.0, 80.0),
    stay_s: ArrayLike = 60.0,
    spread: float = 0.1,
    memory: float = 0.0,
    step_s: float = 1.0,
    seed: int = 0,
) -> Trace:
    """Return a trace that stays near one of `levels_ms` for a geometric time, then moves to another.

    Level i is kept for `stay_s[i]` seconds on average (one number: all alike), each other follows as likely.
    `spread` is the relative standard deviation around it, `memory` its autocorrelation from row to row. The
    column `regime` says which level it was. Raises `InputError`.
    """
    count = len(levels_ms)
    if count < 2:
        raise InputError(f"{count} level; to jump between, there have to be two at least")
    check(rows, step_s=step_s, **{f"level {i}": level for i, level in enumerate(levels_ms)})
    stays_s = np.broadcast_to(np.asarray(stay_s, dtype=np.float64), (count,)).tolist()
    for seconds in stays_s:
        if not step_s <= seconds < math.inf:
            raise InputError(
                f"a mean stay of {seconds:g} s; expected at least a step, {step_s:g} s"
            )
    random = np.random.default_rng(seed)
    which, place = np.empty(rows, np.int64), int(random.integers(count))
    luck = random.random(rows).tolist()
    for row in range(rows):
        which[row] = place
        if luck[row] < step_s / stays_s[place]:
            place = (place + int(random.integers(1, count))) % count
    budgets = np.asarray(levels_ms, dtype=np.float64)[which]
    budgets *= np.exp(noise(rows, spread, memory, random))
    return Trace(ticks(rows, step_s), budgets, {"regime": which.astype(np.float64)}, "regime")


def diurnal(
    rows: int,
    *,
    median_ms: float = 50.0,
    swing: float = 0.5,
    day_s: float = 86400.0,
    spread: float = 0.1,
    memory: float = 0.9,
    step_s: float = 60.0,
    seed: int = 0,
) -> Trace:
    """Return days and nights: median · exp(swing · cos(2π t / day) + noise), most at t = 0, midnight.

    At midnight there is exp(2 · swing) times as much as at noon, when everything else is busy. `spread` and
    `memory` are the noise's standard deviation and autocorrelation from row to row. Raises `InputError`.
    """
    check(rows, median_ms=median_ms, day_s=day_s, step_s=step_s)
    times = ticks(rows, step_s)
    wave = swing * np.cos(2 * np.pi * times / day_s)
    around = noise(rows, spread, memory, np.random.default_rng(seed))
    return Trace(times, median_ms * np.exp(wave + around), name="diurnal")


def battery(
    rows: int,
    *,
    battery_wh: float = 15.0,
    idle_w: float = 0.5,
    busy_w: float = 3.0,
    idle_s: float = 900.0,
    busy_s: float = 300.0,
    budget_ms: float = 50.0,
    saver_share: float = 0.2,
    saver_budget: float = 0.6,
    spread: float = 0.05,
    step_s: float = 1.0,
    seed: int = 0,
) -> Trace:
    """Return the budgets of a device that runs down: busy and idle by turns, and sparing at the end.

    Everything else takes `busy_w` or `idle_w`, for geometric times of mean `busy_s` and `idle_s`: the column
    `drain_w`, of the step that ends at the row. `energy_j` is what that leaves in the battery; below a share
    of `saver_share` the clock is lowered and so is the budget, to `saver_budget` of `budget_ms`. The trace
    ends with the battery, or after `rows`. Raises `InputError`.
    """
    check(rows, battery_wh=battery_wh, idle_w=idle_w, busy_w=busy_w, budget_ms=budget_ms)
    check(rows, saver_budget=saver_budget)
    random = np.random.default_rng(seed)
    busy = alternate(rows, idle_s, busy_s, step_s, random)
    drain_w = np.where(busy, busy_w, idle_w)
    full_j = battery_wh * 3600.0
    taken_j = drain_w * step_s
    taken_j[0] = 0.0
    left_j = full_j - taken_j.cumsum()
    rows = max(int((left_j > 0).sum()), 2)
    budgets = np.where(left_j < saver_share * full_j, saver_budget * budget_ms, budget_ms)
    budgets = budgets * np.exp(noise(len(busy), spread, 0.0, random))
    columns = {"drain_w": drain_w[:rows], "energy_j": np.maximum(left_j[:rows], 0.0)}
    return Trace(ticks(rows, step_s), budgets[:rows], columns, "battery")


def alternate(
    rows: int, idle_s: float, busy_s: float, step_s: float, random: np.random.Generator
) -> NDArray[np.bool_]:
    """Return when a device is busy (rows,): idle at first, by turns for geometric times of these means."""
    check(rows, step_s=step_s)
    if not (step_s <= min(idle_s, busy_s) and max(idle_s, busy_s) < math.inf):
        raise InputError(f"idle_s {idle_s:g}, busy_s {busy_s:g}: at least a step, {step_s:g} s")
    busy, now = np.empty(rows, np.bool_), False
    for row, luck in enumerate(random.random(rows).tolist()):
        busy[row] = now
        now ^= luck < step_s / (busy_s if now else idle_s)
    return busy


def noise(rows: int, spread: float, memory: float, random: np.random.Generator) -> Floats:
    """Return x (rows,), stationary: x′ = memory · x + √(1 − memory²) · spread · ε, ε normal."""
    if not (0 <= spread < math.inf and 0 <= memory < 1):
        raise InputError(f"spread {spread}, memory {memory}: expected ≥ 0, and in [0, 1)")
    fresh = random.standard_normal(rows) * spread
    if not memory:
        return fresh
    scale, level = math.sqrt(1 - memory**2), float(fresh[0])
    for row, shock in enumerate(fresh.tolist()):
        level = memory * level + scale * shock if row else shock
        fresh[row] = level
    return fresh


def ticks(rows: int, step_s: float) -> Floats:
    """Return times (rows,) at even distances from 0 on."""
    return np.arange(rows, dtype=np.float64) * step_s


def check(rows: int, **above_0: float) -> None:
    """Raise `InputError` for fewer than two rows, or a number that is not above 0 and finite."""
    if rows < 2:
        raise InputError(f"a trace of {rows} rows; expected two at least")
    for name, value in above_0.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} is {value}; expected a finite number above 0")
