"""What is promised of a table: bounds of the optimum, the figures to expect, and how sure they are.

Figures are those of the long run on the chain, by the policy's own occupancy. How sure they are depends on
how much was counted: rows of the chain have the Dirichlet posterior of counts and prior together, and the
interval of a figure holds its middle 95 % over chains drawn from it. It says what the counts leave open about
one and the same chain, not whether the future moves by it: that is what `watch` watches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Costs
from .chain import Chain
from .frame import at_least
from .mdp import Solution

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_COVERAGE = 0.95
_MOST_DRAWS, _LEAST_DRAWS = 200, 20
_MOST_ENTRIES = 2e7  # of all drawn chains together
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


def certify(costs: Costs, chain: Chain, solution: Solution) -> Certificate:
    """Return the certificate of a solution of the frame loop on a chain with edges in milliseconds."""
    expected = _figures(costs, chain, solution.policy, chain.transition[None])[0]
    drawn = _figures(costs, chain, solution.policy, _posterior(chain, solution.policy.size))
    tail = 50 * (1 - _COVERAGE)
    ends = np.percentile(np.concatenate([expected[None], drawn]), [tail, 100 - tail], axis=0)
    low, high = np.minimum(ends[0], expected), np.maximum(ends[1], expected)
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
