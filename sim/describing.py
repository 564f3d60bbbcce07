"""What a budget trace is like: how long, how even, how wild, and the chain that it moves by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from ..policies.chain import bin_edges, fit_chain
from ..policies.trace import Trace

Floats = NDArray[np.float64]

LEVELS = 4
GAP = 3.0
"""A step this many times as long as the middle one is a gap."""
_WEAK = 1e-9  # strength of the prior: it speaks only where nothing was counted


@dataclass(frozen=True)
class Level:
    """One level of the chain: budgets from `low_ms` to below `high_ms`, those that the trace has.

    `share` of the rows are in it, it is kept with probability `stay` from one row to the next; where it is
    left, `then` is the level that mostly follows (itself where there is only one).
    """

    low_ms: float
    high_ms: float
    share: float
    stay: float
    then: int

    def __str__(self) -> str:
        return f"{self.low_ms:.4g} to {self.high_ms:.4g} ms"

    @property
    def stay_steps(self) -> float:
        """Return the mean number of rows at a stretch."""
        return 1 / (1 - self.stay) if self.stay < 1 - 1e-6 else np.inf


@dataclass(frozen=True)
class Description:
    """Figures of a trace; budgets in ms, `transition` (L, L) between its `levels`.

    `volatility` is the mean |ln B′/B| from one row to the next, over steps between budgets above 0.
    """

    trace: str
    rows: int
    duration_s: float
    step_s: float
    gaps: int
    longest_gap_s: float
    min_ms: float
    p5_ms: float
    p50_ms: float
    p95_ms: float
    max_ms: float
    unchanged_share: float
    volatility: float
    levels: tuple[Level, ...]
    transition: Floats

    def facts(self) -> dict[str, object]:
        """Return everything as JSON knows it."""
        return asdict(self) | {"transition": self.transition.tolist()}

    def words(self) -> list[str]:
        """Return the chain in plain words, a line a level."""
        if len(self.levels) == 1:
            return [f"always {self.levels[0]}"]
        return [
            f"{level}: {level.share:.0%} of the rows; stays for {level.stay:.1%} of steps"
            f" ({level.stay_steps:.3g} at a stretch), then mostly {self.levels[level.then]}"
            for level in self.levels
        ]


def describe(trace: Trace, levels: int = LEVELS) -> Description:
    """Return what a trace is like, its budgets cut into about `levels` equally full levels.

    Raises `TraceError` for a trace of fewer than two rows.
    """
    if len(trace) < 2:
        raise TraceError(f"{trace.name}: {len(trace)} rows; a description needs two")
    budget, steps = trace.budget_ms, np.diff(trace.time_s)
    step_s = float(np.median(steps))
    gaps = steps[steps > GAP * step_s]
    low, p5, p50, p95, high = np.percentile(budget, [0, 5, 50, 95, 100]).tolist()
    before, after = budget[:-1], budget[1:]
    both = (before > 0) & (after > 0)
    moves = np.abs(np.log(after[both]) - np.log(before[both]))
    parts, transition = _chain(budget, levels)
    return Description(
        trace=trace.name,
        rows=len(trace),
        duration_s=float(trace.time_s[-1] - trace.time_s[0]),
        step_s=step_s,
        gaps=len(gaps),
        longest_gap_s=float(gaps.max(initial=0.0)),
        min_ms=low,
        p5_ms=p5,
        p50_ms=p50,
        p95_ms=p95,
        max_ms=high,
        unchanged_share=float((before == after).mean()),
        volatility=float(moves.mean()) if len(moves) else 0.0,
        levels=parts,
        transition=transition,
    )


def _chain(budget: Floats, levels: int) -> tuple[tuple[Level, ...], Floats]:
    """Return the levels of a series and the transition between them."""
    low, high = float(budget.min()), float(budget.max())
    if low == high:
        return (Level(low, high, 1.0, 1.0, 0),), np.ones((1, 1))
    # Where most rows are alike no edge cuts equal parts: then the middle of the range is one.
    cuts = bin_edges(budget, np.empty(0), levels)
    thresholds = cuts if len(cuts) else np.array([low + (high - low) / 2])
    chain = fit_chain([budget], thresholds, extra_bins=1, prior_strength=_WEAK)
    bounds = [low, *chain.edges.tolist(), high]
    share = np.bincount(chain.bins(budget), minlength=len(bounds) - 1) / len(budget)
    others = np.where(np.eye(len(share), dtype=bool), -1.0, chain.transition)
    parts = tuple(
        Level(*ends, float(share[i]), float(chain.transition[i, i]), int(others[i].argmax()))
        for i, ends in enumerate(pairwise(bounds))
    )
    return parts, chain.transition
