"""A table replayed over bytes: state and look-up in one shift, outcomes counted eight at a time.

**Bins.** A step depends on nothing but between which cuts its reading lies (the edges at which the table's
choice changes) and its budget (every L_a + S_ma): two bytes, found once, good for any table with these edges.

**Walk.** For each pair of bins a word of 64 bits holds a byte for each active variant m ≤ 7: bits 3 to 5 what
is chosen, bit 6 whether it is on time, bit 7 whether it is a switch. The choice times eight is where the next
word's byte begins, so that

    s ← words[r, b] >> (s & 63)

is the whole step, and the low byte of s its outcome. The step before is needed for a shift, no address.

**Count.** Outcomes lie side by side; masks over eight at once, and the bits that are set, are the totals.

All integers are exact, so decisions and totals are those of `kernels.walk` and `kernels.tally`, which serve
ladders and tables that are too large for bytes. Long replays of small ones go two steps at once (`twostep`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import twostep
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
    njit,
    tally,
    walk,
)

MOST_VARIANTS = 8
_ONES = 0x0808080808080808  # bit 3 of eight bytes
_SWITCHES = 0x8080808080808080
_CHOICES = 0x0707070707070707


class Bins(NamedTuple):
    """Between which cuts the reading and the budget of each step lie, (T − 1,) each, and the cuts."""

    readings: Bytes
    budgets: Bytes
    reading_cuts: Floats
    budget_cuts: Floats


def play(
    budget: Floats,
    edges: Floats,
    table: Bytes,
    need: Floats,
    readings: Floats | None = None,
    *,
    compiled: bool = COMPILED,
) -> tuple[Bytes, Counts, int]:
    """Return a table's decisions (T − 1,), how many of each variant were on time (M,), and the switches.

    `budget` (T,), `edges` (E − 1,) as readings are compared with, `table` (E, M), `need` (M, M). The reading
    of a step is the budget before, or that of `readings` (T − 1,). φ = 0 is active first.
    """
    if compiled and readings is None:
        played = twostep.play_double(budget, edges, table, need)
        if played is not None:
            return played
    changes = (table[1:] != table[:-1]).any(axis=1)
    edges, table = edges[changes], table[np.append(True, changes)]
    if len(need) <= MOST_VARIANTS and len(edges) + need.size <= MOST_CUTS:
        bins = find_bins(budget, edges, need, readings, compiled=compiled)
        return play_bins(bins, edges, table, need, compiled=compiled)
    seen = budget[:-1] if readings is None else readings
    decisions = walk(seen, edges, table, compiled=compiled)
    return decisions, *tally(budget, need, decisions, compiled=compiled)


def find_bins(
    budget: Floats,
    edges: Floats,
    need: Floats,
    readings: Floats | None = None,
    *,
    compiled: bool = COMPILED,
) -> Bins:
    """Return the bins of a trace, for `play_bins`; arguments as of `play`."""
    if readings is None:
        cuts = np.unique(np.concatenate([edges, need.ravel()]))
        found = find(budget, cuts, compiled=compiled)
        return Bins(found[:-1], found[1:], cuts, cuts)
    needs = np.unique(need)
    seen, paid = (
        find(v, cuts, compiled=compiled) for v, cuts in ((readings, edges), (budget[1:], needs))
    )
    return Bins(seen, paid, edges, needs)


def play_bins(
    bins: Bins, edges: Floats, table: Bytes, need: Floats, *, compiled: bool = COMPILED
) -> tuple[Bytes, Counts, int]:
    """Return what `play` does, on bins that were found for these edges and needs."""
    find_words = twostep.single_words if compiled else _words
    words = find_words(bins.reading_cuts, bins.budget_cuts, edges, table, need)
    steps, variants = len(bins.readings), len(need)
    outcomes = np.zeros(-(-steps // 8), np.uint64)
    pairs = np.empty(steps, np.uint16)
    (_pair_compiled if compiled else _pair)(bins.readings, bins.budgets, words.shape[1], pairs)
    walk_words(pairs, words.ravel(), variants, outcomes.view(np.uint8)[:steps], compiled=compiled)
    if compiled:
        on_time = np.zeros(variants, np.int64)
        switches = _count_compiled(outcomes, on_time)
    else:
        on_time, switches = _count(outcomes, variants)
    return outcomes.view(np.uint8)[:steps], on_time, int(switches)


def _words(
    reading_cuts: Floats, budget_cuts: Floats, edges: Floats, table: Bytes, need: Floats
) -> Words:
    """Return the words (R, B) of all pairs of bins; a bin's lowest value stands for it."""
    seen = np.append(-np.inf, reading_cuts)
    paid = np.append(-np.inf, budget_cuts)
    chosen = table[np.searchsorted(edges, seen, side="right")]  # (R, M)
    active = np.arange(len(need))
    in_time = paid[None, :, None] >= need[active, chosen][:, None, :]  # (R, B, M)
    outcome = np.zeros((len(seen), len(paid), 8), np.uint8)
    outcome[:, :, : len(need)] = (chosen << 3 | (chosen != active) << 7)[:, None] | in_time << 6
    return outcome.view("<u8")[:, :, 0].astype(np.uint64)


def _pair(readings: Bytes, budgets: Bytes, columns: int, pairs: Pairs) -> None:
    np.multiply(readings, np.uint16(columns), out=pairs)
    pairs += budgets


@njit(cache=True, nogil=True)
def _pair_compiled(readings: Bytes, budgets: Bytes, columns: int, pairs: Pairs) -> None:
    for t in range(len(pairs)):
        pairs[t] = np.uint16(readings[t]) * np.uint16(columns) + budgets[t]


def walk_words(
    pairs: Pairs, words: Words, variants: int, outcomes: Bytes, *, compiled: bool = COMPILED
) -> None:
    """Write the outcome of each step, (n,), given its pair of bins (n,) and the word of each pair."""
    (_walk_compiled if compiled else _walk)(pairs, words, variants, outcomes)


@njit(cache=True, nogil=True)
def _walk_compiled(pairs: Pairs, words: Words, variants: int, outcomes: Bytes) -> None:
    state, last = np.uint64(0), np.uint64(63)
    for t in range(len(pairs)):
        state = words[np.uint64(pairs[t])] >> (state & last)
        outcomes[t] = state


@njit(cache=True, nogil=True)
def _count_compiled(outcomes: Words, on_time: Counts) -> int:
    """Count outcomes by variant; they become what was chosen."""
    ones, one = np.uint64(_ONES), np.uint64(1)
    for m in range(len(on_time)):
        wrong = ones * np.uint64(7 - m)
        total = np.uint64(0)
        for i in range(len(outcomes)):
            equal = outcomes[i] ^ wrong  # all of bits 3 to 5 of a byte are set where m was chosen
            in_time = (outcomes[i] >> np.uint64(3)) & ones
            total += _bits(equal & (equal >> one) & (equal >> np.uint64(2)) & in_time)
        on_time[m] = total
    switches = np.uint64(0)
    for i in range(len(outcomes)):
        switches += _bits(outcomes[i] & np.uint64(_SWITCHES))
        outcomes[i] = (outcomes[i] >> np.uint64(3)) & np.uint64(_CHOICES)
    return int(switches)


@njit(cache=True, nogil=True)
def _bits(word: Any) -> Any:
    """Return how many bits are set (the compiler knows this form by heart)."""
    twos, fours = np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & twos) + ((word >> np.uint64(2)) & twos)
    word = (word + (word >> np.uint64(4))) & fours
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


def _walk(pairs: Pairs, words: Words, variants: int, outcomes: Bytes) -> None:
    """Walk as the compiled form does, chunks side by side from all starts, then string them together."""
    steps, last = len(pairs), np.uint64(63)
    chunks, length = chunking(steps)
    padded = np.zeros(chunks * length, np.int64)
    padded[:steps] = pairs
    padded = np.ascontiguousarray(padded.reshape(chunks, length).T)
    state = np.repeat(8 * np.arange(variants, dtype=np.uint64)[:, None], chunks, axis=1)
    paths = np.empty((length, variants, chunks), np.uint8)
    for j in range(length):
        state &= last
        np.right_shift(words[padded[j]], state, out=state)
        paths[j] = state
    ends = (paths[-1] >> 3 & 7).tolist()
    starts = [0]
    for c in range(chunks - 1):
        starts.append(ends[starts[c]][c])
    followed = paths[:, starts, np.arange(chunks)]
    outcomes[:] = np.ascontiguousarray(followed.T).ravel()[:steps]


def _count(outcomes: Words, variants: int) -> tuple[Counts, int]:
    """Count outcomes by variant; they become what was chosen."""
    in_time = outcomes >> np.uint64(3) & np.uint64(_ONES)
    on_time = np.zeros(variants, np.int64)
    for m in range(variants):
        equal = outcomes ^ np.uint64(_ONES * (7 - m))
        equal &= (equal >> np.uint64(1)) & (equal >> np.uint64(2)) & in_time
        on_time[m] = np.bitwise_count(equal).sum()
    switches = int(np.bitwise_count(outcomes & np.uint64(_SWITCHES)).sum())
    outcomes >>= np.uint64(3)
    outcomes &= np.uint64(_CHOICES)
    return on_time, switches
