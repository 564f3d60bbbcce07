"""Looking a decision up: the form in which every policy without memory runs."""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

EDGE_TOLERANCE = 1e-12
"""Relative: a budget this close below an edge counts as on it, so that rounding decides nothing."""


def bins(edges: ArrayLike, budgets: ArrayLike) -> NDArray[np.int64]:
    """Return the bin of each budget: bin i holds edges[i−1] ≤ budget < edges[i]."""
    return np.searchsorted(lowered(edges), np.asarray(budgets), side="right")


def lowered(edges: ArrayLike) -> NDArray[np.float64]:
    """Return edges as budgets are compared with them."""
    return np.asarray(edges, dtype=np.float64) * (1 - EDGE_TOLERANCE)


class Policy(Protocol):
    """Anything that maps (reading, active variant) to a variant, one step after the other."""

    name: str

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ to answer with, given the budget as last read and the active φ."""
        ...

    def reset(self) -> None:
        """Forget everything seen since the start."""
        ...


class Lookup:
    """A table over bins of the reading: one bisection and one index, nothing allocated.

    `edges_ms` (E−1,) ascending; `table` (E, M) of φ: row = bin, column = active variant. The
    attribute `edges_ms` holds the edges that readings are compared with: those given, `EDGE_TOLERANCE`
    lower.
    """

    __slots__ = ("_edges", "_rows", "edges_ms", "name", "table")

    def __init__(self, name: str, edges_ms: ArrayLike, table: ArrayLike) -> None:
        self.name = name
        self.edges_ms = lowered(edges_ms)
        self.table: NDArray[np.uint8] = np.asarray(table, dtype=np.uint8)
        if self.table.shape[0] != len(self.edges_ms) + 1:
            raise ValueError(
                f"{len(self.edges_ms)} edges cut {len(self.edges_ms) + 1} bins, "
                f"the table has {self.table.shape[0]}"
            )
        self._edges: list[float] = self.edges_ms.tolist()
        self._rows: list[list[int]] = self.table.T.tolist()

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading."""
        return self._rows[active][bisect_right(self._edges, reading_ms)]

    def reset(self) -> None:
        """Do nothing: a look-up has no memory."""
