"""Equation (2) of `mdp` for chains with structure, in numpy and compiled: no array (E, E) anywhere.

d rests by policy iteration where the chain is banded, for then the system of the unknowns is banded too if
they are ordered by state; by accelerated sweeps where it is a product of factors. v follows from `level`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import banded, kernels
from .differences import Recursion, largest, resting
from .operators import Banded, Exogenous

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MOST_WORK = 2e9  # multiplications of one banded system, about: beyond, sweeps are quicker


@dataclass(frozen=True)
class StructuredRecursion(Recursion):
    """Equation (2) of one problem, in numpy; d is (E, M)."""

    transition: Exogenous  # type: ignore[assignment]  # all that is inherited is P @ d
    # Twice the usual: half the unknowns of the first policy, which has the most by far.
    first_sweeps = 2 * kernels.SWEEPS

    @property
    def by_policies(self) -> bool:
        """Say whether the system of a policy's unknowns keeps a structure."""
        return isinstance(self.transition, Banded)

    def unknowns(
        self, e: Ints, m: Ints, policy: Ints, gamma: float, right: Floats, d: Floats
    ) -> Floats | None:
        """Return d(e, m) where the step itself makes a difference of `right`, given the other d."""
        chain = self.transition
        assert isinstance(chain, Banded)  # `by_policies` said so
        place = np.full(d.shape, -1)
        place[e, m] = np.arange(len(e))
        target = chain.around(e)  # where that is past the ends, the probability is 0
        entries = []
        for sign, action in ((gamma, policy[e, m]), (-gamma, policy[e, 0])):
            weight = sign * chain.moves[e]
            right = right + (weight * d[target, action[:, None]]).sum(axis=1)
            column = place[target, action[:, None]]
            here = np.nonzero((column >= 0) & (weight != 0))
            entries.append((here[0], column[here], weight[here]))
        row, column, weight = (np.concatenate(part) for part in zip(*entries, strict=True))
        reach = int(np.abs(row - column).max(initial=0))
        if len(e) * reach**2 > _MOST_WORK:
            return None
        return self.solve_band(row, column, weight, right)

    def solve_band(self, row: Ints, column: Ints, weight: Floats, right: Floats) -> Floats | None:
        """Return x = right + A x for A with `weight` at (row, column), near the diagonal."""
        return banded.by_blocks(row, column, weight, right[:, None])[:, 0]


@dataclass(frozen=True)
class CompiledRecursion(StructuredRecursion):
    """Equation (2) of one problem, compiled; d is (M − 1, E)."""

    tie: float

    def ahead(self, d: Floats) -> Floats:
        """Return P dᵀ, (E, M − 1)."""
        if isinstance(self.transition, Banded):
            return np.asarray(banded.product(self.transition.moves, self.transition.lower, d))
        return self.transition @ d.T

    def image(self, d: Floats) -> Floats:
        """Return the right side of (2)."""
        image = np.empty_like(d)
        kernels.sweep(self.payoff, self.gamma, self.ahead(d), image)
        return image

    def greedy(self, d: Floats) -> Ints:
        """Return the best action in each state, (E, M)."""
        return np.asarray(kernels.greedy(self.payoff, self.gamma, self.ahead(d), self.tie))

    def under(self, policy: Ints, gamma: float) -> Floats | None:
        """Return the exact d under a policy; None where the system is singular or too large."""
        d = super().under(policy, gamma)
        return None if d is None else np.ascontiguousarray(d[:, 1:].T)

    def solve_band(self, row: Ints, column: Ints, weight: Floats, right: Floats) -> Floats | None:
        """Return x = right + A x by LAPACK's elimination, with pivoting."""
        from scipy.linalg.lapack import dgbsv

        down = max(int((row - column).max(initial=0)), 0)
        up = max(int((column - row).max(initial=0)), 0)
        system = np.zeros((len(right), 2 * down + up + 1))  # room for what pivoting adds
        system[:, down + up] = 1.0
        system[column, down + up + row - column] -= weight
        _, _, solved, failed = dgbsv(down, up, system.T, right, overwrite_ab=True, overwrite_b=True)
        return None if failed else np.asarray(solved)


def solve(
    transition: Exogenous, payoff: Floats, gamma: float, tol: float, max_iter: int
) -> tuple[Floats, Floats, Ints, float, int]:
    """Return T V and δ = T V − V (E, M each), the policy, the gain, and the applications of (2).

    `tol` is relative to the largest payoff, on d and on v.
    """
    scale = largest(payoff)
    recursion = CompiledRecursion(payoff, transition, gamma, kernels.TIE * scale)
    states, variants, _ = payoff.shape
    d, used = resting(recursion, np.zeros((variants - 1, states)), tol * scale, max_iter)
    ahead, image = recursion.ahead(d), np.empty_like(d)
    base = kernels.sweep(payoff, gamma, ahead, image)
    v, gain = transition.level(gamma, base, 0.1 * tol * scale, compiled=True)
    common = base + gamma * (transition @ v)
    backed_up, delta = np.empty((states, variants)), np.empty((states, variants))
    backed_up[:, 0], delta[:, 0] = common, common - v
    backed_up[:, 1:] = common[:, None] + image.T
    delta[:, 1:] = delta[:, :1] + (image - d).T
    policy = kernels.greedy(payoff, gamma, ahead, recursion.tie)
    return backed_up, delta, policy, gain, used
