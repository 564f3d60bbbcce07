"""The loops that a replay spends its time in: compiled where numba is installed, numpy elsewhere.

Both forms of `walk` and `tally` return the same integers, so every score built from them is the same
bit for bit; both forms of `best_path` reach the same total, by another path where two are equal.
`walk` replays a table; `tally` counts the outcome of any decisions; `best_path` is the clairvoyant.
Shapes: T rows, M variants, E bins; `need` (M, M) is L_a + S_ma for row m and column a.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]

_CELLS = 2048.0

njit: Callable[..., Any]
try:
    from numba import njit

    COMPILED = True
except ImportError:  # the extra `fast` is not installed; the undecorated loops are never called
    COMPILED = False

    def njit(**_: Any) -> Any:
        return lambda function: function


@njit(cache=True, nogil=True)
def _walk_compiled(
    readings: Floats,
    edges: Floats,
    low: float,
    cells: float,
    below: Counts,
    table: Bytes,
    out: Bytes,
) -> None:
    variants = table.shape[1]
    flat = table.ravel()
    active = 0
    for t in range(len(out)):
        reading = readings[t]
        cell = min(max((reading - low) * cells, 0.0), _CELLS)
        bin_ = below[int(cell)]
        while bin_ < len(edges) and edges[bin_] <= reading:
            bin_ += 1
        active = flat[bin_ * variants + active]
        out[t] = active


def _grid(edges: Floats) -> tuple[float, float, Counts]:
    """Return (low, cells per unit, (cells,) edges surely at or below a cell): bins without bisection.

    The count is that of the cell before, so that no rounding of a cell's place can pass an edge; a
    reading then climbs the few edges that are left, mostly none.
    """
    low, high = (float(edges[0]), float(edges[-1])) if len(edges) else (0.0, 0.0)
    cells = _CELLS / (high - low) if high > low else 0.0
    if not 0 < cells < np.inf:
        return low, 0.0, np.zeros(int(_CELLS) + 1, np.int64)
    starts = low + (np.arange(_CELLS + 1) - 1) / cells
    return low, cells, np.searchsorted(edges, starts, side="right")


@njit(cache=True, nogil=True)
def _tally_compiled(budget: Floats, need: Floats, decisions: Bytes, on_time: Counts) -> int:
    switches = 0
    active = 0
    for t in range(len(decisions)):
        chosen = decisions[t]
        on_time[chosen] += budget[t + 1] >= need[active, chosen]
        switches += chosen != active
        active = chosen
    return switches


@njit(cache=True, nogil=True)
def _best_path_compiled(
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


def walk(readings: Floats, edges: Floats, table: Bytes, *, compiled: bool = COMPILED) -> Bytes:
    """Return the decisions of a table (E, M) on readings, one each; φ = 0 is active first."""
    if compiled:
        out = np.empty(len(readings), np.uint8)
        _walk_compiled(readings, edges, *_grid(edges), table, out)
        return out
    bins = np.searchsorted(edges, readings, side="right")
    return _follow(table[bins])


def tally(
    budget: Floats, need: Floats, decisions: Bytes, *, compiled: bool = COMPILED
) -> tuple[Counts, int]:
    """Return how many decisions of each variant were on time, (M,), and how many were switches."""
    if compiled:
        on_time = np.zeros(len(need), np.int64)
        return on_time, int(_tally_compiled(budget, need, decisions, on_time))
    active = np.concatenate([np.zeros(1, np.uint8), decisions[:-1]])
    in_time = budget[1:] >= need[active, decisions]
    counts = np.bincount(decisions[in_time], minlength=len(need))
    return counts, int((decisions != active).sum())


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

    `miss` is the price of a late answer, one for all or (M,) by variant.
    """
    miss = np.full(len(quality), miss, dtype=np.float64) if np.ndim(miss) == 0 else np.asarray(miss)
    if compiled:
        out = np.empty(len(budget) - 1, np.uint8)
        _best_path_compiled(budget, need, quality, miss, switch, out)
        return out
    variants = len(quality)
    penalty = switch * (1 - np.eye(variants))
    on_time = budget[1:, None, None] >= need
    score = np.where(on_time, quality, -miss) - penalty  # (T − 1, m, a)
    chunks, length = _chunking(len(score))
    padded = np.concatenate([score, np.zeros((chunks * length - len(score), variants, variants))])
    padded = padded.reshape(chunks, length, variants, variants)
    after = _values_after(padded)
    choice = np.empty((chunks, length, variants), np.uint8)
    for j in range(length - 1, -1, -1):
        worth = padded[:, j] + after[:, None, :]
        choice[:, j] = worth.argmax(axis=2)
        after = worth.max(axis=2)
    return _follow(choice.reshape(-1, variants)[: len(score)])


def _values_after(score: Floats) -> Floats:
    """Return (chunks, M): what each chunk's last variant is worth for all that follows the chunk.

    In (max, +) algebra a chunk is the product of its steps' matrices; the products of all chunks are
    formed side by side, then the few hundred results are applied one after the other.
    """
    chunks, length, variants, _ = score.shape
    product = np.where(np.eye(variants, dtype=bool), 0.0, -np.inf)[None].repeat(chunks, axis=0)
    for j in range(length - 1, -1, -1):
        product = (score[:, j, :, :, None] + product[:, None, :, :]).max(axis=2)
    after = np.zeros((chunks, variants))
    for c in range(chunks - 2, -1, -1):
        after[c] = (product[c + 1] + after[c + 1]).max(axis=1)
    return after


def _follow(maps: Bytes) -> Bytes:
    """Return the path 0 → maps[0][0] → maps[1][·] → … of T maps on M variants, (T, M).

    Maps compose: every chunk is followed from all M starts side by side, then the true starts are
    strung together.
    """
    steps, variants = maps.shape
    chunks, length = _chunking(steps)
    identity = np.tile(np.arange(variants, dtype=np.uint8), (chunks * length - steps, 1))
    padded = np.concatenate([maps, identity]).reshape(chunks, length * variants)
    offsets = np.arange(chunks)[:, None]
    paths = np.empty((length, chunks, variants), np.uint8)
    here = np.tile(np.arange(variants, dtype=np.uint8), (chunks, 1))
    for j in range(length):
        here = padded[offsets, here + np.intp(j * variants)]
        paths[j] = here
    starts = np.zeros(chunks, np.intp)
    for c in range(1, chunks):
        starts[c] = here[c - 1, starts[c - 1]]
    return np.ascontiguousarray(paths[:, np.arange(chunks), starts].T).reshape(-1)[:steps]


def _chunking(steps: int) -> tuple[int, int]:
    """Return (chunks, length of each) so that numpy's calls and their sizes are in balance."""
    length = max(1, int(steps**0.5 / 4))
    return -(-steps // length), length
