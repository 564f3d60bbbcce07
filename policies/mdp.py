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
that does not settle, (2) is iterated with Anderson acceleration (Walker & Ni, SIAM J. Numer. Anal. 49,
2011), safeguarded: where an extrapolation does not reduce the residual, the iteration falls back to plain
averaged steps (d + t) / 2, which also settle periodic chains. When d rests, v follows from one E × E system:

    (I − γ P) v = t(·, 0)            or, for the average,            g + v = t(·, 0) + P v,  v(0) = 0.

**Certificate.** With δ = T V − V, computed by (1) for the V that is returned,

    discounted:  T V + γ/(1−γ) · min δ  ≤  V*  ≤  T V + γ/(1−γ) · max δ      (MacQueen 1966; Porteus 1971)
    average:     min δ ≤ g* ≤ max δ                                                  (Odoni 1969)

(both in Puterman, *Markov Decision Processes*, 1994, §6.6 and §8.5). `converged` says that the gap
between the two is at most `tol` · max(1, max |V|) discounted, `tol` · max(1, |g|) on average. The
bounds hold whether or not it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import kernels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROW_SUM_TOLERANCE = 1e-8
_MEMORY = 6  # differences that Anderson acceleration combines
_COMPILED_SWEEPS = 1000  # before the longer way is tried
_RESETS = 3  # of the acceleration, then plain averaged steps
_UNBOUNDED = 1e9  # relative: a d beyond this is that of a singular system
_TIE = 1e-9  # relative: a switch has to gain more than this


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

    `transition` (E, E): rows are probabilities. `reward` (E, M) as r(e, a), or (E, M, M) as
    r(e, m, a). `switch_cost` (M, M): C(m, a) ≥ 0, subtracted. `discount`: γ in (0, 1), or None for the
    long-run average. Raises ValueError naming the row or state that is wrong.
    """

    def __init__(
        self,
        transition: ArrayLike,
        reward: ArrayLike,
        switch_cost: ArrayLike,
        discount: float | None = None,
    ) -> None:
        self.transition = _finite("transition", transition)
        reward = _finite("reward", reward)
        self.switch_cost = _finite("switch_cost", switch_cost)
        self.discount = discount
        self._gamma = 1.0 if discount is None else discount
        _check_chain(self.transition)
        states = len(self.transition)
        if reward.ndim == 2:
            reward = np.repeat(reward[:, None, :], reward.shape[1], axis=1)
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
        self.payoff = reward - self.switch_cost[None, :, :]
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
        return _greedy(self.q(value), self.payoff)

    def evaluate(self, policy: ArrayLike) -> Floats:
        """Return the discounted value (E, M) of any policy (E, M), by one dense solve of E·M unknowns.

        Raises ValueError for the average, where there is no such value.
        """
        if self.discount is None:
            raise ValueError("a policy's discounted value needs a discount")
        chain, pay = self._under(np.asarray(policy))
        value = np.linalg.solve(np.eye(len(chain)) - self.discount * chain, pay)
        return np.asarray(value).reshape(self.payoff.shape[:2])

    def occupancy(self, policy: ArrayLike, start: int = 0) -> Floats:
        """Return (E, M): the long-run share of steps in each state under `policy`, begun with m=`start`.

        Powers of the lazy chain (I + P)/2 by repeated squaring: exact to rounding for any chain.
        """
        chain, _ = self._under(np.asarray(policy))
        power = 0.5 * (np.eye(len(chain)) + chain)
        for _ in range(40):
            power = power @ power
            power /= power.sum(axis=1, keepdims=True)
        share = power.reshape(len(chain), *self.payoff.shape[:2])
        return np.asarray(
            share[np.arange(len(self.transition)) * self.payoff.shape[1] + start].mean(0)
        )

    def _under(self, policy: NDArray[np.generic]) -> tuple[Floats, Floats]:
        """Return the chain on (e, m) flattened, (EM, EM), and its payoff (EM,), under `policy`."""
        states, actions, _ = self.payoff.shape
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
                d, used = settle(self.payoff, self.transition, self._gamma, d, 0.01 * inner, left)
                solution = self._certified(d, tol, iterations + used)
            iterations = solution.iterations
            if solution.converged or iterations >= max_iter or inner < 1e-15:
                return solution
            inner *= 1e-2
            compiled = False  # a degenerate problem: the longer way, with better algebra

    def _solve_compiled(self, tol: float, inner: float, most: int, before: int) -> Solution:
        average = self.discount is None
        value, policy, lower, upper, low, high, gain, extent, used = kernels.solve(
            self.transition, self.payoff, self._gamma, average, 0.1 * inner, most
        )
        used += before
        if average:
            converged = high - low <= tol * max(1.0, abs(gain))
            return Solution(value, policy, min(max(gain, low), high), (low, high), used, converged)
        gap = (high - low) * self._gamma / (1 - self._gamma)
        return Solution(value, policy, None, (lower, upper), used, gap <= tol * max(1.0, extent))

    def _certified(self, d: Floats, tol: float, iterations: int) -> Solution:
        """Complete d to V, back it up once by (1), and read the bounds off δ = T V − V."""
        pay = self.bellman_operator(d)[:, 0]
        system = np.eye(len(d)) - self._gamma * self.transition
        if self.discount is None:
            system[:, 0] = 1.0  # v(0) = 0 leaves its column to the gain
        v = np.linalg.solve(system, pay)
        gain = 0.0
        if self.discount is None:
            gain, v[0] = float(v[0]), 0.0
        value = v[:, None] + d
        backed_up = self.bellman_operator(value)
        delta = backed_up - value
        low, high = float(delta.min()), float(delta.max())
        policy = self.greedy(value)
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


def settle(
    payoff: Floats, transition: Floats, gamma: float, d: Floats, tol: float, max_iter: int
) -> tuple[Floats, int]:
    """Return the resting d (E, M) of (2) and the applications of (2) that it took, begun from `d`.

    By policy iteration where that settles and the systems are small, else by sweeps until d moves by at
    most `tol` (relative to the largest payoff, or absolute where that is below 1).
    """
    used = 0
    if len(d) <= kernels.DIRECT_STATES:
        d, used, exact = _by_policies(payoff, transition, gamma, d)
        if exact:
            return d, used
    d, swept = _by_sweeps(payoff, transition, gamma, d, tol, max_iter)
    return d, used + swept


def _by_policies(
    payoff: Floats, transition: Floats, gamma: float, d: Floats
) -> tuple[Floats, int, bool]:
    """Policy iteration on d (see `kernels`): (d, applications of (2), whether d rests exactly)."""
    for _ in range(kernels.SWEEPS):
        t = (payoff + gamma * (transition @ d)[:, None, :]).max(axis=2)
        d = t - t[:, :1]
    policy = _greedy(payoff + gamma * (transition @ d)[:, None, :], payoff)
    used = kernels.SWEEPS
    for _ in range(kernels.POLICIES):
        used += 1
        # Where two variants never merge under this policy the average has no d; a whisker of
        # discount has.
        exact = _differences(payoff, transition, gamma, policy)
        near = exact
        if near is None:
            near = _differences(payoff, transition, gamma * (1 - kernels.WHISKER), policy)
        if near is None:
            break
        d = near
        better = _greedy(payoff + gamma * (transition @ d)[:, None, :], payoff)
        if np.array_equal(better, policy):
            return d, used, exact is not None
        policy = better
    return d, used, False


def _differences(payoff: Floats, transition: Floats, gamma: float, policy: Ints) -> Floats | None:
    """Return the exact d (E, M) under a policy; None where the system is singular or too large."""
    paid = np.take_along_axis(payoff, policy[:, :, None], axis=2)[:, :, 0]
    d = paid - paid[:, :1]
    e, m = np.nonzero(policy != policy[:, :1])
    if len(e) > kernels.DIRECT_UNKNOWNS:
        return None
    if not len(e):
        return d
    right, which = d[e, m], np.arange(len(e))
    d[e, m] = 0.0
    ahead = np.zeros((len(e), *d.shape))
    ahead[which, :, policy[e, m]] += gamma * transition[e]
    ahead[which, :, policy[e, 0]] -= gamma * transition[e]
    system = np.eye(len(e)) - ahead[:, e, m]
    try:
        solved = np.linalg.solve(system, right + (ahead * d).sum(axis=(1, 2)))
    except np.linalg.LinAlgError:
        return None
    if not np.abs(solved).max() < _UNBOUNDED * max(1.0, float(np.abs(payoff).max())):
        return None
    d[e, m] = solved
    return d


def _by_sweeps(
    payoff: Floats, transition: Floats, gamma: float, d: Floats, tol: float, max_iter: int
) -> tuple[Floats, int]:
    """Iterate (2) with Anderson acceleration until d moves by at most `tol`."""
    scale = max(1.0, float(np.abs(payoff).max()))
    points: list[Floats] = []
    images: list[Floats] = []
    best, resets = np.inf, 0
    for step in range(1, max(1, max_iter) + 1):
        t = (payoff + gamma * (transition @ d)[:, None, :]).max(axis=2)
        image = np.asarray(t - t[:, :1])
        residual = float(np.abs(image - d).max())
        if residual <= tol * scale:
            return image, step
        if residual > 2 * best:  # the extrapolation led away: forget it, average instead
            points, images = [], []
            resets += 1
        best = min(best, residual)
        if resets > _RESETS:
            d = 0.5 * (d + image)
            continue
        points = [*points[-_MEMORY:], d]
        images = [*images[-_MEMORY:], image]
        d = _anderson(points, images) if len(points) > 1 else 0.5 * (d + image)
    return d, max(1, max_iter)


def _greedy(q: Floats, payoff: Floats) -> Ints:
    """Return the best action of q (E, M, M): of equally good ones the active, else the first."""
    tolerance = _TIE * max(1.0, float(np.abs(payoff).max()))
    as_good = q >= q.max(axis=2, keepdims=True) - tolerance
    stay = np.arange(q.shape[1])
    return np.where(as_good[:, stay, stay], stay, as_good.argmax(axis=2)).astype(np.int64)


def _anderson(points: list[Floats], images: list[Floats]) -> Floats:
    """Return the combination of `images` whose combined residual is least (Walker & Ni 2011)."""
    residuals = np.stack([(g - x).ravel() for x, g in zip(points, images, strict=True)])
    differences = np.diff(residuals, axis=0)
    steps = np.diff(np.stack([g.ravel() for g in images]), axis=0)
    weights = np.linalg.lstsq(differences.T, residuals[-1], rcond=1e-12)[0]
    return np.asarray((images[-1].ravel() - weights @ steps).reshape(images[-1].shape))


def _finite(name: str, array: ArrayLike) -> Floats:
    values = np.array(array, dtype=np.float64)
    if not np.isfinite(values).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{name}{list(place)} is {values[place]}; expected finite numbers")
    return values


def _check_chain(transition: Floats) -> None:
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1] or not len(transition):
        raise ValueError(f"transition has shape {transition.shape}; expected (E, E) with E ≥ 1")
    if (transition < 0).any():
        e, f = np.argwhere(transition < 0)[0]
        raise ValueError(f"transition[{e}, {f}] is {transition[e, f]}; probabilities are ≥ 0")
    sums = transition.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > ROW_SUM_TOLERANCE)
    if len(wrong):
        raise ValueError(f"transition row {wrong[0]} sums to {float(sums[wrong[0]])!r}; expected 1")


def _check_single_class(transition: Floats) -> None:
    """Raise ValueError if the chain has two closed classes: the average would depend on the start."""
    edges = transition > 0
    first = _closed_class(edges, 0)
    outside = ~_reach(edges.T, first)  # states from which the first class is never reached
    if outside.any():
        second = _closed_class(edges, int(np.flatnonzero(outside)[0]))
        raise ValueError(
            f"transition has two closed classes, states {_some(first)} and {_some(second)}: "
            "the long-run average depends on the start; use a discount, or a chain that connects"
        )


def _closed_class(edges: NDArray[np.bool_], start: int) -> NDArray[np.bool_]:
    """Return the members of a closed class that `start` leads to."""
    here = np.zeros(len(edges), dtype=bool)
    here[start] = True
    while True:
        reached = _reach(edges, here)
        coming = _reach(edges.T, here)
        away = reached & ~coming  # reached, but with no way back: move on to there
        if not away.any():
            return reached
        here = np.zeros(len(edges), dtype=bool)
        here[np.flatnonzero(away)[0]] = True


def _reach(edges: NDArray[np.bool_], start: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the states that `start` leads to, itself included."""
    reached = start.copy()
    front = reached
    while front.any():
        front = edges[front].any(axis=0) & ~reached
        reached |= front
    return reached


def _some(members: Iterable[bool]) -> str:
    listed = [str(i) for i, inside in enumerate(members) if inside]
    return ", ".join(listed[:5]) + (" …" if len(listed) > 5 else "")
