"""The clairvoyant's path: backward dynamic programming over the whole trace.

    V_t(m) = max_a [ score of a at step t from m + V_{t+1}(a) ]

**States.** Choices depend on the differences D_t(m) = V_t(m) − V_t(0) alone, and D_t on D_{t+1} and on the
step's bin, which L_a + S_ma its budget reaches. A switch makes variants worth nearly alike, so no |D| is
large and a trace meets few: 20 in a million steps of three variants. A state is numbered when it is first
met; what a bin makes of it, the state before and the choice from each m, is noted once. From then on a step
back is a look-up, and the way forward a walk over words (`packed`).

**Exactness.** Scores are rounded to 59 bits of their range, and a score and a difference make a whole number
of 64 bits. Nothing else is rounded, however long the trace: of equally good choices the lowest φ is taken,
and both forms find the same path.

Where variants are more than eight or states too many (a switch costs more than all answers are worth), floats
are added up over the whole trace. The forms then reach the same total, by another path where two are equal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .kernels import (
    COMPILED,
    MOST_CUTS,
    Bytes,
    Counts,
    Floats,
    Pairs,
    Words,
    chunking,
    find,
    follow,
    njit,
)
from .packed import MOST_VARIANTS, walk_words

_MOST_PAIRS = 1 << 16  # of a state and a bin: they are kept in two bytes
_UNKNOWN = -1
_BITS = 59


class _States(NamedTuple):
    """The differences met so far, and what each bin (B,) makes of them; a pair is state · B + bin."""

    gains: Counts  # (B, M, M) score of each choice a from m
    values: Counts  # (S, M) differences D; the first is that after the last step
    before: Counts  # (S · B,) first pair of the state before, or _UNKNOWN
    words: Words  # (S · B,) choices from each m, times eight, in byte m
    slots: Counts  # a hash table of states
    known: Counts  # (1,) how many states there are


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
    cuts = np.unique(need)
    reached = np.append(-np.inf, cuts)[:, None, None] >= need
    gains = np.where(reached, quality, -miss)  # (bins, m, a)
    if len(quality) <= MOST_VARIANTS:
        bins = find(budget[1:], cuts, compiled=compiled)
        states = _first_state(gains, switch, len(budget))
        pairs = np.empty(len(bins), np.uint16)
        if (_back if compiled else _back_side_by_side)(bins, states, pairs):
            out = np.empty(len(bins), np.uint8)
            walk_words(pairs, states.words, len(quality), out, compiled=compiled)
            out >>= 3
            return out
    if compiled:
        out = np.empty(len(budget) - 1, np.uint8)
        _by_budgets(budget, need, quality, miss, switch, out)
        return out
    if len(cuts) <= MOST_CUTS:
        at = find(budget[1:], cuts, compiled=False).astype(np.int64)
    else:
        at = np.searchsorted(cuts, budget[1:], side="right")
    return follow(_choices(at, gains - switch * (1 - np.eye(len(quality)))))


def _first_state(gains: Floats, switch: float, steps: int) -> _States:
    """Return the differences after the last step, none; nothing is known of what precedes them."""
    bins, variants, _ = gains.shape
    unit = _BITS - int(np.frexp(2 * (np.abs(gains).max() + switch))[1])
    whole = np.rint(np.ldexp(gains, unit)).astype(np.int64)
    whole -= int(np.rint(np.ldexp(switch, unit))) * (1 - np.eye(variants, dtype=np.int64))
    most = min(_MOST_PAIRS // bins, steps + 2)
    slots = np.full(1 << (2 * most).bit_length(), _UNKNOWN, np.int64)
    slots[0] = 0
    return _States(
        gains=whole,
        values=np.zeros((most, variants), np.int64),
        before=np.full(most * bins, _UNKNOWN, np.int64),
        words=np.zeros(most * bins, np.uint64),
        slots=slots,
        known=np.ones(1, np.int64),
    )


@njit(cache=True, nogil=True)
def _learn(states: _States, pair: int) -> int:
    """Note what precedes a pair, and its choices; return the first pair of the state before."""
    gains, values = states.gains, states.values
    bins, variants = gains.shape[0], gains.shape[1]
    bin_, after = pair % bins, values[pair // bins]
    if states.known[0] == len(values):
        return _UNKNOWN
    fresh, word = values[states.known[0]], 0
    for m in range(variants):
        best = 0
        for a in range(1, variants):
            if gains[bin_, m, a] + after[a] > gains[bin_, m, best] + after[best]:
                best = a
        fresh[m] = gains[bin_, m, best] + after[best]
        word |= best << (8 * m + 3)
    fresh -= fresh[0]
    state = _number(states)
    states.words[pair] = word
    states.before[pair] = state * bins
    return int(state * bins)


@njit(cache=True, nogil=True)
def _number(states: _States) -> int:
    """Return the number of the differences written behind the known ones: theirs, or a new one."""
    values, slots, known = states.values, states.slots, states.known[0]
    fresh, slot = values[known], 0
    for m in range(1, len(fresh)):
        slot ^= (slot << 7) ^ (slot >> 9) ^ fresh[m]
    slot ^= (slot >> 32) ^ (slot >> 16)
    while True:
        slot &= len(slots) - 1
        state = slots[slot]
        if state < 0:
            slots[slot] = known
            states.known[0] += 1
            return int(known)
        if np.array_equal(values[state], fresh):
            return int(state)
        slot += 1


@njit(cache=True, nogil=True)
def _back(bins: Bytes, states: _States, pairs: Pairs) -> bool:
    """Find the pair of each step from the last to the first; return whether the states sufficed."""
    state, steps = 0, len(bins)
    for i in range(steps):
        t = steps - 1 - i
        pair = state + bins[t]
        pairs[t] = pair
        state = states.before[pair]
        if state < 0:
            state = _learn(states, pair)
            if state < 0:
                return False
    return True


def _back_side_by_side(bins: Bytes, states: _States, pairs: Pairs) -> bool:
    """Do what `_back` does: chunks side by side, as if nothing came after, then mended one by one.

    What came after is forgotten within a few steps, so little is to be mended.
    """
    steps = len(bins)
    chunks, length = chunking(steps)
    behind = np.zeros(chunks * length, np.int64)
    behind[:steps] = bins[::-1]
    behind = np.ascontiguousarray(behind.reshape(chunks, length).T)
    path = np.empty((length, chunks), np.uint16)
    state = np.zeros(chunks, np.int64)
    for j in range(length):
        pair = behind[j] + state
        path[j] = pair
        state = states.before[pair]
        if (state < 0).any():
            for unknown in np.unique(pair[state < 0]).tolist():
                if _learn(states, unknown) < 0:
                    return False
            state = states.before[pair]
    after = 0
    for c, end in enumerate(state.tolist()):
        after = _mend(behind[:, c], states, path[:, c], after, end)
        if after < 0:
            return False
    pairs[:] = path.T.reshape(-1)[:steps][::-1]
    return True


def _mend(bins: Counts, states: _States, path: Pairs, after: int, end: int) -> int:
    """Follow a chunk from what came after until it meets `path`; return its own end, or _UNKNOWN."""
    for j in range(len(bins)):
        pair = int(bins[j]) + after
        if path[j] == pair:
            return end
        path[j] = pair
        after = int(states.before[pair])
        if after < 0:
            after = _learn(states, pair)
            if after < 0:
                return _UNKNOWN
    return after


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
