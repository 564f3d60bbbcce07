"""How a past becomes a state: a budget is seen smoothed, and with or without the way it moves.

The raw reading is a poor state where budgets are noisy: its next value is better foretold by an average.
A `View` keeps the logarithm of the budget x smoothed exponentially,

    s_t = s_{t−1} + α (x_t − s_{t−1}),

and bins it, every threshold L_a + S_ma among the edges. With `trend` the state also says whether x_t
lies above, near or below s_{t−1} (near: within three quarters of the median distance), which tells a
rise from a fall at the same level. α = 1 without trend is the plain reading.

What a view learns is two counts a state: where the state goes (P), and between which thresholds the
next budget falls (N), which is all that on-time answers depend on. Before there are counts a prior
speaks, by ratios, as in `chain`: budgets move by the factors that were seen around the same level.

Budgets are in costs of φ = 0 throughout, so nothing here depends on the unit of time. Logarithms are
rounded to 1e-9, so that nothing depends on rounding either.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .chain import around, bin_edges

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DIGITS = 9
_NEAR = 0.75  # of the median distance from the smoothed value
_ANYWHERE = 0.05  # of the prior: how often the overall distribution, not the ratio, decides
_AROUND = 0.25  # of a trend's steps: those nearest in level, which a bin's prior is made of
_POINTS = 5  # points that stand for a bin
_STEPS = 201  # steps that stand for all steps of one trend


@dataclass(frozen=True)
class View:
    """A state space over past budgets, fitted: E states = bins × trends (1 or 3).

    `edges` (bins − 1,) are logarithms of smoothed budgets, `near` the distance within which there is
    no trend. `thresholds` (J − 1,) are logarithms of the budgets that decide about being on time.
    `moves` (E, E) and `falls` (E, J) are the priors of where the state goes and where the budget falls.
    """

    smoothing: float
    trend: bool
    edges: Floats
    near: float
    thresholds: Floats
    moves: Floats
    falls: Floats

    @property
    def states(self) -> int:
        """Return E."""
        return len(self.moves)

    @cached_property
    def _edges(self) -> list[float]:
        return list(self.edges.tolist())

    def state(self, log_budget: float, before: float | None) -> tuple[int, float]:
        """Return (state, smoothed) after one more budget; `before` was smoothed so far, None at first."""
        if before is None:
            before = log_budget
        smoothed = before + self.smoothing * (log_budget - before)
        state = bisect_right(self._edges, round(smoothed, DIGITS))
        if self.trend:
            away = round(log_budget - before, DIGITS)
            state = 3 * state + (2 if away > self.near else 0 if away < -self.near else 1)
        return state, smoothed


def fit_view(
    series: Sequence[Floats], thresholds: Floats, smoothing: float, trend: bool, *, bins: int = 24
) -> View:
    """Return the view of one or more series of log budgets (1-D each, at least one of two rows).

    `thresholds` are logarithms too, ascending.
    """
    smooth = [_smooth(logs, smoothing) for logs in series]
    away = [
        logs - np.concatenate([logs[:1], s[:-1]]) for logs, s in zip(series, smooth, strict=True)
    ]
    values = np.concatenate(smooth)
    edges = np.log(bin_edges(np.exp(values), np.exp(thresholds), bins))
    edges = np.asarray(np.round(edges, DIGITS) - 10.0**-DIGITS / 2)
    near = 0.0
    if trend:
        near = round(_NEAR * float(np.median(np.abs(np.concatenate(away)))), DIGITS)
    thresholds = thresholds - 10.0**-DIGITS / 2
    view = View(smoothing, trend, edges, near, thresholds, np.empty((0, 0)), np.empty((0, 0)))
    return _with_prior(view, series, smooth, away)


def _smooth(logs: Floats, smoothing: float) -> Floats:
    smooth = np.empty_like(logs)
    here = float(logs[0])
    for t, value in enumerate(logs.tolist()):
        here += smoothing * (value - here)
        smooth[t] = here
    return np.round(smooth, DIGITS)


def _with_prior(
    view: View, series: Sequence[Floats], smooth: Sequence[Floats], away: Sequence[Floats]
) -> View:
    """Return the view with its priors, from the steps of the series."""
    trends = 3 if view.trend else 1
    bins = len(view.edges) + 1
    falls_in = len(view.thresholds) + 1

    def trend_of(distance: Floats) -> Ints:
        far = np.round(distance, DIGITS)
        sign = (far > view.near).astype(np.int64) - (far < -view.near)
        return 1 + sign if view.trend else np.zeros(len(far), np.int64)

    trend = [trend_of(a) for a in away]
    state = np.concatenate(
        [
            trends * view.edges.searchsorted(s, "right") + k
            for s, k in zip(smooth, trend, strict=True)
        ]
    )
    fall = view.thresholds.searchsorted(np.concatenate(series), "right")
    overall_moves = np.bincount(state, minlength=bins * trends) / len(state)
    overall_falls = np.bincount(fall, minlength=falls_in) / len(fall)

    before = np.concatenate([k[:-1] for k in trend])
    after = np.concatenate([k[1:] for k in trend])
    moved = np.concatenate([np.diff(s) for s in smooth])
    next_away = np.concatenate([x[1:] - s[:-1] for x, s in zip(series, smooth, strict=True)])
    moves = np.empty((bins * trends, bins * trends))
    falls = np.empty((bins * trends, falls_in))
    points = _points(view.edges)
    level = np.concatenate([s[:-1] for s in smooth])
    for k in range(trends):
        of_trend = np.flatnonzero(before == k)
        if len(of_trend) < _POINTS:
            of_trend = np.arange(len(before))
        of_trend = of_trend[np.argsort(level[of_trend], kind="stable")]
        for b, near in enumerate(around(level[of_trend], view.edges, _AROUND)):
            steps = of_trend[near]
            if len(steps) > _STEPS:
                picks = np.linspace(0, len(steps) - 1, _STEPS).round().astype(np.int64)
                steps = steps[np.argsort(next_away[steps], kind="stable")[picks]]
            goes = view.edges.searchsorted(np.add.outer(points[b], moved[steps]).ravel(), "right")
            goes = trends * goes + np.tile(after[steps], _POINTS)
            moves[trends * b + k] = np.bincount(goes, minlength=bins * trends) / len(goes)
            to = np.add.outer(points[b], next_away[steps]).ravel()
            falls[trends * b + k] = np.bincount(
                view.thresholds.searchsorted(to, "right"), minlength=falls_in
            ) / len(to)
    share = _ANYWHERE
    return replace(
        view,
        moves=(1 - share) * moves + share * overall_moves,
        falls=(1 - share) * falls + share * overall_falls,
    )


def _points(edges: Floats) -> Floats:
    """Return (bins, points) evenly spaced inside each bin; the outer bins are half an octave wide."""
    low = np.concatenate([[edges[0] - np.log(2)], edges])
    high = np.concatenate([edges, [edges[-1] + np.log(1.5)]])
    share = (np.arange(_POINTS) + 0.5) / _POINTS
    return np.asarray(low[:, None] * (1 - share) + high[:, None] * share)
