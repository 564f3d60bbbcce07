"""The refreshed table: chains that keep learning, one forecast they share, the simple rules a floor.

**Chains.** Four `View`s of the past (the plain reading; the reading with trend at three smoothings) each count
where their state goes and where the next budget falls, transitions forgotten with a half-life of 2000 steps:

    P(i, j) = (n(i, j) + 5 ρ(i, j)) / (Σ_k n(i, k) + 5),

and every hundred steps each chain is solved anew, in turns. From a solution only the time to come is used:
c_k(a) = Σ_j P(i, j) d(j, a), what it is worth to have a active afterwards.

**Forecast.** What a choice gets now depends on one budget alone, and for that the chains' falls are four signs
among others that `forecast` mixes into Pr[B′ ≥ θ]. So r(m, a), the payoff expected now, is the same for all, and

    A_k(m, a) = r(m, a) + c_k(a) − max_b [ r(m, b) + c_k(b) ]

is what choosing a with m active loses by chain k.

**Committee.** Had chain k been followed since the start it would have scored S_k, forgotten with a half-life of
400 steps; every path can be scored, because a budget that comes shows what each choice would have got. The
committee takes argmax_a Σ_k w_k A_k(m, a), w_k ∝ exp(S_k / 0.3): exponential weights (Vovk 1990; Littlestone &
Warmuth 1994) on advantages instead of votes.

**Floor.** The committee and the rules (every static variant, and alert) have running scores of their own,
half-life 150 steps, and the leader is followed; its path is the one that is really taken. A newcomer has to
lead by more than what the committee reckons changing to it costs now (the stall that makes an answer late above
all): rent before you buy, as in metrical task systems. Rules are handicapped by two units, some two late answers.

Decisions are causal: a step uses readings up to itself. Time is in costs of φ = 0. docs/policy.md tells
what was tried, with the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Costs
from .forecast import Forecast
from .frame import Objective, at_least, expected_reward
from .lookup import EDGE_TOLERANCE, Policy
from .mdp import settle
from .rules import Alert, static
from .view import View, fit_view

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VIEWS = ((1.0, False), (1.0, True), (0.5, True), (0.25, True))
"""Smoothing of the reading, and whether its trend is part of the state."""
MEMORY_STEPS = 2000.0
REFRESH_STEPS = 100
PRIOR_STRENGTH = 5.0
CHAIN_HALF_LIFE_STEPS = 400.0
CHAIN_TEMPERATURE = 0.3
LEADER_HALF_LIFE_STEPS = 150.0
RULE_HANDICAP = 2.0
_DIGITS = 9  # of logarithms: below that there is only rounding
_LEAST = 1e-3  # of the smallest need: less than this is as little as nothing, and has a logarithm
_TIE = 1e-9
_SETTLED = 1e-6  # a refreshed chain's differences are solved this far, in units of quality


class LearningChain:
    """Counts over the states of a view, and from them the time to come, `ahead` (E, M)."""

    def __init__(self, view: View, variants: int) -> None:
        self.view = view
        self.moves = np.zeros_like(view.moves)
        self.falls = np.zeros_like(view.falls)
        self.ahead = np.zeros((view.states, variants))
        self.state = 0
        self.smoothed: float | None = None
        self._d = np.zeros((view.states, variants))
        # One step's weight grows instead of all others' shrinking: the same ratios, O(1).
        self._weight = 1.0

    def observe(self, log_budget: float, fall: int) -> None:
        """Move to the next state; unless a series begins, count the step that led there."""
        before, fresh = self.state, self.smoothed is None
        self.state, self.smoothed = self.view.state(log_budget, self.smoothed)
        if not fresh:
            self._weight *= _GROWTH
            self.moves[before, self.state] += self._weight
            self.falls[before, fall] += self._weight

    def reaches(self) -> Floats:
        """Return Pr[B′ ≥ θ_j | state], (J − 1,)."""
        falls, strength = self.falls[self.state], PRIOR_STRENGTH * self._weight
        likely = falls + strength * self.view.falls[self.state]
        return np.asarray(likely[:0:-1].cumsum()[::-1] / (falls.sum() + strength))

    def refresh(self, quality: Floats, first: Ints, objective: Objective, penalty: Floats) -> None:
        """Solve the chain anew; `first` (M, M) is where the falls begin that are enough."""
        self.moves /= self._weight
        self.falls /= self._weight
        self._weight = 1.0
        mass = self.moves.sum(axis=1, keepdims=True) + PRIOR_STRENGTH
        transition = (self.moves + PRIOR_STRENGTH * self.view.moves) / mass
        falls = (self.falls + PRIOR_STRENGTH * self.view.falls) / mass
        payoff = expected_reward(quality, at_least(falls, first), objective) - penalty
        gamma = 1.0 if objective.discount is None else objective.discount
        self._d, _ = settle(payoff, transition, gamma, self._d, _SETTLED, 500)
        self.ahead = gamma * (transition @ self._d)


_GROWTH = float(2 ** (1 / MEMORY_STEPS))


class _Path:
    """Everything that changes from step to step: `followed` paths have a leader, chains come before."""

    def __init__(
        self, chains: list[LearningChain], forecast: Forecast, rules: list[Policy]
    ) -> None:
        followed = 1 + len(rules)
        self.chains = chains
        self.forecast = forecast
        self.rules = rules
        self.active = np.zeros(len(chains) + followed, np.int64)
        self.chosen: Ints | None = None
        self.chain_score = np.zeros(len(chains))
        self.leader_score = np.zeros(followed)
        self.leader = 0
        self.steps = 0

    def restart(self) -> None:
        """Begin another series with φ = 0 active."""
        for chain in self.chains:
            chain.smoothed = None
        for rule in self.rules:
            rule.reset()
        self.forecast.restart()
        self.active[:] = 0
        self.chosen = None


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
        self._enough = need * (1 - EDGE_TOLERANCE)
        self._least = _LEAST * float(need.min())
        thresholds = np.round(np.log(costs.thresholds_ms / self._unit_ms), _DIGITS)
        logs = [np.round(np.log(np.maximum(series, self._least)), _DIGITS) for series in history]
        views = [fit_view(logs, thresholds, *view) for view in VIEWS]
        self._thresholds = views[0].thresholds
        self._first = self._thresholds.searchsorted(np.round(np.log(need), _DIGITS), "right")
        self._handicap = np.array([0.0] + [RULE_HANDICAP] * (variants + 1))
        self._now = _Path(
            [LearningChain(view, variants) for view in views],
            Forecast(self._thresholds, len(views)),
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
        now, budget = self._now, reading_ms / self._unit_ms
        log_budget = round(float(np.log(max(budget, self._least))), _DIGITS)
        if now.chosen is not None:
            self._score(budget)
            now.forecast.learn(log_budget)
        fall = int(self._thresholds.searchsorted(log_budget, "right"))
        for chain in now.chains:
            chain.observe(log_budget, fall)
        turn, rest = divmod(now.steps, REFRESH_STEPS // len(now.chains))
        if not rest:
            self._refresh(now.chains[turn % len(now.chains)])
        now.steps += 1
        reached = now.forecast.predict(log_budget, np.stack([c.reaches() for c in now.chains]))
        payoff = expected_reward(self._quality, reached[self._first - 1], self._objective)
        return self._choose(payoff - self._penalty, reading_ms, active)

    def reset(self) -> None:
        """Go back to what was learned from the history."""
        self._now = deepcopy(self._trained)

    def _score(self, budget: float) -> None:
        """Credit every path with what its last choice got from the budget that came."""
        now = self._now
        assert now.chosen is not None
        before, chosen = now.active, now.chosen
        on_time = self._enough[before, chosen] <= budget
        gained = np.where(on_time, self._quality[chosen], -self._objective.miss_cost)
        gained -= self._objective.switch_cost * (before != chosen)
        chains = len(now.chains)
        now.chain_score *= 2 ** (-1 / CHAIN_HALF_LIFE_STEPS)
        now.chain_score += gained[:chains]
        now.leader_score *= 2 ** (-1 / LEADER_HALF_LIFE_STEPS)
        now.leader_score += gained[chains:]
        now.active = chosen

    def _refresh_all(self) -> None:
        for chain in self._now.chains:
            self._refresh(chain)

    def _refresh(self, chain: LearningChain) -> None:
        chain.refresh(self._quality, self._first, self._objective, self._penalty)

    def _choose(self, payoff: Floats, reading_ms: float, active: int) -> int:
        """Let every path choose, given what is expected now (M, M), and return the leader's choice."""
        now = self._now
        chains = len(now.chains)
        worth = payoff + np.stack([c.ahead[c.state] for c in now.chains])[:, None, :]
        advantage = worth - worth.max(axis=2, keepdims=True)
        weight = np.exp((now.chain_score - now.chain_score.max()) / CHAIN_TEMPERATURE)
        committee = np.tensordot(weight / weight.sum(), advantage, 1)  # (M, M)

        now.active[chains + now.leader] = active
        own = now.active.tolist()
        chosen = [_best(advantage[k, m], m) for k, m in enumerate(own[:chains])]
        chosen.append(_best(committee[own[chains]], own[chains]))
        by_rule = [
            r.decide(reading_ms, m) for r, m in zip(now.rules, own[chains + 1 :], strict=True)
        ]
        now.chosen = np.array([*chosen, *by_rule])
        return self._follow(committee[active], [_best(committee[active], active), *by_rule], active)

    def _follow(self, advantage: Floats, choices: list[int], active: int) -> int:
        """Return the choice of whoever leads now, the leadership changing where that pays."""
        now = self._now
        assert now.chosen is not None
        lead = now.leader_score - self._handicap
        loss = advantage[choices[now.leader]] - advantage[choices]
        ahead = lead - lead[now.leader] - np.maximum(loss, 0.0)
        best = int(ahead.argmax())
        if ahead[best] > _TIE:
            now.leader = best
            now.active[len(now.chains) + best] = active
            now.chosen[len(now.chains) + best] = choices[best]
        return choices[now.leader]


def _best(row: Floats, active: int) -> int:
    """Return the best action of a row of worths; the active one where it is as good."""
    best = int(row.argmax())
    return active if row[active] >= row[best] - _TIE else best
