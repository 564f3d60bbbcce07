"""The refreshed table: chains that keep learning, one forecast they share, the simple rules a floor.

**Chains.** Four `View`s of the past (the plain reading; the reading with trend at three smoothings) each
count where their state goes and where the next budget falls, with a half-life of 2000 steps:

    P(i, j) = (n(i, j) + 5 ρ(i, j)) / (Σ_k n(i, k) + 5),

and every hundred steps each chain is solved anew, in turns. From a solution only the time to come is used:
c_k(a) = Σ_j P(i, j) d(j, a), what it is worth to have a active afterwards.

**Forecast.** What a choice gets now depends on one budget alone, and for that the chains' falls are four
signs among others that `forecast` mixes into Pr[B′ ≥ θ]. So r(m, a), the payoff expected now, is the same for
all, and what choosing a with m active loses by chain k is

    A_k(m, a) = r(m, a) + c_k(a) − max_b [ r(m, b) + c_k(b) ].

**Committee.** Had chain k been followed since the start it would have scored S_k, forgotten with a half-life
of 400 steps; every path can be scored, because a budget that comes shows what each choice would have got.
The committee takes argmax_a Σ_k w_k A_k(m, a), w_k ∝ exp(S_k / 0.3): exponential weights (Vovk 1990;
Littlestone & Warmuth 1994) on advantages instead of votes.

**Floor.** The committee and the rules (every static variant, and alert) have running scores of their own,
half-life 150 steps, and the leader is followed; from its next step its path is the one really taken, but what
it cost to change over is not held against it. A newcomer has to
lead by more than what the committee reckons changing to it costs now (the stall that makes an answer late
above all): rent before you buy, as in metrical task systems. Rules are handicapped by two units, some two
late answers.

Decisions are causal: a step uses readings up to itself. What does not depend on its reading, the refreshes
above all, can be done before it comes (`prepare`). Time is in costs of φ = 0. docs/policy.md tells what was
tried, with the figures. Ladders are short, so a step's sums are over lists: arrays of three would take four
times as long.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Costs
from .differences import settle
from .forecast import Forecast
from .frame import Objective, at_least, expected_reward
from .lookup import EDGE_TOLERANCE, Policy
from .rules import Alert, static
from .view import View, fit_view

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VIEWS = ((1.0, False), (1.0, True), (0.5, True), (0.25, True))
"""Smoothing of the reading, and whether its trend is part of the state."""
MEMORY_STEPS = 2000
REFRESH_STEPS = 100
PRIOR_STRENGTH = 5.0
CHAIN_HALF_LIFE_STEPS = 400
CHAIN_TEMPERATURE = 0.3
LEADER_HALF_LIFE_STEPS = 150
RULE_HANDICAP = 2.0
_GROWTH = math.exp2(1 / MEMORY_STEPS)
_DIGITS = 9  # of logarithms: below that there is only rounding
_LEAST = 1e-3  # of the smallest need: less than this is as little as nothing, and has a logarithm
_TIE = 1e-9
_SETTLED = 1e-6  # a refreshed chain's differences are solved this far, in units of quality


class LearningChain:
    """Counts over the states of a view, and from them what each variant is worth afterwards."""

    def __init__(self, view: View, variants: int) -> None:
        self.state = 0
        self.smoothed: float | None = None
        self._view = view
        self._moves = np.zeros_like(view.moves)
        self._falls: list[list[float]] = np.zeros_like(view.falls).tolist()
        self._prior: list[list[float]] = (PRIOR_STRENGTH * view.falls).tolist()
        self._ahead: list[list[float]] = []
        self._d = np.zeros((view.states, variants))
        # One step's weight grows instead of all others' shrinking: the same ratios, O(1).
        self._weight = 1.0

    @property
    def ahead(self) -> list[float]:
        """Return c(a) in this state, M values."""
        return self._ahead[self.state]

    def observe(self, log_budget: float, fall: int) -> None:
        """Move to the next state; unless a series begins, count the step that led there."""
        before, fresh = self.state, self.smoothed is None
        self.state, self.smoothed = self._view.state(log_budget, self.smoothed)
        if not fresh:
            self._weight *= _GROWTH
            self._moves[before, self.state] += self._weight
            self._falls[before][fall] += self._weight

    def reaches(self) -> list[float]:
        """Return Pr[B′ ≥ θ_j] in this state, one value a threshold."""
        falls, weight = self._falls[self.state], self._weight
        whole = sum(falls) + PRIOR_STRENGTH * weight
        total, reaches = 0.0, []
        for count, prior in zip(falls[:0:-1], self._prior[self.state][:0:-1], strict=True):
            total += count + weight * prior
            reaches.append(total / whole)
        return reaches[::-1]

    def refresh(self, quality: Floats, first: Ints, objective: Objective, penalty: Floats) -> None:
        """Solve the chain anew; `first` (M, M) is where the falls begin that are enough."""
        counts = np.array(self._falls) / self._weight
        self._moves /= self._weight
        self._falls = counts.tolist()
        self._weight = 1.0
        mass = self._moves.sum(axis=1, keepdims=True) + PRIOR_STRENGTH
        transition = (self._moves + PRIOR_STRENGTH * self._view.moves) / mass
        falls = (counts + PRIOR_STRENGTH * self._view.falls) / mass
        payoff = expected_reward(quality, at_least(falls, first), objective) - penalty
        gamma = 1.0 if objective.discount is None else objective.discount
        self._d, _ = settle(payoff, transition, gamma, self._d, _SETTLED, 500)
        self._ahead = (gamma * (transition @ self._d)).tolist()


class Paths:
    """What some policies would have done, and what it would have scored, older steps weighing less."""

    def __init__(self, count: int, half_life_steps: float) -> None:
        self.active = [0] * count
        self.chosen = [0] * count
        self.score = [0.0] * count
        self._keep = math.exp2(-1 / half_life_steps)

    def credit(self, gain: list[list[float]]) -> None:
        """Take what each choice got, gain[m][a], and move on."""
        keep = self._keep
        self.score = [
            keep * score + gain[m][a]
            for score, m, a in zip(self.score, self.active, self.chosen, strict=True)
        ]
        self.active = self.chosen


class _Now:
    """Everything that changes from step to step; of the followed paths the first is the committee's."""

    def __init__(
        self, chains: list[LearningChain], forecast: Forecast, rules: list[Policy]
    ) -> None:
        self.chains = chains
        self.forecast = forecast
        self.rules = rules
        self.by_chain = Paths(len(chains), CHAIN_HALF_LIFE_STEPS)
        self.followed = Paths(1 + len(rules), LEADER_HALF_LIFE_STEPS)
        self.leader = 0
        self.steps = 0
        self.fresh = True
        self.prepared = True

    def restart(self) -> None:
        """Begin another series with φ = 0 active."""
        for chain in self.chains:
            chain.smoothed = None
        for rule in self.rules:
            rule.reset()
        self.forecast.restart()
        for paths in (self.by_chain, self.followed):
            paths.active = [0] * len(paths.active)
        self.fresh = True


class Committee:
    """A policy that learns while it runs, begun on `history`: series of budgets in costs of φ = 0."""

    name = "refreshed"

    def __init__(self, costs: Costs, objective: Objective, history: Sequence[Floats]) -> None:
        self._unit_ms = float(costs.latency_ms[0])
        self._quality = costs.quality
        self._objective = objective
        variants = len(costs)
        self._penalty = objective.switch_cost * (1 - np.eye(variants))
        need = costs.need_ms / self._unit_ms
        self._least = _LEAST * float(need.min())
        thresholds = _rounded(np.log(costs.thresholds_ms / self._unit_ms))
        logs = [_rounded(np.log(np.maximum(series, self._least))) for series in history]
        views = [fit_view(logs, thresholds, *view) for view in VIEWS]
        thresholds = views[0].thresholds
        self._thresholds: list[float] = thresholds.tolist()
        self._first = thresholds.searchsorted(_rounded(np.log(need)), "right")
        # The same as rows of lists: (need, threshold's place, gain on time, gain when late) of (m, a).
        on_time, late = self._quality - self._penalty, -objective.miss_cost - self._penalty
        parts = (need * (1 - EDGE_TOLERANCE), self._first - 1, on_time, late)
        self._choices = [
            list(zip(*row, strict=True)) for row in zip(*(p.tolist() for p in parts), strict=True)
        ]
        self._now = _Now(
            [LearningChain(view, variants) for view in views],
            Forecast(thresholds, len(views)),
            [*(static(costs, phi) for phi in range(variants)), Alert(costs, objective)],
        )
        self._refresh_all()
        for series in history:
            active = 0
            for budget in (series * self._unit_ms).tolist():
                active = self.decide(budget, active)
            self._now.restart()
        self._refresh_all()
        self._trained = deepcopy(self._now)

    def __repr__(self) -> str:
        return f"<Committee(chains={len(self._now.chains)}, steps={self._now.steps})>"

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading, after learning from the step that led to it."""
        self.prepare()
        now, budget = self._now, reading_ms / self._unit_ms
        now.prepared = False
        log_budget = round(math.log(max(budget, self._least)), _DIGITS)
        if not now.fresh:
            gain = [
                [on_time if need <= budget else late for need, _, on_time, late in row]
                for row in self._choices
            ]
            now.by_chain.credit(gain)
            now.followed.credit(gain)
            now.forecast.learn(log_budget)
        now.fresh = False
        fall = bisect_right(self._thresholds, log_budget)
        for chain in now.chains:
            chain.observe(log_budget, fall)
        reach = now.forecast.predict(log_budget, [chain.reaches() for chain in now.chains])
        payoff = [
            [late + reach[place] * (on_time - late) for _, place, on_time, late in row]
            for row in self._choices
        ]
        return self._choose(payoff, reading_ms, active)

    def prepare(self) -> None:
        """Do what the next decision needs and its reading does not change; `decide` does it if nobody did.

        Whoever has time between two decisions may call this: no decision depends on whether it was called.
        """
        now = self._now
        if now.prepared:
            return
        now.prepared = True
        now.forecast.prepare()
        turn, rest = divmod(now.steps, REFRESH_STEPS // len(now.chains))
        if not rest:
            self._refresh(now.chains[turn % len(now.chains)])
        now.steps += 1

    def reset(self) -> None:
        """Go back to what was learned from the history."""
        self._now = deepcopy(self._trained)

    def _refresh_all(self) -> None:
        for chain in self._now.chains:
            self._refresh(chain)

    def _refresh(self, chain: LearningChain) -> None:
        chain.refresh(self._quality, self._first, self._objective, self._penalty)

    def _choose(self, payoff: list[list[float]], reading_ms: float, active: int) -> int:
        """Let every path choose, given what is expected now (M, M), and return the leader's choice."""
        now = self._now
        now.followed.active[now.leader] = active
        own, *others = now.followed.active
        committee = self._committee(payoff, {active, own})
        choices = [_best(committee[active], active)]
        choices += [r.decide(reading_ms, m) for r, m in zip(now.rules, others, strict=True)]
        now.followed.chosen = [_best(committee[own], own), *choices[1:]]
        now.leader = self._lead(committee[active], choices)
        return choices[now.leader]

    def _committee(self, payoff: list[list[float]], actives: set[int]) -> dict[int, list[float]]:
        """Return the weighted advantages (M,) with each of `actives`; every chain's own path chooses."""
        paths = self._now.by_chain
        top = max(paths.score)
        weights = [math.exp((score - top) / CHAIN_TEMPERATURE) for score in paths.score]
        whole = sum(weights)
        sums = {m: [0.0] * len(payoff) for m in actives}
        paths.chosen = []
        for chain, weight, own in zip(self._now.chains, weights, paths.active, strict=True):
            ahead = chain.ahead
            for m in {own, *actives}:
                worth = [now + then for now, then in zip(payoff[m], ahead, strict=True)]
                if m == own:
                    paths.chosen.append(_best(worth, own))
                if m in sums:
                    most, share = max(worth), weight / whole
                    sums[m] = [s + share * (w - most) for s, w in zip(sums[m], worth, strict=True)]
        return sums

    def _lead(self, advantage: list[float], choices: list[int]) -> int:
        """Return who leads now; the leadership changes where that pays."""
        score, leader = self._now.followed.score, self._now.leader
        lead = [score[0], *(s - RULE_HANDICAP for s in score[1:])]
        best, most = leader, _TIE
        for newcomer, choice in enumerate(choices):
            loss = max(advantage[choices[leader]] - advantage[choice], 0.0)
            ahead = lead[newcomer] - lead[leader] - loss
            if ahead > most:
                best, most = newcomer, ahead
        return best


def _best(worth: list[float], active: int) -> int:
    """Return the best action; the active one where it is as good."""
    most = max(worth)
    return active if worth[active] >= most - _TIE else worth.index(most)


def _rounded(logs: Floats) -> Floats:
    return np.asarray(np.round(logs, _DIGITS), dtype=np.float64)
