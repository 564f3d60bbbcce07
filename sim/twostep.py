"""A table replayed from readings two steps at a time, for at most four variants and fifteen cuts.

**Index.** Two steps depend on three rows: the first is read, the second pays and is read, the third pays. A
row matters through how many cuts it has reached, four bits: three rows are one of 4,096 words.

**Word.** 16 bits for each active variant m ≤ 3: the low byte is the outcome of the second step, the high byte
that of the first. Of an outcome, bits 4 and 5 are what is chosen, bit 6 whether it is on time, bit 7
whether it is a switch. The choice times sixteen is where the next word's 16 bits begin, so that

    s ← words[r₀, r₁, r₂] >> (s & 63)

is two steps. Counts of some hundred rows stay in the nearest cache: memory sees rows and decisions alone.

All integers are exact, so decisions and totals are those of `packed`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernels import AT_ONCE, Bytes, Counts, Floats, Pairs, Words, few, njit, reached

MOST_VARIANTS = 4
LEAST_STEPS = 1 << 15
"""Below it the words take longer than they save."""
_SOME = 128  # pairs of steps whose counts lie in the nearest cache
_ONES = 0x0101010101010101  # bit 0 of eight bytes
_SECONDS = 0x00FF00FF00FF00FF  # the outcomes of second steps


def play_double(
    budget: Floats, edges: Floats, table: Bytes, need: Floats
) -> tuple[Bytes, Counts, int] | None:
    """Return what `packed.play` does, or None where that is quicker."""
    steps, variants = len(budget) - 1, len(need)
    if steps < LEAST_STEPS or variants > MOST_VARIANTS:
        return None
    cuts = _cuts_compiled(edges, table, need)
    if len(cuts) > AT_ONCE:
        return None
    words = np.zeros((16, 16, 16), np.uint64)
    _double_compiled(single_words(cuts, cuts, edges, table, need), variants, words)
    outcomes = np.empty(-(-steps // 8), np.uint64)
    outcomes[-1] = 0
    pairs = outcomes.view(np.uint16)[: -(-steps // 2)]
    _walk_compiled(budget, few(cuts), words.ravel(), pairs)
    sums = np.zeros(5, np.int64)
    _tally_compiled(outcomes, sums)
    every, odd, high, both, switches = sums.tolist()
    on_time = np.array([every - odd - high + both, odd - both, high - both, both])
    return outcomes.view(np.uint8)[:steps], on_time[:variants], switches


@njit(cache=True, nogil=True)
def _cuts_compiled(edges: Floats, table: Bytes, need: Floats) -> Floats:
    """Return the needs and those edges at which the table changes, ascending, each once."""
    cuts = np.empty(len(edges) + need.size)
    cuts[: need.size] = need.ravel()
    count = need.size
    for i in range(len(edges)):
        if (table[i + 1] != table[i]).any():
            cuts[count] = edges[i]
            count += 1
    return np.unique(cuts[:count])


@njit(cache=True, nogil=True)
def single_words(
    reading_cuts: Floats, budget_cuts: Floats, edges: Floats, table: Bytes, need: Floats
) -> Words:
    """Return the words of single steps (R, B), as `packed` has them."""
    words = np.zeros((len(reading_cuts) + 1, len(budget_cuts) + 1), np.uint64)
    row = 0
    for r, b in np.ndindex(words.shape):
        while r and row < len(edges) and edges[row] <= reading_cuts[r - 1]:
            row += 1
        for m in range(len(need)):
            chosen = table[row, m]
            on_time = b > 0 and budget_cuts[b - 1] >= need[m, chosen]
            outcome = (chosen << 3) + (on_time << 6) + ((chosen != m) << 7)
            words[r, b] |= np.uint64(outcome) << np.uint64(8 * m)
    return words


@njit(cache=True, nogil=True)
def _double_compiled(singles: Words, variants: int, words: Words) -> None:
    bins, where, eight = len(singles), np.uint64(0x38), np.uint64(8)
    for first, second, third in np.ndindex(bins, bins, bins):
        for m in range(variants):
            one = singles[first, second] >> np.uint64(8 * m)
            two = singles[second, third] >> (one & where)
            halves = _wider(one) << eight | _wider(two)
            words[first, second, third] |= halves << np.uint64(16 * m)


@njit(cache=True, nogil=True)
def _wider(outcome: Any) -> Any:
    """Return an outcome whose choice is times sixteen instead of times eight."""
    return outcome & np.uint64(0xC0) | (outcome & np.uint64(0x18)) << np.uint64(1)


@njit(cache=True, nogil=True)
def _walk_compiled(budget: Floats, cuts: tuple[float, ...], words: Words, outcomes: Pairs) -> None:
    counts = np.empty(2 * _SOME, np.int64)
    four, eight = np.uint64(4), np.uint64(8)
    read, state, last = np.uint64(reached(budget[0], cuts)), np.uint64(0), np.uint64(63)
    whole = (len(budget) - 1) // 2
    for start in range(0, whole, _SOME):
        some = outcomes[start : min(start + _SOME, whole)]
        rows = budget[2 * start + 1 : 2 * (start + len(some)) + 1]
        for i in range(len(rows)):
            counts[i] = reached(rows[i], cuts)
        for i in range(len(some)):
            second, third = np.uint64(counts[2 * i]), np.uint64(counts[2 * i + 1])
            state = words[read << eight | second << four | third] >> (state & last)
            some[i] = state
            read = third
    if whole < len(outcomes):  # a last step alone
        second = np.uint64(reached(budget[-1], cuts))
        state = words[read << eight | second << four] >> (state & last)
        outcomes[whole] = state & np.uint64(0xFF00)


@njit(cache=True, nogil=True)
def _tally_compiled(outcomes: Words, sums: Counts) -> None:
    """Add up who is on time (all; with bit 4, bit 5, both) and the switches; outcomes become choices."""
    ones, seconds, eight = np.uint64(_ONES), np.uint64(_SECONDS), np.uint64(8)
    four, five, six, seven = np.uint64(4), np.uint64(5), np.uint64(6), np.uint64(7)
    for start in range(0, len(outcomes), 255):  # so that no sum of bytes passes a byte
        some = outcomes[start : start + 255]
        every = odd = high = both = switches = np.uint64(0)
        for i in range(len(some)):
            word = some[i]
            on_time = (word >> six) & ones
            one, two = on_time & (word >> four), on_time & (word >> five)
            every += on_time
            odd += one
            high += two
            both += one & two
            switches += (word >> seven) & ones
            choices = (word >> four) & np.uint64(3 * _ONES)
            some[i] = ((choices & seconds) << eight) | ((choices >> eight) & seconds)
        sums[0] += _across(every)
        sums[1] += _across(odd)
        sums[2] += _across(high)
        sums[3] += _across(both)
        sums[4] += _across(switches)


@njit(cache=True, nogil=True)
def _across(word: Any) -> Any:
    """Return the sum of the bytes of a word."""
    seconds = np.uint64(_SECONDS)
    pairs = (word & seconds) + ((word >> np.uint64(8)) & seconds)
    return np.int64((pairs * np.uint64(0x0001000100010001)) >> np.uint64(48))
