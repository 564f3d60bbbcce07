"""The clairvoyant's path: backward dynamic programming over the whole trace.

    V_t(m) = max_a [ score of a at step t from m + V_{t+1}(a) ]

Both forms reach the same total, by another path where two are equal. Scores depend on the budget through
which L_a + S_ma it reaches, so they are looked up by bins. Three variants have a loop of their own, values in
registers and a step's three choices in six bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernels import COMPILED, MOST_CUTS, Bytes, Floats, find, follow, njit

Words = NDArray[np.uint64]


def best_path(
    budget: Floats,
    need: Floats,
    quality: Floats,
    miss: float | Floats,
    switch: float,
    *,
    compiled: bool = COMPILED,
) -> Bytes:
    """Return the T − 1 decisions with the largest total score, the whole trace known in advance.

    `need` (M, M), `quality` (M,). `miss` is the price of a late answer, one for all or (M,) by variant.
    """
    miss = np.full(len(quality), miss, dtype=np.float64) if np.ndim(miss) == 0 else np.asarray(miss)
    out = np.empty(len(budget) - 1, np.uint8)
    if compiled and len(quality) != 3:
        _by_budgets(budget, need, quality, miss, switch, out)
        return out
    cuts = np.unique(need)
    reached = np.append(-np.inf, cuts)[:, None, None] >= need
    gains = np.where(reached, quality, -miss)  # (bins, m, a)
    if compiled:
        flags = np.empty(len(out), np.uint8)
        _three_backward(find(budget[1:], cuts), gains.reshape(-1, 9), switch, flags)
        _three_forward(flags, _THREE, out)
        return out
    if len(cuts) <= MOST_CUTS:
        bins = find(budget[1:], cuts, compiled=False).astype(np.int64)
    else:
        bins = np.searchsorted(cuts, budget[1:], side="right")
    return follow(_choices(bins, gains - switch * (1 - np.eye(len(quality)))))


@njit(cache=True, nogil=True)
def _by_budgets(
    budget: Floats, need: Floats, quality: Floats, miss: Floats, switch: float, out: Bytes
) -> None:
    variants = len(quality)
    steps = len(out)
    choice = np.empty((steps, variants), np.uint8)
    value = np.zeros(variants)
    fresh = np.empty(variants)
    for t in range(steps - 1, -1, -1):
        available = budget[t + 1]
        for m in range(variants):
            best = -np.inf
            for a in range(variants):
                worth = value[a] + (quality[a] if available >= need[m, a] else -miss[a])
                if a != m:
                    worth -= switch
                if worth > best:
                    best = worth
                    choice[t, m] = a
            fresh[m] = best
        value[:] = fresh
    active = 0
    for t in range(steps):
        active = choice[t, active]
        out[t] = active


@njit(cache=True, nogil=True)
def _three_backward(bins: Bytes, gains: Floats, switch: float, flags: Bytes) -> None:
    """Back up three variants; bits 2m and 2m + 1 of a flag: 1 is better than 0 from m, 2 than both."""
    v0 = v1 = v2 = 0.0
    steps = len(flags)
    for i in range(steps):
        t = steps - 1 - i
        g = gains[np.uint64(bins[t])]
        a0, a1, a2 = v0 + g[0], (v1 + g[1]) - switch, (v2 + g[2]) - switch
        b0, b1, b2 = (v0 + g[3]) - switch, v1 + g[4], (v2 + g[5]) - switch
        c0, c1, c2 = (v0 + g[6]) - switch, (v1 + g[7]) - switch, v2 + g[8]
        a01, b01, c01 = a1 > a0, b1 > b0, c1 > c0
        a0, b0, c0 = a1 if a01 else a0, b1 if b01 else b0, c1 if c01 else c0
        a02, b02, c02 = a2 > a0, b2 > b0, c2 > c0
        v0, v1, v2 = a2 if a02 else a0, b2 if b02 else b0, c2 if c02 else c0
        flags[t] = a01 | (a02 << 1) | (b01 << 2) | (b02 << 3) | (c01 << 4) | (c02 << 5)


@njit(cache=True, nogil=True)
def _three_forward(flags: Bytes, words: Words, out: Bytes) -> None:
    """Follow the choices from φ = 0: see `packed` for words."""
    state, last, three = np.uint64(0), np.uint64(63), np.uint64(3)
    for t in range(len(flags)):
        state = words[np.uint64(flags[t])] >> (state & last)
        out[t] = (state & last) >> three


def _three_words() -> Words:
    """Return what each flag chooses from m, times eight, in byte m: (64,)."""
    flag = np.arange(64)
    words = np.zeros((64, 8), np.uint8)
    for m in range(3):
        words[:, m] = np.array([0, 8, 16, 16])[flag >> 2 * m & 3]
    return words.view("<u8")[:, 0].astype(np.uint64)


_THREE = _three_words()


def _choices(bins: NDArray[np.int64], score: Floats) -> Bytes:
    """Return the best choice of each step from each variant, (T − 1, M); `score` (bins, m, a).

    In (max, +) algebra a chunk is the product of its steps' matrices: the products of all chunks are formed
    side by side, then what follows each, one after the other, then all choices side by side.
    """
    steps, variants = len(bins), score.shape[1]
    chunks = max(1, int(steps**0.5))
    length = -(-steps // chunks)
    nothing = np.zeros((1, variants, variants))
    score = np.ascontiguousarray(np.concatenate([score, nothing]).transpose(1, 2, 0))
    padded = np.full(chunks * length, score.shape[2] - 1)
    padded[:steps] = bins
    at = np.ascontiguousarray(padded.reshape(chunks, length).T)
    gain = np.empty((variants, variants, chunks))
    product = np.where(np.eye(variants, dtype=bool), 0.0, -np.inf)[:, :, None].repeat(
        chunks, axis=2
    )
    through, better = np.empty_like(product), np.empty_like(product)
    for j in range(length - 1, -1, -1):
        np.take(score, at[j], axis=2, out=gain, mode="clip")
        np.add(gain[:, 0, None], product[0], out=better)
        for a in range(1, variants):
            np.add(gain[:, a, None], product[a], out=through)
            np.maximum(better, through, out=better)
        product, better = better, product
    value = np.zeros((variants, chunks))
    for c in range(chunks - 2, -1, -1):
        value[:, c] = (product[:, :, c + 1] + value[:, c + 1]).max(axis=1)
    choice = np.zeros((length, variants, chunks), np.uint8)
    for j in range(length - 1, -1, -1):
        np.take(score, at[j], axis=2, out=gain, mode="clip")
        gain += value
        value = gain[:, 0].copy()
        for a in range(1, variants):
            preferred = (gain[:, a] > value).view(np.uint8)
            np.maximum(choice[j], a * preferred, out=choice[j])
            np.maximum(value, gain[:, a], out=value)
    return choice.transpose(2, 0, 1).reshape(-1, variants)[:steps]
