"""Replaying a policy over a trace, and the scores.

Rows 0 … T−1. Row 0 is only a reading; φ = 0 is active at the start. At step t = 1 … T−1 the policy sees
the budget of row t−1 and the active variant m, and chooses a. The answer is on time iff
latency[a] + stall[m][a] ≤ budget[t]. The step scores quality[a] if on time, else −miss_cost; minus
switch_cost if a ≠ m. Then m = a.

Scores are formed from counts, which are exact integers, so they do not depend on how the loop ran.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..controller.step import Controller, Reading
from ..model_zoo.profile import Costs, Profile
from ..policies.choose import choose
from ..policies.frame import Objective
from ..policies.lookup import Lookup, Policy
from ..policies.table import TablePolicy
from ..policies.trace import Trace
from . import kernels
from .optimum import best_path
from .packed import play
from .scoring import check_length, figures


@dataclass(frozen=True)
class Replay:
    """The outcome of one policy on one trace; `decisions` (T−1,) holds the φ of steps 1 … T−1.

    `mean_quality` is that of on-time answers alone (0 where there is none).
    """

    policy: str
    trace: Trace
    costs: Costs
    objective: Objective
    decisions: NDArray[np.uint8]
    mean_score: float
    on_time_share: float
    switch_share: float
    mean_quality: float

    def __repr__(self) -> str:
        return f"<Replay(policy={self.policy!r}, mean_score={self.mean_score:.4f})>"

    def summary(self) -> dict[str, float | int | str]:
        """Return the figures alone."""
        return {
            "policy": self.policy,
            "trace": self.trace.name,
            "steps": len(self.decisions),
            "mean_score": self.mean_score,
            "on_time_share": self.on_time_share,
            "switch_share": self.switch_share,
            "mean_quality": self.mean_quality,
        }

    @property
    def active(self) -> NDArray[np.uint8]:
        """Return the variant that was active before each step, (T−1,)."""
        return np.concatenate([np.zeros(1, np.uint8), self.decisions[:-1]])

    @property
    def on_time(self) -> NDArray[np.bool_]:
        """Return whether each step was on time, (T−1,)."""
        need = self.costs.need_ms[self.active, self.decisions]
        return np.asarray(need <= self.trace.budget_ms[1:])

    @property
    def scores(self) -> NDArray[np.float64]:
        """Return the score of each step, (T−1,)."""
        paid = np.where(self.on_time, self.costs.quality[self.decisions], -self.objective.miss_cost)
        return np.asarray(paid - self.objective.switch_cost * (self.decisions != self.active))

    def write_decisions(self, path: str | Path) -> None:
        """Write one row a step: time_s, reading_ms, budget_ms, active, variant, on_time, score."""
        rows = zip(
            self.trace.time_s[1:].tolist(),
            self.trace.readings_ms.tolist(),
            self.trace.budget_ms[1:].tolist(),
            self.active.tolist(),
            self.decisions.tolist(),
            self.on_time.astype(int).tolist(),
            self.scores.tolist(),
            strict=True,
        )
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                ["time_s", "reading_ms", "budget_ms", "active", "variant", "on_time", "score"]
            )
            writer.writerows(rows)


def replay(
    trace: Trace,
    profile: Profile,
    policy: str | Path | TablePolicy | Policy,
    *,
    objective: Objective | None = None,
    latency: str = "p95",
    adapt: bool = False,
) -> Replay:
    """Return the outcome of `policy` (a rule's name, a policy file, a policy) over `trace`.

    A policy without memory runs in a compiled or vectorised loop, any other through
    `Controller.step`; the decisions are the same. Raises `TraceError` for a trace under two rows.
    """
    objective = objective or Objective()
    costs = profile.costs(latency)
    check_length(trace)
    decider = choose(policy, profile, latency=latency, objective=objective, adapt=adapt)
    if not isinstance(decider, Lookup):
        return score(trace, costs, objective, decide_stepwise(trace, decider, costs), decider.name)
    readings = trace.readings_ms if "reading_ms" in trace.columns else None
    decisions, on_time, switches = play(
        trace.budget_ms, decider.edges_ms, decider.table, costs.need_ms, readings
    )
    return _outcome(trace, costs, objective, decisions, decider.name, on_time, switches)


def decide_stepwise(trace: Trace, policy: Policy, costs: Costs) -> NDArray[np.uint8]:
    """Return the decisions of any policy, one `Controller.step` after the other."""
    controller = Controller(policy, costs)
    controller.reset()
    readings = trace.readings_ms.tolist()
    return np.array([controller.step(Reading(b)).phi for b in readings], dtype=np.uint8)


def clairvoyant(
    trace: Trace, profile: Profile, *, objective: Objective | None = None, latency: str = "p95"
) -> Replay:
    """Return the best that any policy could have scored, the whole trace known in advance.

    Backward dynamic programming: V_t(m) = max_a [score of a at step t from m + V_{t+1}(a)].
    """
    objective = objective or Objective()
    costs = profile.costs(latency)
    check_length(trace)
    decisions = best_path(
        trace.budget_ms, costs.need_ms, costs.quality, objective.miss_cost, objective.switch_cost
    )
    return score(trace, costs, objective, decisions, "clairvoyant")


def score(
    trace: Trace, costs: Costs, objective: Objective, decisions: NDArray[np.uint8], name: str
) -> Replay:
    """Return the scores of given decisions (T−1,)."""
    counts = kernels.tally(trace.budget_ms, costs.need_ms, decisions)
    return _outcome(trace, costs, objective, decisions, name, *counts)


def _outcome(
    trace: Trace,
    costs: Costs,
    objective: Objective,
    decisions: NDArray[np.uint8],
    name: str,
    on_time: NDArray[np.int64],
    switches: int,
) -> Replay:
    """Return the scores of decisions, given how many of each variant were on time (M,), and the switches."""
    steps = len(decisions)
    in_time = int(on_time.sum())
    quality = float(on_time @ costs.quality)
    return Replay(
        policy=name,
        trace=trace,
        costs=costs,
        objective=objective,
        decisions=decisions,
        **figures(objective, steps, in_time, switches, quality)._asdict(),
    )
