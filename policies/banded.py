"""The algebra of chains that move a few states at most; see `operators.Banded` for the form of `moves`.

**Absorption.** v = b + P v with rows of P that sum to less than 1, the rest `leaving` for good, is solved by
censoring: state 0 is taken out, its visits added to the rows that lead to it, then state 1, and so on; v
follows backwards. The mass that stays in a state is never subtracted from 1 but summed from where it goes
instead, so that every number keeps its digits however rarely the chain leaves (Grassmann, Taksar & Heyman,
Oper. Res. 33, 1985). numpy takes out every other *block* of states at once, with batched products, until
one block is left (cyclic reduction: Buzbee, Golub & Nielson, SIAM J. Numer. Anal. 7, 1970).

**Closed classes.** The same elimination on edges alone: a state that, when its turn comes, leads nowhere
and has not led into a closed class already, is the highest state of a new one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .jit import MATH, njit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@njit(cache=True, nogil=True, fastmath=MATH)
def product(moves: Floats, lower: int, d: Floats) -> Floats:
    """Return P dᵀ, (E, K), for d (K, E)."""
    states, width = moves.shape
    out = np.empty((states, len(d)))
    for e in range(states):
        first, end = max(0, e - lower), min(states, e - lower + width)
        for k in range(len(d)):
            total = 0.0
            for f in range(first, end):
                total += moves[e, f - e + lower] * d[k, f]
            out[e, k] = total
    return out


@njit(cache=True, nogil=True, fastmath=MATH)
def absorb(moves: Floats, lower: int, leaving: Floats, right: Floats) -> Floats:
    """Return v (E, C) = right + P v; all four arrays are overwritten."""
    states, width = moves.shape
    upper = width - 1 - lower
    columns = right.shape[1]
    out_of = np.empty(states)
    for n in range(states):
        out = leaving[n]
        for j in range(lower + 1, width):
            out += moves[n, j]
        out_of[n] = out
        for i in range(n + 1, min(states, n + lower + 1)):
            visits = moves[i, n - i + lower] / out
            if visits == 0.0:
                continue
            shift = n - i
            for j in range(lower + 1, width):
                moves[i, j + shift] += visits * moves[n, j]
            leaving[i] += visits * leaving[n]
            for c in range(columns):
                right[i, c] += visits * right[n, c]
    for n in range(states - 1, -1, -1):
        for c in range(columns):
            total = right[n, c]
            for f in range(n + 1, min(states, n + upper + 1)):
                total += moves[n, f - n + lower] * right[f, c]
            right[n, c] = total / out_of[n]
    return right


def by_blocks(row: Ints, column: Ints, weight: Floats, right: Floats) -> Floats:
    """Return x (N, C) = right + A x for A with `weight` at (row, column), near the diagonal, in numpy."""
    unknowns = len(right)
    size = max(int(np.abs(row - column).max(initial=1)), 1)  # a block leads to its neighbours only
    blocks = -(-unknowns // size)
    block, inside = np.divmod(row, size)
    near = np.zeros((blocks, size, 3 * size))
    near[block, inside, column - (block - 1) * size] = weight
    padded = np.zeros((blocks * size, right.shape[1]))
    padded[:unknowns] = right
    below, within, above = np.split(near, 3, axis=2)
    solved = _censor(below, within, above, padded.reshape(blocks, size, -1))
    return solved.reshape(blocks * size, -1)[:unknowns]


def _censor(below: Floats, within: Floats, above: Floats, right: Floats) -> Floats:
    """Return v (B, w, C) with v_b = right_b + below_b v_{b−1} + within_b v_b + above_b v_{b+1}."""
    stay = np.eye(within.shape[1]) - within
    if len(right) == 1:
        return np.asarray(np.linalg.solve(stay, right))
    size, pairs = within.shape[1], len(right) // 2
    even, odd = slice(0, None, 2), slice(1, None, 2)
    # From an odd block the chain goes on to the block before, the block after, or earns and leaves.
    beyond = np.linalg.solve(
        stay[odd], np.concatenate([below[odd], above[odd], right[odd]], axis=2)
    )
    around = np.zeros((len(right) - pairs + 1, *beyond.shape[1:]))
    around[1 : pairs + 1] = beyond
    down, up = below[even] @ around[:-1], above[even] @ around[1:]
    evens = _censor(
        down[..., :size],
        within[even] + down[..., size : 2 * size] + up[..., :size],
        up[..., size : 2 * size],
        right[even] + down[..., 2 * size :] + up[..., 2 * size :],
    )
    after = np.zeros((pairs, *right.shape[1:]))
    after[: len(evens) - 1] = evens[1:]
    v = np.empty_like(right)
    v[even] = evens
    v[odd] = beyond[..., 2 * size :]
    v[odd] += beyond[..., :size] @ evens[:pairs] + beyond[..., size : 2 * size] @ after
    return v


@njit(cache=True, nogil=True)
def closed_classes(edges: Flags, lower: int) -> tuple[Ints, Flags]:
    """Return the highest state of each closed class, and which states are in one; `edges` is overwritten."""
    states, width = edges.shape
    tops = np.zeros(states, np.bool_)
    absorbed = np.zeros(states, np.bool_)  # leads into a closed class that is already known
    for n in range(states):
        if not absorbed[n] and not edges[n, lower + 1 :].any():
            tops[n] = absorbed[n] = True
        for i in range(n + 1, min(states, n + lower + 1)):
            if edges[i, n - i + lower]:
                edges[i, lower + 1 + n - i : width + n - i] |= edges[n, lower + 1 :]
                absorbed[i] |= absorbed[n]
    inside = tops.copy()
    # What is left below the diagonal leads from i to n through states below n.
    for n in range(states - 1, -1, -1):
        for i in range(n + 1, min(states, n + lower + 1)):
            inside[n] |= inside[i] and edges[i, n - i + lower]
    return np.flatnonzero(tops), inside
