"""A table in plain words: its thresholds, whether it is monotone, and why it decides as it does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Profile
from .frame import frame_mdp, on_time_probability
from .table import TablePolicy

Floats = NDArray[np.float64]


class Span(NamedTuple):
    """Readings from `low` up to but not including `high` are answered with `phi`."""

    low: float
    high: float
    phi: int


class Reason(NamedTuple):
    """What one choice is worth: the step's expected payoff, and what it loses later against the best.

    `on_time` is the probability of being on time, `payoff` the expected quality less prices, `total` the
    worth of the choice less that of the best one (0 for the best).
    """

    phi: int
    on_time: float
    payoff: float
    later: float
    total: float


def spans(edges: Floats, table: NDArray[np.uint8], active: int) -> list[Span]:
    """Return what is chosen with `active` active, from a reading of 0 to any; edges in any unit."""
    chosen = table[:, active].tolist()
    bounds = [0.0, *edges.tolist(), np.inf]
    starts = [0, *(b for b in range(1, len(chosen)) if chosen[b] != chosen[b - 1]), len(chosen)]
    return [Span(bounds[i], bounds[j], chosen[i]) for i, j in pairwise(starts)]


def sentence(parts: list[Span], active: int, unit: str) -> str:
    """Return one line such as `with φ=1 active: φ=0 below 41.2 ms, stay to 57.9 ms, φ=2 above`."""
    words = []
    for number, span in enumerate(parts):
        what = "stay" if span.phi == active else f"φ={span.phi}"
        if len(parts) == 1:
            words.append("stay always" if span.phi == active else f"φ={span.phi} always")
        elif np.isinf(span.high):
            words.append(f"{what} above")
        else:
            words.append(f"{what} {'to' if number else 'below'} {span.high:.4g} {unit}")
    return f"with φ={active} active: " + ", ".join(words)


def not_monotone(table: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Return the first (bin, active) where a larger budget gets a smaller φ; None if there is none."""
    falls = np.argwhere(np.diff(table.astype(np.int64), axis=0) < 0)
    return (int(falls[0, 0]) + 1, int(falls[0, 1])) if len(falls) else None


def reasons(
    policy: TablePolicy, profile: Profile, reading_ms: float, active: int
) -> Iterator[Reason]:
    """Yield the worth of every choice at one reading with `active` active, φ = 0 first.

    The chain and the prices are the policy's, the costs the profile's.
    """
    policy.bind(profile)  # refuses another ladder
    costs = profile.costs(policy.latency)
    chain = policy.chain_ms(costs)
    e = int(chain.bins(np.array([reading_ms]))[0])
    mdp = frame_mdp(costs, chain, policy.objective)
    worth = mdp.q(mdp.solve().value)[e, active]
    payoff = mdp.payoff[e, active]
    later = worth - payoff
    on_time = on_time_probability(costs, chain)[e, active]
    for phi in range(len(costs)):
        yield Reason(
            phi,
            float(on_time[phi]),
            float(payoff[phi]),
            float(later[phi] - later.max()),
            float(worth[phi] - worth.max()),
        )
