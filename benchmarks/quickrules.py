"""The rules with memory as loops over a whole series, for benchmarks that replay them by the thousand.

They decide as `policies.rules` does, step for step (tests/test_bound.py), compiled where numba is installed.
"""

from __future__ import annotations

import math

import numpy as np

from adaphi.model_zoo.profile import Costs
from adaphi.policies import Objective
from adaphi.policies.jit import njit
from adaphi.policies.lookup import EDGE_TOLERANCE
from adaphi.policies.rules import greedy


def hysteresis(
    readings_ms: np.ndarray,
    costs: Costs,
    guard: float = 1.1,
    patience: int = 3,
    smoothing: float = 1.0,
) -> np.ndarray:
    """Return the decisions (T,) of `rules.Hysteresis` on readings (T,)."""
    lookup = greedy(costs)
    need = costs.need_ms.diagonal() * (1 - EDGE_TOLERANCE)
    out = np.empty(len(readings_ms), np.uint8)
    _hysteresis(
        readings_ms, lookup.edges_ms, lookup.table, need, costs.quality, guard, patience, smoothing, out
    )  # fmt: skip
    return out


@njit(cache=True, nogil=True)
def _hysteresis(
    readings: np.ndarray,
    edges: np.ndarray,
    table: np.ndarray,
    need: np.ndarray,
    quality: np.ndarray,
    guard: float,
    patience: int,
    smoothing: float,
    out: np.ndarray,
) -> None:
    active, waited, smoothed = 0, 0, readings[0]
    for t in range(len(readings)):
        smoothed += smoothing * (readings[t] - smoothed)
        fits = need[active] <= smoothed
        against = smoothed / guard if fits else smoothed
        bin_ = 0
        while bin_ < len(edges) and edges[bin_] <= against:
            bin_ += 1
        chosen = table[bin_, active]
        if fits and quality[chosen] > quality[active]:
            waited += 1
            if waited < patience:
                chosen = active
            else:
                waited = 0
        else:
            waited = 0
            if fits:
                chosen = active
        active = chosen
        out[t] = active


def alert(readings_ms: np.ndarray, costs: Costs, objective: Objective) -> np.ndarray:
    """Return the decisions (T,) of `rules.Alert` on readings (T,)."""
    logs = np.log(np.maximum(readings_ms, 1e-3 * float(costs.need_ms.min())))
    out = np.empty(len(logs), np.uint8)
    _alert(logs, np.log(costs.need_ms), costs.quality, objective.miss_cost, out)
    return out


@njit(cache=True, nogil=True)
def _alert(
    logs: np.ndarray, log_need: np.ndarray, quality: np.ndarray, miss_cost: float, out: np.ndarray
) -> None:
    active, mean, variance = 0, logs[0], 0.01
    for t in range(len(logs)):
        surprise = logs[t] - mean
        mean += 0.3 * surprise
        variance += 0.1 * (surprise * surprise - variance)
        spread = math.sqrt(2 * variance) + 1e-9
        best, best_value = 0, -np.inf
        for phi in range(len(quality)):
            on_time = 0.5 * math.erfc((log_need[active, phi] - mean) / spread)
            value = quality[phi] * on_time - miss_cost * (1 - on_time)
            if value > best_value + 1e-9:
                best, best_value = phi, value
        active = best
        out[t] = active
