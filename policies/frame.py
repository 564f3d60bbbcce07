"""The frame loop as a switching problem: one answer a step, paid on the budget that comes.

The world e is the bin of the budget as last read, x is the active variant m, and

    r(e, m, a) = q_a · Pr[L_a + S_ma ≤ B′ | e] − κ · Pr[L_a + S_ma > B′ | e],     C(m, a) = λ · 1[a ≠ m]

with B′ the budget of the step itself: the policy decides on what it sees and is paid on what comes.
Every L_a + S_ma being an edge, the probabilities are sums of whole bins: exact, not interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Costs
from .chain import Chain
from .mdp import SwitchingMDP

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Objective:
    """What is maximised: quality on time, minus κ = `miss_cost` when late and λ = `switch_cost`.

    `discount` is γ in (0, 1), or None for the long-run average. Raises ValueError.
    """

    miss_cost: float = 0.5
    switch_cost: float = 0.01
    discount: float | None = None

    def __post_init__(self) -> None:
        for name in ("miss_cost", "switch_cost"):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value}; expected a finite number ≥ 0")
        if self.discount is not None and not 0 < self.discount < 1:
            raise ValueError(f"discount is {self.discount}; expected a number in (0, 1), or None")


def at_least(probability: Floats, first: NDArray[np.int64]) -> Floats:
    """Return (E, …): the mass of each row of `probability` (E, K) from column `first` (…) on."""
    tail = probability[:, ::-1].cumsum(axis=1)[:, ::-1]
    return np.asarray(np.minimum(tail[:, first], 1.0))


def on_time_probability(costs: Costs, chain: Chain) -> Floats:
    """Return (E, M, M): Pr[L_a + S_ma ≤ B′ | e] for row m active and column a chosen."""
    return at_least(chain.transition, chain.bins(costs.need_ms))


def expected_reward(quality: Floats, on_time: Floats, objective: Objective) -> Floats:
    """Return r(e, m, a), (E, M, M), from the probabilities of being on time."""
    return np.asarray(quality * on_time - objective.miss_cost * (1 - on_time))


def frame_mdp(costs: Costs, chain: Chain, objective: Objective) -> SwitchingMDP:
    """Return the frame loop's switching problem; `chain.edges` in milliseconds."""
    reward = expected_reward(costs.quality, on_time_probability(costs, chain), objective)
    switch_cost = objective.switch_cost * (1 - np.eye(len(costs)))
    return SwitchingMDP(chain.transition, reward, switch_cost, objective.discount)
