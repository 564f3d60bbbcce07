"""The loops that a replay spends its time in: compiled where numba is installed, numpy elsewhere.

Both forms of each return the same integers, so every score built from them is the same bit for bit.
`walk` replays a table; `tally` counts the outcome of any decisions; `find` finds bins. `packed` and `twostep`
replay tables faster, `optimum` has the clairvoyant.
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
Pairs = NDArray[np.uint16]
Words = NDArray[np.uint64]

MOST_CUTS = 255
"""Of values whose bins are bytes."""
AT_ONCE = 15
"""Cuts that a value is compared with in registers."""
_MOST_COMPARED = 20  # beyond it a grid is quicker
_CELLS = 2048.0  # of a grid
_ROWS = 1 << 14  # of numpy's passes over floats: what stays in the nearest cache
_SOME = 512  # of the compiled passes

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
def reached(value: float, cuts: tuple[float, ...]) -> int:
    """Return how many cuts a value has reached: without a branch, so four values fit one instruction."""
    count = 0
    for k in range(len(cuts)):
        count += value >= cuts[k]
    return count


def few(cuts: Floats) -> tuple[float, ...]:
    """Return at most `AT_ONCE` cuts for `reached`, which is compiled for five, ten and fifteen of them.

    No value reaches those added, which are not numbers.
    """
    return (*cuts.tolist(), *[np.nan] * (-len(cuts) % 5))


@njit(cache=True, nogil=True)
def _compare_compiled(values: Floats, cuts: tuple[float, ...], found: Bytes) -> None:
    """Add how many cuts are reached; counts as wide as values keep the compiler from packing each mask."""
    wide = np.empty(_SOME, np.int64)
    for start in range(0, len(values), _SOME):
        some, count = values[start : start + _SOME], found[start : start + _SOME]
        for i in range(len(some)):
            wide[i] = reached(some[i], cuts)
        for i in range(len(some)):
            count[i] += np.uint8(wide[i])


@njit(cache=True, nogil=True)
def _find_compiled(
    values: Floats,
    cuts: Floats,
    low: float,
    cells: float,
    below: Bytes,
    first: Floats,
    second: Floats,
    found: Bytes,
) -> None:
    """`first` and `second` are the next cuts from a cell on; that there are more is rare."""
    most = float(len(below) - 1)
    for t in range(len(values)):
        value = values[t]
        cell = np.uint32(min(max((value - low) * cells, 0.0), most))
        bin_ = below[cell] + (value >= first[cell])
        if value >= second[cell]:
            bin_ += 1
            while bin_ < len(cuts) and cuts[bin_] <= value:
                bin_ += 1
        found[t] = bin_


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


def find(values: Floats, cuts: Floats, *, compiled: bool = COMPILED) -> Bytes:
    """Return how many of the ascending `cuts`, at most `MOST_CUTS`, each value has reached."""
    found = np.zeros(len(values), np.uint8)
    if compiled and len(cuts) <= _MOST_COMPARED:
        for start in range(0, len(cuts), AT_ONCE):
            _compare_compiled(values, few(cuts[start : start + AT_ONCE]), found)
        return found
    if compiled:
        low, cells, below = _grid(cuts)
        padded = np.concatenate([cuts, [np.inf, np.inf]])
        next_two = padded[below], padded[below + 1]
        _find_compiled(values, cuts, low, cells, below.astype(np.uint8), *next_two, found)
        return found
    # One comparison a cut, many values at once, beats a bisection a value.
    for start in range(0, len(values), _ROWS):
        some, count = values[start : start + _ROWS], found[start : start + _ROWS]
        for cut in cuts.tolist():
            count += some >= cut
    return found


def walk(readings: Floats, edges: Floats, table: Bytes, *, compiled: bool = COMPILED) -> Bytes:
    """Return the decisions of a table (E, M) on readings, one each; φ = 0 is active first."""
    if compiled:
        out = np.empty(len(readings), np.uint8)
        _walk_compiled(readings, edges, *_grid(edges), table, out)
        return out
    bins = np.searchsorted(edges, readings, side="right")
    return follow(table[bins])


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


def follow(maps: Bytes) -> Bytes:
    """Return the path 0 → maps[0][0] → maps[1][·] → … of T maps on M variants, (T, M).

    Maps compose: every chunk is followed from all M starts side by side, then the true starts are
    strung together.
    """
    steps, variants = maps.shape
    chunks, length = chunking(steps)
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


def chunking(steps: int) -> tuple[int, int]:
    """Return (chunks, length of each) so that numpy's calls and their sizes are in balance."""
    length = max(1, int(steps**0.5 / 4))
    return -(-steps // length), length
