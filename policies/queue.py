r"""Requests that come when they like: queue, slack, slow-down and arrival rate in one problem.

**Problem.** Poisson arrivals, each with D ms from arrival to deadline, wait in order of arrival; one run at a
time serves the b oldest. Of a state (e, n, s, m) the world moves e, a pair of slow-down ξ and arrival rate λ,
by P(e, e′) from one decision to the next; the queue n = 0 … N, the slack s ∈ [0, D] of the oldest and the
active variant m are ours. A decision is a variant a and a batch size b ≤ n; it takes

    d = ξ · (ℓ_a(b) + S_ma),     ℓ_a(b) = (1 + growth · (b − 1)) · ℓ_a,     growth = 1: a batch saves nothing

with ℓ_a random, and pays q_a for each of the b that is on time, −κ for each that is not, −λ_switch if a ≠ m.

**What follows.** Meanwhile K ~ Poisson(λ d) arrive; beyond N waiting they are refused, −κ each. Given n and
the age w = D − s of the oldest, the other n − 1 arrived uniformly in w, so the next to be the oldest, the
b-th of them, has the slack s + w U with U ~ Beta(b, n − b), and d less when the run ends. If nobody is left,
the first of K ≥ 1 has D − d (1 − U), U ~ Beta(1, K); if nobody came, the worker idles for 1/λ and meets (1,
D). One that could only be late with the quickest variant is refused at once (−κ, no time), as the daemon's
scheduler does; so values are completed in ascending n before each sweep.

Slack is a grid of points, a random slack is shared among the two next to it so that its mean is kept: for hat
functions that needs E (x − U)⁺ alone, which for a Beta of whole parameters is a sum of binomial terms. K and
the next slack are independent given (n, s) but for the run's own randomness, which each averages over. So one
expectation is three products, a Poisson (N+1)² one over n′, a shift by d and the (S+1)² map of each (n, b),
which depends on neither time nor rate nor variant and is built once for all.

**Key fact.** A slow-down ξ only rescales the deadline, D/ξ, and the rate, λξ. So the optimum over levels of ξ
holds, at each, what a policy solved anew for that factor would be; P says how far to hedge against its
moving.

**Method.** Average reward per time in a semi-Markov problem, after Schweitzer's transformation (J. Math.
Anal. Appl. 34, 1971): V ← V + η δ, δ(x) = max_{a,b} [ r + E V − V(x) ] / τ, η ≤ min τ, less its value in one
state, accelerated (`anderson`). All times are in deadlines: milliseconds times c and rates over c decide
alike.

**Certificate.** min δ ≤ g* ≤ max δ for the V that is returned (Odoni 1969, for the transformed problem).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .anderson import rest
from .operators import check_chain, check_single_class, finite

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NODES = 8  # run times that transitions average over
_TIE = 1e-7  # of the largest payoff: decisions closer than this are equally good
_STEP = 0.95  # η, of the shortest decision: below 1, lest the chain be periodic


@dataclass(frozen=True)
class QueueCosts:
    """What the M variants cost when they run, in milliseconds.

    `run_ms` (M, Q): Q equally likely times of a run, ascending. `stall_ms` (M, M), row = active. `quality`
    (M,). A batch of b takes 1 + `growth` · (b − 1) times as long as one.
    """

    run_ms: Floats
    stall_ms: Floats
    quality: Floats
    growth: float = 1.0

    @property
    def typical_ms(self) -> Floats:
        """Return (M,): the middle time of a run."""
        return np.asarray(np.median(self.run_ms, axis=1))


@dataclass(frozen=True, slots=True)
class QueueSolution:
    """An optimal policy for a queue with its certificate.

    `value` (E, N+1, S+1, M): the bias. `policy`, of that shape: the place of the decision in
    `QueueMDP.decisions`, −1 where the oldest is refused or nobody waits. `gain` and its `bounds`: reward a
    second. `iterations`: sweeps. `converged`: the bounds are as close as was asked.
    """

    value: Floats
    policy: Ints
    gain: float
    bounds: tuple[float, float]
    iterations: int
    converged: bool


class QueueMDP:
    """One worker before a queue, in E worlds of (slow-down, arrivals a second).

    `worlds` (E, 2); `transition` (E, E) from one decision to the next, one class (None: E is 1).
    `max_waiting` is N, slack has `slack_bins` = S steps of the deadline, `batches` the sizes that may be
    chosen. Raises ValueError for what is no problem.
    """

    def __init__(
        self,
        costs: QueueCosts,
        *,
        deadline_ms: float,
        worlds: ArrayLike,
        transition: ArrayLike | None = None,
        max_waiting: int = 32,
        slack_bins: int = 100,
        batches: Sequence[int] = (1,),
        miss_cost: float = 0.5,
        switch_cost: float = 0.01,
    ) -> None:
        self.worlds = finite("worlds", worlds)
        self.transition = finite("transition", [[1.0]] if transition is None else transition)
        self.costs, self.deadline_ms = costs, deadline_ms
        self.max_waiting, self.slack_bins, self.batches = max_waiting, slack_bins, tuple(batches)
        self.miss_cost, self.switch_cost = miss_cost, switch_cost
        self._check()
        variants = len(costs.quality)
        self.decisions = [(phi, size) for size in self.batches for phi in range(variants)]
        """(variant, batch size) of each decision."""
        self._build()

    def __repr__(self) -> str:
        states = len(self.worlds) * (self.max_waiting + 1) * (self.slack_bins + 1)
        return f"<QueueMDP(states={states}, decisions={len(self.decisions)})>"

    def _check(self) -> None:
        if self.worlds.ndim != 2 or self.worlds.shape[1] != 2 or (self.worlds <= 0).any():
            raise ValueError("worlds: expected (E, 2), a slow-down and a rate above 0 each")
        check_chain("transition", self.transition)
        check_single_class("transition", self.transition)
        if len(self.transition) != len(self.worlds):
            raise ValueError(f"{len(self.worlds)} worlds, a transition of {len(self.transition)}")
        if not (np.isfinite(self.deadline_ms) and self.deadline_ms > 0):
            raise ValueError(f"deadline_ms is {self.deadline_ms}; expected a number above 0")
        if not self.batches or min(self.batches) != 1 or max(self.batches) > self.max_waiting:
            raise ValueError(f"batches {self.batches}: 1 to {self.max_waiting}, 1 among them")

    def _build(self) -> None:
        """Tabulate durations, payoffs and transitions; axes (E, B, m, a) come first, times in deadlines."""
        costs, grid = self.costs, np.linspace(0.0, 1.0, self.slack_bins + 1)
        size = 1 + costs.growth * (np.array(self.batches, dtype=np.float64) - 1)
        run = costs.run_ms[None, None, :] * size[:, None, None, None]
        alone = (run + costs.stall_ms[None, :, :, None]) / self.deadline_ms  # (B, m, a, Q)
        takes = self.worlds[:, 0, None, None, None, None] * alone
        self._rate = self.worlds[:, 1] * self.deadline_ms / 1e3
        few = takes.reshape(*takes.shape[:4], min(_NODES, takes.shape[4]), -1).mean(axis=-1)
        self._tau = few.mean(axis=-1)
        self._pay = self._payoff(takes, grid)
        pmf = poisson(self._rate[:, None, None, None, None] * few, self.max_waiting)
        self._arrive, overflow = _arrivals(pmf.mean(axis=-2), self.max_waiting)
        # Of those who come beyond N each is refused; where n − b are left, that is row n − b.
        mean = (self._rate[:, None, None, None] * self._tau)[..., None]
        self._overflow = overflow + mean
        self._shift = _shift(few, grid)
        self._first = _first(pmf, few, self.slack_bins)
        self._idle = pmf[..., 0].mean(axis=-1)
        quickest = self.worlds[:, 0] * costs.typical_ms.min() / self.deadline_ms
        self._refused = (quickest[:, None] * (1 - 1e-12) > grid).sum(
            axis=1
        )  # grid points from 0 on
        self._step = _STEP * min(float(self._tau.min()), float(1 / self._rate.max()))

    def _payoff(self, takes: Floats, grid: Floats) -> Floats:
        """Return (E, B, m, a, N+1, S+1): what the served pay, −∞ where n < b."""
        on_time = (takes[..., None] <= grid * (1 + 1e-12)).mean(axis=-2)
        n = np.arange(self.max_waiting + 1)
        pay = np.full((*takes.shape[:4], len(n), len(grid)), -np.inf)
        change = 1 - np.eye(len(self.costs.quality))
        for k, size in enumerate(self.batches):
            answered = np.repeat(on_time[:, k, :, :, None, :], len(n), axis=3)
            for other in range(1, size):
                maps = next_oldest(self.max_waiting, self.slack_bins, other)
                answered[..., other + 1 :, :] += np.einsum(
                    "nij,emaj->emani", maps[other + 1 :], on_time[:, k]
                )
            worth = self.costs.quality[:, None, None] + self.miss_cost
            served = worth * answered - self.miss_cost * size
            served -= self.switch_cost * change[:, :, None, None]
            pay[:, k, :, :, size:] = served[..., size:, :]
        return pay

    def complete(self, value: Floats) -> Floats:
        """Return the value with the states in which the oldest is refused filled in, in ascending n."""
        value = value.copy()
        value[:, 0] = value[:, 0, -1:, :]
        maps = next_oldest(self.max_waiting, self.slack_bins, 1)
        for e, refused in enumerate(self._refused):
            value[e, 1, :refused] = value[e, 0, -1] - self.miss_cost
            for n in range(2, self.max_waiting + 1):
                value[e, n, :refused] = maps[n, :refused] @ value[e, n - 1] - self.miss_cost
        return value

    def ahead(self, value: Floats) -> Floats:
        """Return (E, B, m, a, N+1, S+1): payoff and expected value of each decision, −∞ where n < b."""
        world = np.tensordot(self.transition, value, 1)
        by_choice = np.moveaxis(world, -1, 1)[:, None, None]  # (E, 1, 1, a, N+1, S+1)
        left = (self._arrive @ by_choice) @ self._shift.swapaxes(-1, -2)
        total = self._pay.copy()
        nobody = (self._first * by_choice).sum(axis=(-1, -2)) + self._idle * by_choice[..., 0, -1]
        for k, size in enumerate(self.batches):
            total[:, k, :, :, size] += nobody[:, k, ..., None]
            maps = next_oldest(self.max_waiting, self.slack_bins, size)[size + 1 :]
            others = np.moveaxis(left[:, k, :, :, 1 : len(maps) + 1], 3, 0)  # (n − b, E, m, a, S+1)
            columns = int(np.prod(others.shape[1:-1]))
            moved = others.reshape(len(maps), columns, -1) @ maps.swapaxes(-1, -2)
            total[:, k, :, :, size + 1 :] += np.moveaxis(moved.reshape(others.shape), 0, 3)
            lost = self.miss_cost * self._overflow[:, k, ..., : self.max_waiting + 1 - size]
            total[:, k, :, :, size:] -= lost[..., None]
        return total

    def rates(self, value: Floats) -> Floats:
        """Return (E, N+1, S+1, M, A): [ r + E V − V ] / τ of each decision for a completed value."""
        total = self.ahead(value)
        total -= np.moveaxis(value, -1, 1)[:, None, :, None]
        total /= self._tau[..., None, None]
        # (E, B, m, a, n, s) → (E, n, s, m, B·a)
        moved = total.transpose(0, 4, 5, 2, 1, 3)
        return np.asarray(moved.reshape(*moved.shape[:4], -1))

    def _best(self, value: Floats, policy: Ints | None) -> Floats:
        """Return δ (E, N+1, S+1, M), under a policy if one is given; 0 where the oldest is refused."""
        rates = self.rates(value)
        if policy is None:
            best = rates.max(axis=-1)
        else:
            best = np.take_along_axis(rates, np.maximum(policy, 0)[..., None], -1)[..., 0]
        world = np.tensordot(self.transition, value, 1)
        idle = (world[:, 1, -1] - value[:, 0, -1]) * self._rate[:, None]
        best[:, 0] = idle[:, None]
        return np.asarray(best)

    def _decided(self) -> NDArray[np.bool_]:
        """Return (E, N+1, S+1): where somebody waits who is not refused, or nobody does."""
        decided = np.arange(self.slack_bins + 1) >= self._refused[:, None, None]
        decided = np.repeat(decided, self.max_waiting + 1, axis=1)
        decided[:, 0] = True
        return np.asarray(decided)

    def solve(
        self, tol: float = 1e-5, max_iter: int = 2000, start: Floats | None = None
    ) -> QueueSolution:
        """Return an optimal policy whose gain is known to `tol` of the largest there can be.

        `start` is a value to begin from, that of a similar problem.
        """
        return self._run(None, tol, max_iter, start)

    def evaluate(self, policy: Ints, tol: float = 1e-5, max_iter: int = 2000) -> QueueSolution:
        """Return what a policy, as `QueueSolution.policy`, gains with this problem's prices."""
        return self._run(policy, tol, max_iter, None)

    def _run(
        self, policy: Ints | None, tol: float, max_iter: int, start: Floats | None
    ) -> QueueSolution:
        decided = self._decided()[..., None]
        scale = float(self._rate.max()) * (float(np.abs(self.costs.quality).max()) + self.miss_cost)
        variants = len(self.costs.quality)
        shape = (len(self.worlds), self.max_waiting + 1, self.slack_bins + 1, variants)

        def sweep(point: Floats) -> Floats:
            value = self.complete(point.reshape(shape))
            value += self._step * np.where(decided, self._best(value, policy), 0.0)
            return np.asarray((value - value[0, 0, -1, 0]).ravel())

        begin = np.zeros(shape) if start is None else start
        point, used = rest(sweep, begin.ravel(), 0.4 * self._step * tol * scale, max_iter)
        value = self.complete(point.reshape(shape))
        delta = np.where(decided, self._best(value, policy), np.nan)
        low, high = float(np.nanmin(delta)), float(np.nanmax(delta))
        per_second = 1e3 / self.deadline_ms
        if policy is None:
            waits = (np.arange(shape[1]) > 0)[:, None, None]
            policy = np.where(decided & waits, self._greedy(value), -1)
        return QueueSolution(
            value,
            policy,
            0.5 * (low + high) * per_second,
            (low * per_second, high * per_second),
            used,
            high - low <= tol * scale,
        )

    def _greedy(self, value: Floats) -> Ints:
        """Return the best decision everywhere: of equally good ones the active variant's, else the first."""
        rates = self.rates(value)
        near = rates >= rates.max(axis=-1, keepdims=True) - _TIE * float(self._rate.max())
        variants = len(self.costs.quality)
        stays = np.arange(len(self.decisions)) % variants == np.arange(variants)[:, None]
        return np.asarray((near * (1 + stays)).argmax(axis=-1))


@lru_cache(maxsize=64)
def next_oldest(max_waiting: int, slack_bins: int, number: int) -> Floats:
    """Return (N+1, S+1, S+1): from the oldest's slack to that of the `number`-th who came after, now.

    Row n is for n waiting; rows n ≤ `number`, where there is none, are 0.
    """
    grid = np.linspace(0.0, 1.0, slack_bins + 1)
    maps = np.zeros((max_waiting + 1, slack_bins + 1, slack_bins + 1))
    for n in range(number + 1, max_waiting + 1):
        maps[n] = shares(grid, 1 - grid, number, n - number, slack_bins)
    maps.flags.writeable = False
    return maps


def shares(low: Floats, width: Floats, a: int, b: int, slack_bins: int) -> Floats:
    """Return (…, S+1): the shares of the grid's points in a slack low + width · U, U ~ Beta(a, b).

    What is below 0 counts as 0. A share is the expectation of the point's hat function.
    """
    points = np.arange(slack_bins + 2) / slack_bins
    width = np.maximum(width, 1e-12)[..., None]
    u = (points - low[..., None]) / width
    inside = np.clip(u, 0.0, 1.0)
    mean = a / (a + b)
    short = inside * _beta_cdf(inside, a, b) - mean * _beta_cdf(inside, a + 1, b)
    short = width * (short + np.maximum(u - 1, 0.0))  # E (point − slack)⁺
    upper = slack_bins * np.diff(short, n=2, axis=-1)  # of the points from the second on
    first = 1 - upper.sum(axis=-1, keepdims=True)
    return np.concatenate([first, upper], axis=-1)


def _beta_cdf(u: Floats, a: int, b: int) -> Floats:
    """Return P(U ≤ u), U ~ Beta(a, b): at least a of a + b − 1 uniform numbers are below u."""
    count = a + b - 1
    other = 1 - u
    below, ways = np.zeros_like(u), 1.0
    for k in range(a):  # at most a − 1 are
        below += ways * u**k * other ** (count - k)
        ways *= (count - k) / (k + 1)
    return np.asarray(1 - below)


def poisson(mean: Floats, most: int) -> Floats:
    """Return (…, most+1): the probabilities of 0 … most."""
    terms = np.ones((*mean.shape, most + 1))
    np.cumprod(mean[..., None] / np.arange(1, most + 1), axis=-1, out=terms[..., 1:])
    return np.asarray(terms * np.exp(-mean)[..., None])


def _arrivals(pmf: Floats, most: int) -> tuple[Floats, Floats]:
    """Return (…, N+1, N+1): from r left to n′ waiting; and (…, N+1): those without a place, less the mean."""
    r, n = np.ogrid[: most + 1, : most + 1]
    moves = np.where(n >= r, pmf[..., np.maximum(n - r, 0)], 0.0)
    moves[..., -1] = 1 - moves[..., :-1].sum(axis=-1)
    # E (r + K − N)⁺ = r − N + E K + E (N − r − K)⁺
    free = np.maximum(most - r - np.arange(most + 1), 0)
    return moves, (pmf @ free.T.astype(np.float64)) - (most - r[:, 0])


def _shift(takes: Floats, grid: Floats) -> Floats:
    """Return (…, S+1, S+1): from a slack now to that after a run, averaged over the run's times (…, Q)."""
    steps = len(grid) - 1
    after = np.maximum(grid - takes[..., None], 0.0)  # (…, Q, S+1)
    distance = np.abs(after[..., None] - grid) * steps
    return np.asarray(np.maximum(1 - distance, 0.0).mean(axis=-3))


def _first(pmf: Floats, takes: Floats, slack_bins: int) -> Floats:
    """Return (…, N+1, S+1): how many wait, and the oldest's slack, after a run that left nobody."""
    most = pmf.shape[-1] - 1
    came = np.zeros((*takes.shape[:-1], most + 1, slack_bins + 1))
    for k in range(1, most + 1):
        chance = pmf[..., k] if k < most else 1 - pmf[..., :most].sum(axis=-1)
        slack = shares(1 - takes, takes, 1, k, slack_bins)
        came[..., k, :] = (chance[..., None] * slack).mean(axis=-2)
    return came
