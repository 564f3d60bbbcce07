r"""The switching problem, its optimal policy, and a certificate.

**Problem.** A state is a pair (e, m): e = 0 … E−1 is what the world does, m = 0 … M−1 what we did last
(the active variant). In each step an action a = 0 … M−1 is chosen; it pays r(e, m, a) − C(m, a), the
world moves to e′ with probability P(e, e′) whatever was chosen, and a becomes the active variant:

    (T V)(e, m) = max_a [ r(e, m, a) − C(m, a) + γ (P V)(e, a) ]                                  (1)

Since e moves alone, one backup is one product P V shared by all actions, O(E² M + E M²), never the
generic (E M)² M. With a discount γ < 1 the optimum is the fixed point V* = T V*. With `discount=None`
the objective is the long-run average: g + h = T h with γ = 1, gain g and bias h (h(0, 0) = 0). The
average is one number for all states only if P has a single closed class of states; otherwise it is
refused, with the classes named.

**Method.** Write V(e, m) = v(e) + d(e, m) with d(e, 0) = 0. The term P v is common to all actions, so
the greedy policy depends on d alone, and d has a recursion of its own:

    t(e, m) = max_a [ r(e, m, a) − C(m, a) + γ (P d)(e, a) ],     d ← t(·, m) − t(·, 0)           (2)

A state (e, m) can imitate (e, 0) by taking its action, which costs at most the difference that m
alone makes to that one step; so |d| stays bounded by it for every γ ≤ 1, and d contracts as fast as
optimal policies started from different m *merge*, not as fast as γ discounts. Up to 300 states d is found
by policy iteration, which `kernels` explains (and does compiled, with the extra `fast`). Above, and where
that does not settle, (2) is iterated with the acceleration of `anderson`. When d rests, v follows from one
E × E system:

    (I − γ P) v = t(·, 0)            or, for the average,            g + v = t(·, 0) + P v,  v(0) = 0.

**Structure.** For a chain of very many states P need not be written down (`operators`). If it moves a few
states a step (`Banded`), both systems are banded, and policy iteration and elimination take time in
proportion to E. If it is a product of independent factors (`Kronecker`), (2) is accelerated, and so is
v ← t(·, 0) + γ P v, less its first entry: without its level v contracts as the chain mixes. Up to 300
states a structure gains nothing, and the array is written down after all.

**Certificate.** With δ = T V − V, computed by (1) for the V that is returned,

    discounted:  T V + γ/(1−γ) · min δ  ≤  V*  ≤  T V + γ/(1−γ) · max δ      (MacQueen 1966; Porteus 1971)
    average:     min δ ≤ g* ≤ max δ                                                  (Odoni 1969)

(both in Puterman, *Markov Decision Processes*, 1994, §6.6 and §8.5). `converged` says that the gap
between the two is at most `tol` · max(1, max |V|) discounted, `tol` · max(1, |g|) on average. The
bounds hold whether or not it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import kernels, structured
from .differences import Recursion, greedy, largest, resting
from .operators import Exogenous, check_chain, check_single_class, finite

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_COMPILED_SWEEPS = 1000  # before the longer way is tried
_DENSE_STATES = kernels.DIRECT_STATES  # up to here a structure gains nothing


@dataclass(frozen=True, slots=True)
class Solution:
    """An optimal policy with its certificate.

    `value` (E, M): the discounted value, or the bias for the average. `policy` (E, M): the action.
    `gain`: the long-run average reward a step (None when discounted). `bounds`: a lower and an upper
    bound of the optimum, arrays (E, M) of the value when discounted, two numbers around the gain on
    average. `iterations`: applications of (2). `converged`: the bounds are as close as was asked.
    """

    value: Floats
    policy: Ints
    gain: float | None
    bounds: tuple[Floats, Floats] | tuple[float, float]
    iterations: int
    converged: bool


class SwitchingMDP:
    """A problem with an exogenous chain, M actions that stay active, and costs of switching.

    `transition`: an array (E, E) whose rows are probabilities, or a chain with structure (`operators`).
    `reward` (E, M) as r(e, a), or (E, M, M) as r(e, m, a). `switch_cost` (M, M): C(m, a) ≥ 0, subtracted.
    `discount`: γ in (0, 1), or None for the long-run average. Raises ValueError naming the row or state
    that is wrong.
    """

    def __init__(
        self,
        transition: ArrayLike | Exogenous,
        reward: ArrayLike,
        switch_cost: ArrayLike,
        discount: float | None = None,
    ) -> None:
        self.transition = _chain(transition)
        reward = finite("reward", reward)
        self.switch_cost = finite("switch_cost", switch_cost)
        self.discount = discount
        self._gamma = 1.0 if discount is None else discount
        states = len(self.transition)
        if reward.ndim == 2:
            reward = np.broadcast_to(reward[:, None, :], (*reward.shape, reward.shape[1]))
        if reward.ndim != 3 or reward.shape[0] != states or reward.shape[1] != reward.shape[2]:
            raise ValueError(
                f"reward has shape {reward.shape}; expected ({states}, M) or ({states}, M, M) "
                f"for a transition of {states} states"
            )
        actions = reward.shape[2]
        if actions == 0:
            raise ValueError("reward has no action")
        if self.switch_cost.shape != (actions, actions):
            raise ValueError(
                f"switch_cost has shape {self.switch_cost.shape}; expected ({actions}, {actions})"
            )
        if (self.switch_cost < 0).any():
            m, a = np.argwhere(self.switch_cost < 0)[0]
            raise ValueError(f"switch_cost[{m}, {a}] is {self.switch_cost[m, a]}; costs are ≥ 0")
        if discount is not None and not 0 < discount < 1:
            raise ValueError(f"discount is {discount}; expected a number in (0, 1), or None")
        if discount is None:
            _check_single_class(self.transition)
        self.payoff = np.subtract(reward, self.switch_cost, order="C")
        """(E, M, M): r(e, m, a) − C(m, a)."""

    def __repr__(self) -> str:
        states, actions, _ = self.payoff.shape
        return f"<SwitchingMDP(states={states}, actions={actions}, discount={self.discount})>"

    def q(self, value: Floats) -> Floats:
        """Return (E, M, M): what each action is worth in each state if `value` follows."""
        return self.payoff + self._gamma * (self.transition @ value)[:, None, :]

    def bellman_operator(self, value: Floats) -> Floats:
        """Return T V, (E, M), by equation (1)."""
        return np.asarray(self.q(value).max(axis=2))

    def greedy(self, value: Floats) -> Ints:
        """Return the best action in each state, (E, M): of equally good ones the active, else the first."""
        return greedy(self.q(value), self.payoff)

    def evaluate(self, policy: ArrayLike) -> Floats:
        """Return the discounted value (E, M) of any policy (E, M), by one dense solve of E·M unknowns.

        Raises ValueError for the average, where there is no such value, and for a chain with structure.
        """
        if self.discount is None:
            raise ValueError("a policy's discounted value needs a discount")
        chain, pay = self._under(np.asarray(policy))
        value = np.linalg.solve(np.eye(len(chain)) - self.discount * chain, pay)
        return np.asarray(value).reshape(self.payoff.shape[:2])

    def occupancy(self, policy: ArrayLike, start: int = 0) -> Floats:
        """Return (E, M): the long-run share of steps in each state under `policy`, begun with m=`start`.

        Raises ValueError for a chain with structure, whose powers have none.
        """
        return np.asarray(self.occupancies(policy)[start])

    def occupancies(self, policy: ArrayLike) -> Floats:
        """Return (M, E, M): the `occupancy` for each variant that may be active at the start.

        Powers of the lazy chain (I + P)/2 by repeated squaring: exact to rounding for any chain.
        Raises ValueError for a chain with structure, whose powers have none.
        """
        chain, _ = self._under(np.asarray(policy))
        power = 0.5 * (np.eye(len(chain)) + chain)
        for _ in range(40):
            power = power @ power
            power /= power.sum(axis=1, keepdims=True)
        shape = self.payoff.shape[:2]
        return np.asarray(power.reshape(*shape, *shape).mean(axis=0))

    def _under(self, policy: NDArray[np.generic]) -> tuple[Floats, Floats]:
        """Return the chain on (e, m) flattened, (EM, EM), and its payoff (EM,), under `policy`."""
        states, actions, _ = self.payoff.shape
        if isinstance(self.transition, Exogenous):
            raise ValueError(
                f"a policy's chain is an array of ({states * actions})² numbers; {self.transition!r} "
                "was given so as not to need one: `solve` and its bounds are what scales"
            )
        chosen = policy.astype(np.int64).reshape(states, actions)
        chain = np.zeros((states, actions, states, actions))
        for m in range(actions):
            chain[np.arange(states), m, :, chosen[:, m]] = self.transition
        pay = np.take_along_axis(self.payoff, chosen[:, :, None], axis=2)
        return chain.reshape(states * actions, -1), pay.reshape(-1)

    def solve(
        self, tol: float = 1e-9, max_iter: int = 10_000, *, compiled: bool = kernels.COMPILED
    ) -> Solution:
        """Return an optimal policy and its certificate; see the module's docstring for the method."""
        d = np.zeros(self.payoff.shape[:2])
        iterations = 0
        inner = min(tol, 1e-7)
        while True:
            left = max(1, max_iter - iterations)
            if compiled:
                solution = self._solve_compiled(tol, inner, min(left, _COMPILED_SWEEPS), iterations)
            else:
                precision = 0.01 * inner * largest(self.payoff)
                d, used = resting(self._recursion(), d, precision, left)
                solution = self._completed(d, tol, precision, iterations + used)
            iterations = solution.iterations
            if solution.converged or iterations >= max_iter or inner < 1e-15:
                return solution
            inner *= 1e-2
            # A degenerate problem: for an array the longer way, with better algebra.
            compiled = compiled and isinstance(self.transition, Exogenous)

    def _recursion(self) -> Recursion:
        if isinstance(self.transition, Exogenous):
            return structured.StructuredRecursion(self.payoff, self.transition, self._gamma)
        return Recursion(self.payoff, self.transition, self._gamma)

    def _solve_compiled(self, tol: float, inner: float, most: int, before: int) -> Solution:
        average = self.discount is None
        if isinstance(self.transition, Exogenous):
            backed_up, delta, policy, gain, used = structured.solve(
                self.transition, self.payoff, self._gamma, 0.1 * inner, most
            )
            return self._certified(backed_up, delta, policy, gain, tol, before + used)
        value, policy, lower, upper, low, high, gain, extent, used = kernels.solve(
            self.transition, self.payoff, self._gamma, average, 0.1 * inner, most
        )
        used += before
        if average:
            converged = high - low <= tol * max(1.0, abs(gain))
            return Solution(value, policy, min(max(gain, low), high), (low, high), used, converged)
        gap = (high - low) * self._gamma / (1 - self._gamma)
        return Solution(value, policy, None, (lower, upper), used, gap <= tol * max(1.0, extent))

    def _completed(self, d: Floats, tol: float, precision: float, iterations: int) -> Solution:
        """Complete d to V, and back it up once by (1)."""
        v, gain = self._level(self.bellman_operator(d)[:, 0], precision)
        value = v[:, None] + d
        backed_up = self.bellman_operator(value)
        policy = self.greedy(value)
        return self._certified(backed_up, backed_up - value, policy, gain, tol, iterations)

    def _certified(
        self,
        backed_up: Floats,
        delta: Floats,
        policy: Ints,
        gain: float,
        tol: float,
        iterations: int,
    ) -> Solution:
        """Read the bounds off T V (`backed_up`) and δ = T V − V."""
        low, high = float(delta.min()), float(delta.max())
        if self.discount is None:
            converged = high - low <= tol * max(1.0, abs(gain))
            gain = min(max(gain, low), high)
            bias = backed_up - backed_up[0, 0]
            return Solution(bias, policy, gain, (low, high), iterations, converged)
        weight = self._gamma / (1 - self._gamma)
        converged = weight * (high - low) <= tol * max(1.0, float(np.abs(backed_up).max()))
        bounds = (backed_up + weight * low, backed_up + weight * high)
        centre = backed_up + weight * 0.5 * (low + high)
        return Solution(centre, policy, None, bounds, iterations, converged)

    def _level(self, base: Floats, tol: float) -> tuple[Floats, float]:
        """Return v and g with v = base − g + γ P v; g = 0 when discounted."""
        if isinstance(self.transition, Exogenous):
            return self.transition.level(self._gamma, base, tol, compiled=False)
        system = np.eye(len(base)) - self._gamma * self.transition
        if self.discount is not None:
            return np.asarray(np.linalg.solve(system, base)), 0.0
        system[:, 0] = 1.0  # v(0) = 0 leaves its column to the gain
        v = np.linalg.solve(system, base)
        gain, v[0] = float(v[0]), 0.0
        return np.asarray(v), gain


def _chain(transition: ArrayLike | Exogenous) -> Floats | Exogenous:
    """Return a checked chain: an array unless it has a structure from which a solver gains."""
    if isinstance(transition, Exogenous):
        return transition.dense() if len(transition) <= _DENSE_STATES else transition
    values = finite("transition", transition)
    check_chain("transition", values)
    return values


def _check_single_class(transition: Floats | Exogenous) -> None:
    if isinstance(transition, Exogenous):
        transition.check_single_class()
    else:
        check_single_class("transition", transition)
