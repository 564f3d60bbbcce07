"""The resting differences d of equation (2) in `mdp`, by policy iteration and by accelerated sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .anderson import rest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_UNBOUNDED = 1e9  # relative: a d beyond this is that of a singular system


@dataclass(frozen=True)
class Recursion:
    """Equation (2) of one problem, for a chain (E, E); d is (E, M). `structured` has the other chains."""

    payoff: Floats
    transition: Floats
    gamma: float

    first_sweeps: ClassVar[int] = kernels.SWEEPS
    """Applications of (2) before the first policy is taken."""

    @property
    def by_policies(self) -> bool:
        """Say whether policy iteration is worth trying."""
        return len(self.payoff) <= kernels.DIRECT_STATES

    def worth(self, d: Floats) -> Floats:
        """Return (E, M, M): what each action is worth in each state, but for what all share."""
        return np.asarray(self.payoff + self.gamma * (self.transition @ d)[:, None, :])

    def image(self, d: Floats) -> Floats:
        """Return the right side of (2)."""
        t = self.worth(d).max(axis=2)
        return np.asarray(t - t[:, :1])

    def greedy(self, d: Floats) -> Ints:
        """Return the best action in each state, (E, M)."""
        return greedy(self.worth(d), self.payoff)

    def under(self, policy: Ints, gamma: float) -> Floats | None:
        """Return the exact d under a policy; None where the system is singular or too large."""
        paid = np.take_along_axis(self.payoff, policy[:, :, None], axis=2)[:, :, 0]
        d = paid - paid[:, :1]
        e, m = np.nonzero(policy != policy[:, :1])
        if not len(e):
            return d
        right, d[e, m] = d[e, m], 0.0
        try:
            solved = self.unknowns(e, m, policy, gamma, right, d)
        except np.linalg.LinAlgError:
            return None
        if solved is None or not np.abs(solved).max() < _UNBOUNDED * largest(self.payoff):
            return None
        d[e, m] = solved
        return d

    def unknowns(
        self, e: Ints, m: Ints, policy: Ints, gamma: float, right: Floats, d: Floats
    ) -> Floats | None:
        """Return d(e, m) where the step itself makes a difference of `right`, given the other d."""
        if len(e) > kernels.DIRECT_UNKNOWNS:
            return None
        which = np.arange(len(e))
        ahead = np.zeros((len(e), *d.shape))
        ahead[which, :, policy[e, m]] += gamma * self.transition[e]
        ahead[which, :, policy[e, 0]] -= gamma * self.transition[e]
        system = np.eye(len(e)) - ahead[:, e, m]
        return np.asarray(np.linalg.solve(system, right + (ahead * d).sum(axis=(1, 2))))


def settle(
    payoff: Floats, transition: Floats, gamma: float, d: Floats, tol: float, max_iter: int
) -> tuple[Floats, int]:
    """Return the resting d (E, M) and the applications of (2) that it took, begun from `d`.

    `tol` is relative to the largest payoff, or absolute where that is below 1.
    """
    return resting(Recursion(payoff, transition, gamma), d, tol * largest(payoff), max_iter)


def resting(recursion: Recursion, d: Floats, tol: float, max_iter: int) -> tuple[Floats, int]:
    """Return the resting d and the applications of (2) that it took, begun from `d`.

    By policy iteration where that settles and the systems are small, else by sweeps until d moves by at
    most `tol`.
    """
    used = 0
    if recursion.by_policies:
        d, used, exact = _by_policies(recursion, d)
        if exact:
            return d, used
    d, swept = rest(recursion.image, d, tol, max_iter)
    return d, used + swept


def _by_policies(recursion: Recursion, d: Floats) -> tuple[Floats, int, bool]:
    """Policy iteration on d (see `kernels`): (d, applications of (2), whether d rests exactly)."""
    for _ in range(recursion.first_sweeps):
        d = recursion.image(d)
    policy = recursion.greedy(d)
    used = recursion.first_sweeps
    for _ in range(kernels.POLICIES):
        used += 1
        # Where two variants never merge under this policy the average has no d; a whisker of
        # discount has.
        exact = recursion.under(policy, recursion.gamma)
        near = exact
        if near is None:
            near = recursion.under(policy, recursion.gamma * (1 - kernels.WHISKER))
        if near is None:
            break
        d = near
        better = recursion.greedy(d)
        if np.array_equal(better, policy):
            return d, used, exact is not None
        policy = better
    return d, used, False


def largest(payoff: Floats) -> float:
    """Return the scale of a problem: its largest payoff, or 1 where that is smaller."""
    return max(1.0, float(payoff.max()), -float(payoff.min()))


def greedy(q: Floats, payoff: Floats) -> Ints:
    """Return the best action of q (E, M, M): of equally good ones the active, else the first."""
    tolerance = kernels.TIE * largest(payoff)
    as_good = q >= q.max(axis=2, keepdims=True) - tolerance
    stay = np.arange(q.shape[1])
    return np.where(as_good[:, stay, stay], stay, as_good.argmax(axis=2)).astype(np.int64)
