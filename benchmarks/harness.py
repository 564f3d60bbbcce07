"""What benchmarks share: timing that alternates with a peer, and rows that print alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One figure: what, how much (`unit`), the peer's figure in the same run, and what was aimed at.

    `better` says which way is good: "more" or "less".
    """

    what: str
    figure: float
    unit: str
    better: str
    peer: str = ""
    peer_figure: float | None = None
    target: str = ""

    @property
    def ratio(self) -> float | None:
        """Return by which factor we are better than the peer (above 1: better); None for scores."""
        if self.peer_figure is None or self.unit in ("score", "share"):
            return None
        one, other = self.figure, self.peer_figure
        return one / other if self.better == "more" else other / one


def seconds(
    *functions: Callable[[], object],
    repeat: int = 7,
    number: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return the median seconds of one call of each function, the functions taking turns.

    Turns make drift of the machine's speed fall on all alike. One call of each warms up first. `clock` may be
    `time.thread_time`, which stands still while others have the core.
    """
    samples: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(repeat):
        for function, taken in zip(functions, samples, strict=True):
            began = clock()
            for _ in range(number):
                function()
            taken.append((clock() - began) / number)
    return [median(taken) for taken in samples]


def show(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table."""
    from adaphi.cli.show import make_table, print_table

    table = make_table(title, ["", "figure", "unit", "peer's figure", "ratio", "peer", "target"])
    for row in rows:
        peer = "" if row.peer_figure is None else f"{row.peer_figure:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g} ×"
        table.add_row(row.what, f"{row.figure:.4g}", row.unit, peer, ratio, row.peer, row.target)
    print_table(table)
