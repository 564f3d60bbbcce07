"""Replaying a battery: does it last, at what quality, and what could have been had.

A trace has the columns `budget_ms` and `drain_w` (what everything else takes). Row 0 is only a reading; φ = 0
is active at first. At step t = 1 … T−1 the policy sees the budget of row t−1, the joules that are left and
the seconds until the trace ends, and chooses a. The answer takes w_a joules and everything else drain_w[t]
times the step's length. A step scores as in `replay`; from the step on in which the battery cannot pay there
are no answers, which all count as late.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from ..model_zoo.profile import Profile
from ..policies.battery import BatteryTable
from ..policies.frame import Objective
from ..policies.lookup import Policy
from ..policies.trace import Trace
from . import kernels
from .optimum import best_path
from .scoring import figures, needed_column, total_score

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BatteryReplay:
    """The outcome of one policy on one battery; `lasted_s` is when it was empty, or the trace's length."""

    policy: str
    mean_score: float
    on_time_share: float
    switch_share: float
    mean_quality: float
    lasted_s: float
    lasts: bool
    left_j: float

    def summary(self) -> dict[str, float | str]:
        """Return the figures alone."""
        return asdict(self)


def replay_battery(
    trace: Trace,
    profile: Profile,
    policy: Policy,
    battery_j: float,
    *,
    objective: Objective | None = None,
    latency: str = "p95",
) -> BatteryReplay:
    """Return the outcome of `policy` with `battery_j` joules at the start; raise `TraceError`."""
    objective = objective or Objective()
    step_s, drained_j = _drained(trace)
    policy.reset()
    review = policy.review if isinstance(policy, BatteryTable) else None
    taken = profile.joules().tolist()
    decisions = np.zeros(len(trace) - 1, np.uint8)
    left_j, left_s, active, step = battery_j, float(step_s.sum()), 0, 0
    rows = zip(trace.budget_ms[:-1].tolist(), step_s.tolist(), drained_j.tolist(), strict=True)
    for step, (reading_ms, seconds, drain) in enumerate(rows):
        if review is not None:
            review(left_j, left_s)
        active = policy.decide(reading_ms, active)
        after_j = left_j - drain - taken[active]
        if after_j < 0:
            break
        left_j, left_s = after_j, left_s - seconds
        decisions[step] = active
    else:
        step += 1
    return _score(trace, profile, objective, latency, decisions[:step], left_j, policy.name)


def clairvoyant_battery(
    trace: Trace,
    profile: Profile,
    battery_j: float,
    *,
    objective: Objective | None = None,
    latency: str = "p95",
) -> tuple[BatteryReplay, float]:
    """Return the best outcome found with everything known in advance, and a bound of the best mean score.

    With a price μ on energy the best path is found by backward DP, and for every μ ≥ 0

        optimum ≤ max over paths of (score − μ · joules) + μ · (joules there are),

    so the least right side is a bound. At its price one path lasts and one takes too much; the outcome begins
    with the latter and goes over to the former as late as the battery allows. Raises `TraceError`, also where
    not even the cheapest answers last.
    """
    objective = objective or Objective()
    costs, joules = profile.costs(latency), profile.joules()
    _, drained_j = _drained(trace)
    there_j = battery_j - float(drained_j.sum())
    steps = len(trace) - 1
    if there_j < steps * joules.min():
        raise TraceError(
            f"{trace.name}: no policy lasts: {there_j:.0f} J are left for {steps} answers of at least "
            f"{joules.min():g} J"
        )

    def at(price: float) -> tuple[NDArray[np.uint8], float, float]:
        decisions = best_path(
            trace.budget_ms,
            costs.need_ms,
            costs.quality - price * joules,
            objective.miss_cost + price * joules,
            objective.switch_cost,
        )
        on_time, switches = kernels.tally(trace.budget_ms, costs.need_ms, decisions)
        in_time, quality = int(on_time.sum()), float(on_time @ costs.quality)
        total = total_score(objective, steps, in_time, switches, quality)
        used = float(joules[decisions].sum())
        return decisions, used, total + price * (there_j - used)

    low, high = 0.0, 2 * float(np.ptp(costs.quality) + objective.miss_cost + 1) / _least(joules)
    decisions, used, bound = at(low)
    if used > there_j:
        rich, (decisions, _, above) = decisions, at(high)
        bound = min(bound, above)
        for _ in range(40):
            price = 0.5 * (low + high)
            path, used, above = at(price)
            bound = min(bound, above)
            if used > there_j:
                low, rich = price, path
            else:
                high, decisions = price, path
        spent_j = np.cumsum(joules[rich]) + np.append(joules[decisions][::-1].cumsum()[-2::-1], 0.0)
        turn = int((spent_j <= there_j).sum())
        decisions = np.concatenate([rich[:turn], decisions[turn:]])
    left_j = there_j - float(joules[decisions].sum())
    outcome = _score(trace, profile, objective, latency, decisions, left_j, "clairvoyant")
    return outcome, bound / steps


def _least(joules: Floats) -> float:
    differences = np.diff(np.unique(joules))
    return float(differences.min()) if len(differences) else 1.0


def _score(
    trace: Trace,
    profile: Profile,
    objective: Objective,
    latency: str,
    decisions: NDArray[np.uint8],
    left_j: float,
    name: str,
) -> BatteryReplay:
    costs, steps, given = profile.costs(latency), len(trace) - 1, len(decisions)
    on_time, switches = kernels.tally(trace.budget_ms[: given + 1], costs.need_ms, decisions)
    in_time, quality = int(on_time.sum()), float(on_time @ costs.quality)
    return BatteryReplay(
        policy=name,
        **figures(objective, steps, in_time, switches, quality)._asdict(),
        lasted_s=float(trace.time_s[given] - trace.time_s[0]),
        lasts=given == steps,
        left_j=left_j,
    )


def _drained(trace: Trace) -> tuple[Floats, Floats]:
    """Return each step's length (s) and what everything else takes in it (J)."""
    drain_w = needed_column(
        trace, "drain_w", "add what everything else takes, in watts, row by row"
    )
    step_s = np.diff(trace.time_s)
    return step_s, drain_w[1:] * step_s
