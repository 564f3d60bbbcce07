"""What is promised of a table: bounds of the optimum, the figures to expect, and how sure they are.

Figures are those of the long run on the chain, by the policy's own occupancy. Two things make them unsure,
and the 95 % interval of a figure holds what either leaves open:

* how much was counted: rows of the chain have the Dirichlet posterior of counts and prior together, and
  the figure is worked out on chains drawn from it;
* how much the world changes: played over the series it was solved on, the table does better in one part and
  worse in another. From K = 6 parts of equal length with standard deviation s, a stretch to come that is as
  long as what was seen differs from it by at most t s √(2/K), t Student's quantile with K − 1 degrees of
  freedom.

The first alone holds for one in three of real recordings' second halves, both together for four in five
(docs/policy.md). Step by step, `watch` tests the promise while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Costs
from .chain import Chain
from .frame import at_least
from .lookup import EDGE_TOLERANCE
from .mdp import Solution

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_COVERAGE = 0.95
_MOST_DRAWS, _LEAST_DRAWS = 200, 20
_LOWEST, _HIGHEST = np.array([0.0, 0.0, -np.inf]), np.array([1.0, 1.0, np.inf])
_MOST_ENTRIES = 2e7  # of all drawn chains together
_PARTS, _STUDENT = 6, 2.571  # Student's 97.5 % quantile with five degrees of freedom
_LEAST_PART_STEPS = 10
_RESTART = 1e-9  # weight of the start in the long run: keeps chains that split solvable


@dataclass(frozen=True)
class Certificate:
    """What the solver promises on the chain it was given.

    `lower` and `upper` bound the optimal reward a step (the value averaged over states when discounted); the
    rest is predicted for this policy, each figure with its 95 % interval (None: not known).
    """

    lower: float
    upper: float
    converged: bool
    on_time_share: float
    switch_share: float
    mean_quality: float
    on_time_interval: Interval | None = None
    switch_interval: Interval | None = None
    quality_interval: Interval | None = None


def certify(
    costs: Costs, chain: Chain, solution: Solution, series: Sequence[Floats] = ()
) -> Certificate:
    """Return the certificate of a solution of the frame loop on a chain with edges in milliseconds.

    `series` are the budgets it was learned from (ms, 1-D each); without them nothing is known of change.
    """
    expected = _figures(costs, chain, solution.policy, chain.transition[None])[0]
    drawn = _figures(costs, chain, solution.policy, _posterior(chain, solution.policy.size))
    tail = 50 * (1 - _COVERAGE)
    ends = np.percentile(np.concatenate([expected[None], drawn]), [tail, 100 - tail], axis=0)
    seen, spread = _change(costs, chain, solution.policy, series)
    low = np.fmax(np.fmin(np.minimum(ends[0], expected), seen - spread), _LOWEST)
    high = np.fmin(np.fmax(np.maximum(ends[1], expected), seen + spread), _HIGHEST)
    lower, upper = (float(np.mean(bound)) for bound in solution.bounds)
    on_time, switch, quality = (
        (float(a), (float(b), float(c))) for a, b, c in zip(expected, low, high, strict=True)
    )
    return Certificate(
        lower=lower,
        upper=upper,
        converged=solution.converged,
        on_time_share=on_time[0],
        switch_share=switch[0],
        mean_quality=quality[0],
        on_time_interval=on_time[1],
        switch_interval=switch[1],
        quality_interval=quality[1],
    )


def _change(
    costs: Costs, chain: Chain, policy: NDArray[np.int64], series: Sequence[Floats]
) -> tuple[Floats, Floats]:
    """Return (3,) figures over the series and how far a stretch to come may be from them; NaN: not known."""
    steps = [_play(costs, chain, policy, budgets) for budgets in series if len(budgets) > 1]
    played = np.concatenate([np.empty((3, 0)), *steps], axis=1)
    on_time, _, quality = played
    if len(on_time) < _PARTS * _LEAST_PART_STEPS:
        return np.full(3, np.nan), np.full(3, np.nan)

    def figures(part: NDArray[np.int64]) -> list[float]:
        shares = played[:2, part].mean(axis=1)
        of_answers = quality[part] @ on_time[part] / max(1.0, on_time[part].sum())
        return [*shares.tolist(), float(of_answers)]

    every = np.arange(len(on_time))
    parts = np.array([figures(part) for part in np.array_split(every, _PARTS)])
    return np.array(figures(every)), _STUDENT * parts.std(axis=0, ddof=1) * (2 / _PARTS) ** 0.5


def _play(costs: Costs, chain: Chain, policy: NDArray[np.int64], budgets: Floats) -> Floats:
    """Return (3, T−1): whether each step was on time, whether it switched, the quality it chose."""
    rows, active = policy.T.tolist(), 0
    path = [0, *(active := rows[active][e] for e in chain.bins(budgets[:-1]).tolist())]
    before, chosen = np.array(path[:-1]), np.array(path[1:])
    enough = costs.need_ms[before, chosen] * (1 - EDGE_TOLERANCE)
    return np.array([budgets[1:] >= enough, before != chosen, costs.quality[chosen]], dtype=float)


def _posterior(chain: Chain, states: int) -> Floats:
    """Return drawn transitions (D, E, E), the same every time; fewer where a policy has many states."""
    draws = int(np.clip(_MOST_ENTRIES / states**2, _LEAST_DRAWS, _MOST_DRAWS))
    mass = chain.counts + chain.prior_strength * chain.prior
    weight = np.random.default_rng(0).gamma(mass, size=(draws, *mass.shape))
    return np.asarray(weight / weight.sum(axis=2, keepdims=True))


def _figures(costs: Costs, chain: Chain, policy: NDArray[np.int64], transitions: Floats) -> Floats:
    """Return (D, 3): on-time share, switch share, mean quality of on-time answers, on each transition."""
    states, variants = policy.shape
    first = chain.bins(costs.need_ms)
    e, m = np.indices(policy.shape)
    figures = np.empty((len(transitions), 3))
    for d, transition in enumerate(transitions):
        flow = np.zeros((states, variants, states, variants))
        flow[e, m, :, policy] = transition[:, None, :]
        system = np.eye(policy.size) - (1 - _RESTART) * flow.reshape(policy.size, -1)
        start = np.where(m == 0, _RESTART / states, 0.0).reshape(-1)
        share = np.maximum(np.linalg.solve(system.T, start), 0.0).reshape(policy.shape)
        share /= share.sum()  # what a restart so seldom leaves of rounding
        on_time = share * at_least(transition, first)[e, m, policy]
        total = float(on_time.sum())
        quality = float((on_time * costs.quality[policy]).sum())
        figures[d] = (
            min(total, 1.0),
            share[policy != m].sum(),
            quality / total if total > 0 else 0.0,
        )
    return figures
