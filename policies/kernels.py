"""The solver of `mdp` as one compiled function (extra `fast`): the same equations, no Python inside.

Two ways to the resting d of equation (2) there, chosen by size:

* up to 300 states, **policy iteration on d**. Under a policy σ every (e, m) that chooses as (e, 0) does has
  d(e, m) = r(e, m, a) − C(m, a) − r(e, 0, a) + C(0, a) at once, for the rest of the path is shared; only the
  others are unknowns of a linear system, mostly a few percent. A few sweeps of (2) give the first policy.
* above, and wherever policy iteration does not settle (under a poor policy the variants need never merge),
  sweeps of (2) with Anderson acceleration.

v follows from one E × E system, by elimination up to 300 states and by GMRES (Saad & Schultz 1986) above.
d(e, 0) = 0 is never stored or multiplied: d is (M − 1, E) here, so that rows of P meet rows of d.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .anderson import MEMORY, RESETS
from .jit import COMPILED as COMPILED
from .jit import MATH, njit
from .linear import eliminate, gmres

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DIRECT_STATES = 300
DIRECT_UNKNOWNS = 1500
SWEEPS = 4
"""Applications of (2) before the first policy is taken."""
POLICIES = 30
"""Policies that are tried before policy iteration gives way."""
WHISKER = 1e-7
"""The discount taken off where a policy's differences do not exist without one."""
TIE = 1e-9
"""Relative: a switch has to gain more than this."""
_OWN_STATES = 64  # up to here LAPACK's calls cost more than they save


@njit(cache=True, nogil=True, fastmath=MATH)
def _product(transition: Floats, d: Floats, out: Floats) -> None:
    """out (E, K) ← P dᵀ for d (K, E)."""
    states, columns = transition.shape[0], d.shape[0]
    if columns == 2:
        for e in range(states):
            first, second = 0.0, 0.0
            row = transition[e]
            for f in range(states):
                first += row[f] * d[0, f]
                second += row[f] * d[1, f]
            out[e, 0], out[e, 1] = first, second
        return
    for e in range(states):
        row = transition[e]
        for k in range(columns):
            total = 0.0
            for f in range(states):
                total += row[f] * d[k, f]
            out[e, k] = total


@njit(cache=True, nogil=True, fastmath=MATH)
def sweep(payoff: Floats, gamma: float, ahead: Floats, image: Floats) -> Floats:
    """image (K, E) ← right side of (2) for ahead = P d (E, K); return t(·, 0)."""
    states, variants, _ = payoff.shape
    base = np.empty(states)
    for e in range(states):
        for m in range(variants):
            best = payoff[e, m, 0]
            for a in range(1, variants):
                best = max(best, payoff[e, m, a] + gamma * ahead[e, a - 1])
            if m == 0:
                base[e] = best
            else:
                image[m - 1, e] = best - base[e]
    return base


@njit(cache=True, nogil=True, fastmath=MATH)
def greedy(payoff: Floats, gamma: float, ahead: Floats, tie: float) -> Ints:
    """Return the best actions (E, M) for ahead = P d (E, K): of equal ones the active, else the first."""
    states, variants, _ = payoff.shape
    policy = np.empty((states, variants), np.int64)
    for e in range(states):
        for m in range(variants):
            best = payoff[e, m, 0]
            for a in range(1, variants):
                best = max(best, payoff[e, m, a] + gamma * ahead[e, a - 1])
            stay = payoff[e, m, m] + (gamma * ahead[e, m - 1] if m else 0.0)
            chosen = m
            if stay < best - tie:
                chosen = 0
                while (
                    payoff[e, m, chosen] + (gamma * ahead[e, chosen - 1] if chosen else 0.0)
                    < best - tie
                ):
                    chosen += 1
            policy[e, m] = chosen
    return policy


@njit(cache=True, nogil=True, fastmath=MATH)
def _evaluate(payoff: Floats, transition: Floats, gamma: float, policy: Ints, d: Floats) -> bool:
    """d (K, E) ← the exact differences under a policy; return whether there was a solution."""
    states, variants = policy.shape
    place = np.full((variants - 1, states), -1)
    unknown = 0
    for e in range(states):
        for m in range(1, variants):
            a, base = policy[e, m], policy[e, 0]
            d[m - 1, e] = payoff[e, m, a] - payoff[e, 0, base]
            if a != base:
                place[m - 1, e] = unknown
                unknown += 1
    if unknown == 0:
        return True
    if unknown > DIRECT_UNKNOWNS:
        return False
    system = np.eye(unknown)
    right = np.empty(unknown)
    for e in range(states):
        for m in range(1, variants):
            u = place[m - 1, e]
            if u < 0:
                continue
            right[u] = d[m - 1, e]
            for sign, a in ((1.0, policy[e, m]), (-1.0, policy[e, 0])):
                if a == 0:
                    continue
                for f in range(states):
                    weight = sign * gamma * transition[e, f]
                    if place[a - 1, f] < 0:
                        right[u] += weight * d[a - 1, f]
                    else:
                        system[u, place[a - 1, f]] -= weight
    if not eliminate(system, right):
        return False
    for e in range(states):
        for m in range(1, variants):
            if place[m - 1, e] >= 0:
                d[m - 1, e] = right[place[m - 1, e]]
    return True


@njit(cache=True, nogil=True, fastmath=MATH)
def _by_policies(
    payoff: Floats, transition: Floats, gamma: float, tie: float, d: Floats, ahead: Floats
) -> tuple[int, bool]:
    """Policy iteration on d; return the applications of (2), and whether d rests exactly."""
    image = np.empty_like(d)
    for _ in range(SWEEPS):
        _product(transition, d, ahead)
        sweep(payoff, gamma, ahead, image)
        d[:] = image
    _product(transition, d, ahead)
    policy = greedy(payoff, gamma, ahead, tie)
    for tried in range(POLICIES):
        # Where two variants never merge under this policy the average has no d; a whisker of
        # discount has.
        exact = _evaluate(payoff, transition, gamma, policy, d)
        if not exact and not _evaluate(payoff, transition, gamma * (1 - WHISKER), policy, d):
            break
        _product(transition, d, ahead)
        better = greedy(payoff, gamma, ahead, tie)
        same = True
        for e in range(policy.shape[0]):
            for m in range(policy.shape[1]):
                same = same and policy[e, m] == better[e, m]
        if same:
            return SWEEPS + tried + 1, exact
        policy = better
    return SWEEPS + POLICIES, False


@njit(cache=True, nogil=True, fastmath=MATH)
def _by_sweeps(
    payoff: Floats,
    transition: Floats,
    gamma: float,
    tol: float,
    max_iter: int,
    d: Floats,
    ahead: Floats,
) -> int:
    """Sweeps of (2) with Anderson acceleration, safeguarded; return how many."""
    columns, states = d.shape
    size = columns * states
    points = np.zeros((MEMORY + 1, size))
    images = np.zeros((MEMORY + 1, size))
    image = np.empty_like(d)
    held, best, resets = 0, np.inf, 0
    for step in range(1, max_iter + 1):
        _product(transition, d, ahead)
        sweep(payoff, gamma, ahead, image)
        residual = 0.0
        for k in range(columns):
            for e in range(states):
                residual = max(residual, abs(image[k, e] - d[k, e]))
        if residual <= tol:
            d[:] = image
            return step
        if residual > 2 * best:
            held = 0
            resets += 1
        best = min(best, residual)
        if resets > RESETS:
            d[:] = 0.5 * (d + image)
            continue
        if held == MEMORY + 1:
            points[:-1], images[:-1] = points[1:].copy(), images[1:].copy()
            held = MEMORY
        points[held], images[held] = d.reshape(size), image.reshape(size)
        held += 1
        if held == 1:
            d[:] = 0.5 * (d + image)
            continue
        mix = images[held - 1].copy()
        newest = images[held - 1] - points[held - 1]
        normal, right = np.empty((held - 1, held - 1)), np.empty(held - 1)
        steps = np.empty((held - 1, size))
        for i in range(held - 1):
            steps[i] = (images[i + 1] - points[i + 1]) - (images[i] - points[i])
        for i in range(held - 1):
            right[i] = (steps[i] * newest).sum()
            for j in range(i + 1):
                normal[i, j] = (steps[i] * steps[j]).sum()
                normal[j, i] = normal[i, j]
        for i in range(held - 1):
            normal[i, i] *= 1 + 1e-12
        if eliminate(normal, right):
            for i in range(held - 1):
                mix -= right[i] * (images[i + 1] - images[i])
        d[:] = mix.reshape(d.shape)
    return max_iter


@njit(cache=True, nogil=True, fastmath=MATH)
def settle(
    payoff: Floats, transition: Floats, gamma: float, d: Floats, tol: float, max_iter: int
) -> Floats:
    """d (K, E) ← the resting differences, begun from `d`; return P d (E, K). See `differences.settle`."""
    largest = _largest(payoff)
    ahead = np.empty((len(payoff), len(d)))
    exact = False
    if len(payoff) <= DIRECT_STATES:
        _, exact = _by_policies(payoff, transition, gamma, TIE * largest, d, ahead)
    if not exact:
        _by_sweeps(payoff, transition, gamma, tol * largest, max_iter, d, ahead)
    _product(transition, d, ahead)
    return ahead


@njit(cache=True, nogil=True, fastmath=MATH)
def _largest(payoff: Floats) -> float:
    """Return the scale of a problem: its largest payoff, or 1 where that is smaller."""
    largest = 1.0
    states, variants, _ = payoff.shape
    for e in range(states):
        for m in range(variants):
            for a in range(variants):
                largest = max(largest, abs(payoff[e, m, a]))
    return largest


@njit(cache=True, nogil=True, fastmath=MATH)
def _level(transition: Floats, gamma: float, average: bool, base: Floats, tol: float) -> Floats:
    """Solve (I − γ P) v = base, or for the average with v(0)'s column left to the gain."""
    states = len(base)
    if states > DIRECT_STATES:
        long_way: Floats = gmres(transition, gamma, average, base, tol)
        return long_way
    system = np.empty((states, states))
    for e in range(states):
        for f in range(states):
            system[e, f] = -gamma * transition[e, f]
        system[e, e] += 1.0
        if average:
            system[e, 0] = 1.0
    if states > _OWN_STATES:
        return np.asarray(np.linalg.solve(system, base), dtype=np.float64)
    v = base.copy()
    eliminate(system, v)
    return v


@njit(cache=True, nogil=True, fastmath=MATH)
def solve(
    transition: Floats, payoff: Floats, gamma: float, average: bool, tol: float, max_iter: int
) -> tuple[Floats, Ints, Floats, Floats, float, float, float, float, int]:
    """Return value, policy, lower and upper bound (E, M each), min δ, max δ, gain, max |T V|, iterations.

    See `mdp` for their meaning. `tol` is relative to the largest payoff, on d and on v.
    """
    states, variants, _ = payoff.shape
    largest = _largest(payoff)
    tie = TIE * largest
    d = np.zeros((variants - 1, states))
    ahead = np.zeros((states, variants - 1))
    used, exact = 0, False
    if states <= DIRECT_STATES:
        used, exact = _by_policies(payoff, transition, gamma, tie, d, ahead)
    if not exact:
        used += _by_sweeps(payoff, transition, gamma, tol * largest, max_iter, d, ahead)
        _product(transition, d, ahead)
    image = np.empty_like(d)
    base = sweep(payoff, gamma, ahead, image)
    v = _level(transition, gamma, average, base, 0.1 * tol * largest)
    gain = 0.0
    if average:
        gain, v[0] = v[0], 0.0
    value, lower, upper = (
        np.empty((states, variants)),
        np.empty((states, variants)),
        np.empty((states, variants)),
    )
    low, high, extent = np.inf, -np.inf, 0.0
    for e in range(states):
        moved = 0.0
        for f in range(states):
            moved += transition[e, f] * v[f]
        for m in range(variants):
            backed_up = gamma * moved + base[e] + (image[m - 1, e] if m else 0.0)
            delta = backed_up - v[e] - (d[m - 1, e] if m else 0.0)
            low, high, extent = min(low, delta), max(high, delta), max(extent, abs(backed_up))
            value[e, m] = backed_up
    below, above, centre = 0.0, 0.0, -value[0, 0]
    if not average:
        weight = gamma / (1 - gamma)
        below, above, centre = weight * low, weight * high, 0.5 * weight * (low + high)
    for e in range(states):
        for m in range(variants):
            lower[e, m], upper[e, m] = value[e, m] + below, value[e, m] + above
            value[e, m] += centre
    policy = greedy(payoff, gamma, ahead, tie)
    return value, policy, lower, upper, low, high, gain, extent, used
