"""What every replay needs alike: columns that a trace must have, and figures from exact counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from ..policies.frame import Objective
from ..policies.trace import Trace

Floats = NDArray[np.float64]
BATCHES = 20
_STUDENT = 2.093  # 97.5 % of Student's t with 19 degrees of freedom


class Figures(NamedTuple):
    """Mean score, shares of steps, and the mean quality of on-time answers (0 where there is none)."""

    mean_score: float
    on_time_share: float
    switch_share: float
    mean_quality: float


def total_score(
    objective: Objective, steps: int, in_time: int, switches: int, quality: float
) -> float:
    """Return the sum of all steps' scores, given the sum of `quality` over on-time answers."""
    late = steps - in_time
    return quality - objective.miss_cost * late - objective.switch_cost * switches


def figures(
    objective: Objective, steps: int, in_time: int, switches: int, quality: float
) -> Figures:
    """Return the figures of a replay, given the sum of `quality` over on-time answers."""
    return Figures(
        mean_score=total_score(objective, steps, in_time, switches, quality) / steps,
        on_time_share=in_time / steps,
        switch_share=switches / steps,
        mean_quality=quality / in_time if in_time else 0.0,
    )


def half_width(values: Floats) -> float | None:
    """Return what the mean of a series is uncertain by, ±, at 95 %; None under `2 * BATCHES` values.

    By batch means (Law & Kelton): successive values hang together, means of twenty long stretches hardly do.
    """
    if len(values) < 2 * BATCHES:
        return None
    means = [float(part.mean()) for part in np.array_split(values, BATCHES)]
    return float(_STUDENT * np.std(means, ddof=1) / BATCHES**0.5)


def check_length(trace: Trace, use: str = "a replay") -> None:
    """Raise `TraceError` for a trace under two rows, which are too few for that use."""
    if len(trace) < 2:
        raise TraceError(f"{trace.name}: {use} needs at least two rows, found {len(trace)}")


def needed_column(trace: Trace, name: str, help: str) -> Floats:
    """Return a further column of a trace that can be replayed; raise `TraceError` if none, or below 0."""
    check_length(trace)
    if name not in trace.columns:
        raise TraceError(
            f"{trace.name}: no column {name}; found {', '.join(['budget_ms', *trace.columns])}",
            help=help,
        )
    values = trace.columns[name]
    if (values < 0).any():
        raise TraceError(f"{trace.name}: row {int((values < 0).argmax())}: {name} is below 0")
    return values
