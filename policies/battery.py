r"""Making a battery last: a price of energy as one more dimension of the table.

**Prices.** With w_a joules an answer and a price of μ quality a joule, the frame loop's reward becomes
r(e, m, a) − μ w_a. Its optimal policy for each μ, from 0 up, is one table; the joules ē(μ) that it takes an
answer on average fall as μ rises. By Lagrangian duality (Everett 1963) the table of price μ is the best of
all policies that take no more than ē(μ), so the tables of all prices are all that a constant allowance
needs. Prices are found by halving: between two whose ē differ, until neighbours are within `_FINE` of the
whole range or `_MOST_PRICES` are reached.

**While it runs.** What the battery holds, less what everything else will take until the set time, divided by
the answers that are left, is an allowance; the lowest price whose ē is within it is taken, and reviewed as
time goes by. To solve the static problem again and again with what is left is near-optimal (certainty-
equivalent resolving: Jasin & Kumar, Math. Oper. Res. 37, 2012): one review corrects the error of the last.

**Everything else.** What the rest of the device takes over the next h seconds is known from recordings, as
a quantile of its mean over all windows of length h: the four-fifths one for the whole time, rising to the
highest ever seen for the next moments, when there is no later review to make up for a burst. A drain that
is higher still shows in the battery's level, and lowers the allowance.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Costs
from .chain import Chain
from .frame import Objective, frame_mdp
from .lookup import Lookup
from .mdp import SwitchingMDP

Floats = NDArray[np.float64]

_FINE = 0.02
_MOST_PRICES = 16
_CAUTION = 0.8
_HORIZONS = 24
REVIEW_STEPS = 100
"""Answers between two reviews of the price; fewer where less than twenty times as many are left."""


@dataclass(frozen=True)
class BatteryPlan:
    """Tables by price of energy, and what they are for.

    `prices` (K,) quality a joule, ascending from 0; `tables` (K, E, M); `answer_j` (K,): mean joules an
    answer. `drain_w` (H,): what everything else takes at most, on average over `drain_over_s` (H,). The plan
    is for `battery_j` joules to last `horizon_s` seconds at one answer every `period_s`.
    """

    prices: Floats
    tables: NDArray[np.uint8]
    answer_j: Floats
    drain_over_s: Floats
    drain_w: Floats
    battery_j: float
    horizon_s: float
    period_s: float

    def drain_ahead_j(self, left_s: float) -> float:
        """Return what everything else is reckoned to take in the next `left_s` seconds (J)."""
        return float(np.interp(left_s, self.drain_over_s, self.drain_w)) * left_s

    def price_for(self, energy_j: float, left_s: float) -> int:
        """Return the index of the price to take with `energy_j` joules and `left_s` seconds left."""
        left_s = max(left_s, self.period_s)
        free_j = energy_j - self.drain_ahead_j(left_s)
        affordable = self.answer_j <= free_j * self.period_s / left_s
        return int(affordable.argmax()) if affordable.any() else len(self.prices) - 1


def plan_battery(
    costs: Costs,
    joules: Floats,
    chain: Chain,
    objective: Objective,
    *,
    battery_j: float,
    horizon_s: float,
    period_s: float,
    drains: Sequence[tuple[Floats, Floats]] = (),
) -> BatteryPlan:
    """Return the plan for `joules` (M,) an answer on a chain with edges in milliseconds.

    `drains` are recordings of what everything else takes: (time_s, drain_w) each; none: nothing. Raises
    ValueError for numbers that are not finite and above 0.
    """
    for name, value in (
        ("battery_j", battery_j), ("horizon_s", horizon_s), ("period_s", period_s)
    ):  # fmt: skip
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; expected a finite number above 0")
    prices, tables, answer_j = _price(frame_mdp(costs, chain, objective), joules, objective)
    drain_over_s, drain_w = _drain(drains, period_s, horizon_s)
    return BatteryPlan(
        prices, tables, answer_j, drain_over_s, drain_w, battery_j, horizon_s, period_s
    )


def _price(
    mdp: SwitchingMDP, joules: Floats, objective: Objective
) -> tuple[Floats, NDArray[np.uint8], Floats]:
    """Return prices, their tables, and the joules that each takes an answer."""

    def at(price: float) -> tuple[float, NDArray[np.uint8], float]:
        priced = SwitchingMDP(
            mdp.transition, mdp.payoff - price * joules, 0 * mdp.switch_cost, mdp.discount
        )
        policy = priced.solve().policy
        # A dear switch may keep a variant for good: what counts is the one that takes the most.
        taken = (priced.occupancies(policy) * joules[policy]).sum(axis=(1, 2))
        return price, policy.astype(np.uint8), float(taken.max())

    differences = np.diff(np.unique(joules))
    if not len(differences):
        return (*(np.array([x]) for x in at(0.0)),)  # type: ignore[return-value]
    # Above this no answer's worth makes up for the smallest difference in joules.
    highest = 2 * float(np.ptp(mdp.payoff) + objective.switch_cost) / float(differences.min())
    found = [at(0.0), at(highest)]
    fine = _FINE * (found[0][2] - found[-1][2])
    while len(found) < _MOST_PRICES:
        gaps = [
            before[2] - after[2] if after[0] - before[0] > 1e-3 * after[0] else 0.0
            for before, after in pairwise(found)
        ]
        widest = int(np.argmax(gaps))
        if gaps[widest] <= fine:
            break
        found.insert(widest + 1, at(0.5 * (found[widest][0] + found[widest + 1][0])))
    cheaper = [found[0], *(new for old, new in pairwise(found) if new[2] < old[2])]
    prices, tables, taken = zip(*cheaper, strict=True)
    return np.array(prices), np.stack(tables), np.array(taken)


def _drain(
    drains: Sequence[tuple[Floats, Floats]], period_s: float, horizon_s: float
) -> tuple[Floats, Floats]:
    """Return window lengths and the cautious mean drain over them."""
    if not drains:
        return np.array([horizon_s]), np.zeros(1)
    recordings = []
    for time_s, drain_w in drains:
        taken_j = np.concatenate([[0.0], np.cumsum(drain_w[:-1] * np.diff(time_s))])
        recordings.append((time_s - time_s[0], taken_j))
    longest_s = max(float(time_s[-1]) for time_s, _ in recordings)
    shortest_s = min(float(np.diff(time_s).min()) for time_s, _ in drains)
    over_s = np.geomspace(shortest_s, max(min(longest_s, horizon_s), 1.001 * shortest_s), _HORIZONS)
    drain_w = np.zeros(_HORIZONS)
    for h, window_s in enumerate(over_s.tolist()):
        means = [
            (np.interp(starts + window_s, time_s, taken_j) - np.interp(starts, time_s, taken_j))
            / window_s
            for time_s, taken_j in recordings
            if len(starts := time_s[time_s + window_s <= time_s[-1] * (1 + 1e-9)])
        ]
        if means:
            surely = 1 - (1 - _CAUTION) * min(1.0, window_s / horizon_s)
            drain_w[h] = np.quantile(np.concatenate(means), surely)
        elif h:
            drain_w[h] = drain_w[h - 1]
    return over_s, drain_w


class BatteryTable:
    """A plan that decides: the table of the price that the battery's level and the time left call for.

    Call `review` as often as the level is read; without it the plan takes the battery to drain as planned.
    """

    name = "battery"

    def __init__(self, plan: BatteryPlan, edges_ms: Floats) -> None:
        self.plan = plan
        lookups = [Lookup(self.name, edges_ms, table) for table in plan.tables]
        self._edges: list[float] = lookups[0].edges_ms.tolist()
        self._rows = [lookup.table.T.tolist() for lookup in lookups]
        self._reviewed_s = 0.0
        self.reset()

    def __repr__(self) -> str:
        return f"<BatteryTable(price={self.price:.3g}, of={len(self.plan.prices)})>"

    @property
    def price(self) -> float:
        """Return the price of energy that holds now (quality a joule)."""
        return float(self.plan.prices[self._at])

    def review(self, energy_j: float, left_s: float) -> None:
        """Choose the price anew if the last choice is old enough."""
        every_s = min(REVIEW_STEPS * self.plan.period_s, left_s / 20)
        if abs(self._reviewed_s - left_s) >= every_s:
            self._reviewed_s = left_s
            self._at = self.plan.price_for(energy_j, left_s)

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading."""
        return int(self._rows[self._at][active][bisect_right(self._edges, reading_ms)])

    def reset(self) -> None:
        """Go back to a full battery and the whole time."""
        self._reviewed_s = self.plan.horizon_s
        self._at = self.plan.price_for(self.plan.battery_j, self.plan.horizon_s)
