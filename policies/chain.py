"""How budgets move: a Markov chain on bins of the budget, estimated from traces.

**Bins.** Every threshold L_a + S_ma is an edge, so within a bin each choice is either on time for
every budget or late for every budget; further edges cut the traces' values into equally full parts.
Bin i holds edges[i−1] ≤ budget < edges[i]. Edges between two neighbouring values of the traces lie
half-way, and `lookup.bins` forgives a budget that rounding put just below an edge.

**Estimate.** With n(i, j) counted transitions and a prior row ρ(i, ·) of strength s observations,

    P(i, j) = (n(i, j) + s ρ(i, j)) / (Σ_k n(i, k) + s).

The prior says that budgets move *by ratios* that are alike at neighbouring levels: ρ(i, ·) is where points
of bin i go when multiplied by the ratios B′/B of the steps that began nearest to bin i in rank: an eighth, a
quarter and a half of all steps, averaged; with a twentieth of the values' overall distribution mixed in, so
that every level can be left. (Ratios of all levels would deny that high budgets tend to fall and low ones to
rise.) Counts alone overfit: a bin seen twice would be certain of its next step. Ratios and edges scale with
the budget, so measuring time in other units changes no count and no probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .jit import COMPILED, njit
from .lookup import bins, lowered

Floats = NDArray[np.float64]

PRIOR_STRENGTH = 20.0
EXTRA_BINS = 24
_MARGINAL_SHARE = 0.05
_DEFAULT_ANYWHERE = 0.01
_POINTS = 9  # points that stand for a bin
_LARGEST = 1e100  # budgets and ratios beyond are taken as this, whose products are still numbers
_RATIOS = 257  # quantiles that stand for all ratios
_AROUND = (0.125, 0.25, 0.5)  # of all steps: those nearest in level, which a bin's prior is made of
_AROUND_LEAST = 20


@njit(cache=True, nogil=True)
def _wander(cumulated: Floats, bounds: Floats, draws: Floats, first: int, out: Floats) -> None:
    """Fill `out` (T,) as the loop in `Chain.sample` would, bit for bit."""
    bin_ = first
    for t in range(len(out)):
        low = bounds[bin_]
        out[t] = low + 0.999 * draws[t, 1] * (bounds[bin_ + 1] - low)
        row, least, last = cumulated[bin_], 0, len(cumulated) - 1
        while least < last:
            middle = (least + last) >> 1
            if row[middle] < draws[t, 0]:
                least = middle + 1
            else:
                last = middle
        bin_ = least


@dataclass(frozen=True)
class Chain:
    """A chain on bins: `edges` (E−1,) ascending, `counts` (E, E), `prior` (E, E) rows of probability."""

    edges: Floats
    counts: Floats
    prior: Floats
    prior_strength: float = PRIOR_STRENGTH

    @property
    def transition(self) -> Floats:
        """Return P, (E, E)."""
        mass = self.counts + self.prior_strength * self.prior
        return np.asarray(mass / mass.sum(axis=1, keepdims=True))

    def bins(self, budgets: Floats) -> NDArray[np.int64]:
        """Return the bin of each budget."""
        return bins(self.edges, budgets)

    def sample(
        self, rows: int, seed: int | Sequence[int] = 0, *, compiled: bool = COMPILED
    ) -> Floats:
        """Return budgets (rows,) that move exactly as the chain says, evenly spread inside each bin."""
        random = np.random.default_rng(seed)
        cumulated = self.transition.cumsum(axis=1)
        bounds = np.concatenate([[self.edges[0] / 2], self.edges, [self.edges[-1] * 1.5]])
        bin_, budgets = int(random.integers(len(cumulated))), np.empty(rows)
        draws = random.random((rows, 2))
        if compiled:
            _wander(cumulated, bounds, draws, bin_, budgets)
            return budgets
        for row, (choice, place) in enumerate(draws.tolist()):
            budgets[row] = bounds[bin_] + 0.999 * place * (bounds[bin_ + 1] - bounds[bin_])
            bin_ = min(int(cumulated[bin_].searchsorted(choice)), len(cumulated) - 1)
        return budgets

    def scaled(self, factor: float) -> Chain:
        """Return the same chain with every edge times `factor`."""
        return replace(self, edges=self.edges * factor)


def fit_chain(
    series: Sequence[Floats],
    thresholds: Floats,
    *,
    extra_bins: int = EXTRA_BINS,
    prior_strength: float = PRIOR_STRENGTH,
) -> Chain:
    """Return the chain of one or more series of budgets (1-D, same unit as `thresholds`).

    Raises ValueError if no series has two rows, or a value is negative or not finite.
    """
    rows = [np.asarray(s, dtype=np.float64) for s in series]
    for number, row in enumerate(rows):
        if row.ndim != 1 or not np.isfinite(row).all() or (row < 0).any():
            raise ValueError(f"series {number} needs one axis of finite budgets ≥ 0")
    if not any(len(row) >= 2 for row in rows):
        raise ValueError("a chain needs a trace of at least two rows")
    rows = [np.minimum(row, _LARGEST) for row in rows]
    values = np.concatenate(rows)
    edges = bin_edges(values, thresholds, extra_bins)
    counts = np.zeros((len(edges) + 1, len(edges) + 1))
    for row in rows:
        where = bins(edges, row)
        np.add.at(counts, (where[:-1], where[1:]), 1.0)
    starts = np.concatenate([row[:-1][row[:-1] > 0] for row in rows])
    with np.errstate(over="ignore"):
        ratios = np.concatenate([row[1:][row[:-1] > 0] / row[:-1][row[:-1] > 0] for row in rows])
    priors = [ratio_prior(edges, values, ratios, starts, share) for share in _AROUND]
    return Chain(edges, counts, np.mean(priors, axis=0), prior_strength)


def default_chain(thresholds: Floats, *, extra_bins: int = EXTRA_BINS) -> Chain:
    """Return a cautious chain for a device of which nothing is known yet.

    Budgets between half the smallest and twice the largest threshold, all levels alike; each step
    multiplies by a log-normal factor (σ = 0.1), one step in 200 halves the budget, and one in 100
    goes anywhere. With the default prices this keeps about a quarter of the budget in reserve.
    """
    levels = np.geomspace(thresholds[0] / 2, thresholds[-1] * 2, 20 * extra_bins)
    ratios = _default_ratios()
    edges = bin_edges(levels, thresholds, extra_bins)
    size = len(edges) + 1
    prior = ratio_prior(edges, levels, ratios, anywhere=_DEFAULT_ANYWHERE)
    return Chain(edges, np.zeros((size, size)), prior)


def default_series(thresholds: Floats, rows: int = 2000) -> Floats:
    """Return budgets that move as the cautious default chain says, the same every time."""
    random = np.random.default_rng(0)
    low, high = np.log(thresholds[0] / 2), np.log(thresholds[-1] * 2)
    steps = np.log(random.choice(_default_ratios(), rows))
    anywhere = random.uniform(size=rows) < _DEFAULT_ANYWHERE
    level, levels = (low + high) / 2, np.empty(rows)
    for t in range(rows):
        level = random.uniform(low, high) if anywhere[t] else min(max(level + steps[t], low), high)
        levels[t] = level
    return np.asarray(np.exp(levels))


def _default_ratios() -> Floats:
    normal = NormalDist(0.0, 0.1)
    return np.concatenate([np.exp([normal.inv_cdf((k + 0.5) / 199) for k in range(199)]), [0.5]])


def bin_edges(values: Floats, thresholds: Floats, extra_bins: int) -> Floats:
    """Return the thresholds and about `extra_bins` − 1 edges that cut `values` into equal parts."""
    distinct, first = np.unique(np.sort(values), return_index=True)
    cuts = np.arange(1, extra_bins) * len(values) // extra_bins
    # The cut falls before the first distinct value that begins at or after it.
    after = np.unique(np.searchsorted(first, cuts))
    after = after[(after > 0) & (after < len(distinct))]
    between = 0.5 * (distinct[after - 1] + distinct[after])
    near = np.abs(between[:, None] - thresholds[None, :]) <= 1e-6 * thresholds[None, :]
    return np.unique(np.concatenate([thresholds, between[~near.any(axis=1)]]))


def around(starts: Floats, edges: Floats, share: float) -> list[slice]:
    """Return, for each bin, the steps that its prior is made of, a slice of ascending `starts`.

    All that began in the bin; at least a `share` of all steps, those nearest in rank.
    """
    steps = len(starts)
    least = max(round(share * steps), min(_AROUND_LEAST, steps))
    cuts = [0, *np.searchsorted(starts, edges).tolist(), steps]
    slices = []
    for low, high in pairwise(cuts):
        width = max(least, high - low)
        begin = min(max((low + high) // 2 - width // 2, 0), steps - width)
        slices.append(slice(begin, begin + width))
    return slices


def ratio_prior(
    edges: Floats,
    values: Floats,
    ratios: Floats,
    starts: Floats | None = None,
    share: float = 1.0,
    *,
    anywhere: float = _MARGINAL_SHARE,
) -> Floats:
    """Return the prior rows ρ, (E, E), from steps that moved by `ratios`.

    Where their `starts` are given, a bin's prior is made of the `share` of steps that began nearest to
    it. `anywhere` is the share of the distribution of `values` mixed in.
    """
    size = len(edges) + 1
    where = bins(edges, values)
    marginal = np.bincount(where, minlength=size) / len(values)
    if not len(ratios):
        return np.tile(marginal, (size, 1))
    ratios = np.minimum(ratios, _LARGEST)
    steps = [slice(None)] * size
    if starts is not None:
        order = np.argsort(starts, kind="stable")
        ratios, steps = ratios[order], around(starts[order], lowered(edges), share)
    low = np.concatenate([[edges[0] / 2], edges])
    high = np.concatenate([edges, [edges[-1] * 1.5]])
    prior = np.empty((size, size))
    for e, near in enumerate(steps):
        inside = np.sort(values[where == e])
        if len(inside):
            picks = np.linspace(0, len(inside) - 1, min(_POINTS, len(inside)))
            points = inside[picks.round().astype(int)]
        else:
            points = low[e] + (high[e] - low[e]) * (np.arange(_POINTS) + 0.5) / _POINTS
        moves = ratios[near]
        if len(moves) > _RATIOS:
            moves = np.quantile(moves, np.linspace(0, 1, _RATIOS), method="inverted_cdf")
        next_bins = bins(edges, np.outer(points, moves).ravel())
        prior[e] = np.bincount(next_bins, minlength=size) / len(next_bins)
    return (1 - anywhere) * prior + anywhere * marginal
