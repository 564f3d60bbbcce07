"""The refreshed table: several tables that keep learning, the best of them followed, the rules a floor.

**Members.** Each member is a table over one `View` of the past (three smoothings, with and without
trend) with one memory (transitions forgotten with a half-life of 300 or 2000 steps): twelve in all. A
member estimates

    P(i, j) = (n(i, j) + 5 ρ(i, j)) / (Σ_k n(i, k) + 5)

and likewise where budgets fall between the thresholds, and is solved anew every hundred steps, the
members taking turns. Its advantages A_k(m, a) ≤ 0 say what choosing a with m active loses against its best.

**Committee.** Had member k been followed since the start it would have scored S_k, forgotten with a
half-life of 400 steps; every member's path can be scored, because a budget that comes shows what each
choice would have got. The committee takes argmax_a Σ_k w_k A_k(m, a), w_k ∝ exp(S_k / 0.3): exponential
weights (Vovk 1990; Littlestone & Warmuth 1994) on advantages instead of votes.

**Floor.** The committee and the simple rules (every static variant, greedy, alert, and those it is given: the
table that was solved ahead, and the myopic rule on the same chain) have running scores of their own,
half-life 150 steps, and the leader is followed. A newcomer has to lead by more than half of what the
committee reckons changing to it costs now (the stall that makes an answer late above all): rent before you
buy, as in metrical task systems. Rules are handicapped by one unit, about one late answer.

Decisions are causal: a step uses readings up to itself. Time is in costs of φ = 0. docs/policy.md tells
what was tried, with the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Costs
from .differences import settle
from .frame import Objective, at_least, expected_reward
from .lookup import EDGE_TOLERANCE, Policy
from .rules import Alert, greedy, static
from .view import View, fit_view

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SMOOTHINGS = (1.0, 0.5, 0.25)
MEMORIES_STEPS = (300.0, 2000.0)
REFRESH_STEPS = 100
PRIOR_STRENGTH = 5.0
MEMBER_HALF_LIFE_STEPS = 400.0
MEMBER_TEMPERATURE = 0.3
LEADER_HALF_LIFE_STEPS = 150.0
RULE_HANDICAP = 1.0
RENT = 0.5
_LEAST = 1e-3  # of the smallest need: less than this is as little as nothing, and has a logarithm
_TIE = 1e-9
_SETTLED = 1e-6  # a refreshed member's differences are solved this far, in units of quality


class Member:
    """One table that learns: counts over the states of a view, and advantages (E, M, M) from them."""

    def __init__(self, view: View, memory_steps: float, variants: int) -> None:
        self.view = view
        self.moves = np.zeros_like(view.moves)
        self.falls = np.zeros_like(view.falls)
        self.advantage = np.zeros((view.states, variants, variants))
        self._d = np.zeros((view.states, variants))
        # One step's weight grows instead of all others' shrinking: the same ratios, O(1).
        self._growth = float(2 ** (1 / memory_steps))
        self._weight = 1.0

    def count(self, state: int, next_state: int, fall: int) -> None:
        """Take one step into account: the state went there, the budget fell there."""
        self._weight *= self._growth
        self.moves[state, next_state] += self._weight
        self.falls[state, fall] += self._weight

    def refresh(self, quality: Floats, first: Ints, objective: Objective, penalty: Floats) -> None:
        """Solve the table anew; `first` (M, M) is where the budgets begin that are enough."""
        self.moves /= self._weight
        self.falls /= self._weight
        self._weight = 1.0
        mass = self.moves.sum(axis=1, keepdims=True) + PRIOR_STRENGTH
        transition = (self.moves + PRIOR_STRENGTH * self.view.moves) / mass
        falls = (self.falls + PRIOR_STRENGTH * self.view.falls) / mass
        payoff = expected_reward(quality, at_least(falls, first), objective) - penalty
        gamma = 1.0 if objective.discount is None else objective.discount
        self._d, _ = settle(payoff, transition, gamma, self._d, _SETTLED, 500)
        worth = payoff + gamma * (transition @ self._d)[:, None, :]
        self.advantage = worth - worth.max(axis=2, keepdims=True)


class _Path:
    """Everything that changes from step to step."""

    def __init__(self, members: list[Member], views: int, followed: int) -> None:
        self.members = members
        self.smoothed: list[float | None] = [None] * views
        self.states: list[int] = []
        self.active = np.zeros(len(members) + followed, np.int64)
        self.chosen: Ints | None = None
        self.member_score = np.zeros(len(members))
        self.leader_score = np.zeros(followed)
        self.leader = 0
        self.steps = 0


class Committee:
    """A policy that learns while it runs, begun on `history`: series of budgets in costs of φ = 0.

    `more_rules` join the floor; they must be this committee's alone.
    """

    name = "refreshed"

    def __init__(
        self,
        costs: Costs,
        objective: Objective,
        history: Sequence[Floats],
        more_rules: Sequence[Policy] = (),
    ) -> None:
        self._unit_ms = float(costs.latency_ms[0])
        self._quality = costs.quality
        self._objective = objective
        variants = len(costs)
        self._penalty = objective.switch_cost * (1 - np.eye(variants))
        self._need = costs.need_ms / self._unit_ms
        self._enough = self._need * (1 - EDGE_TOLERANCE)
        self._least = _LEAST * float(self._need.min())
        thresholds = np.log(costs.thresholds_ms / self._unit_ms)
        logs = [np.log(np.maximum(budgets, self._least)) for budgets in history]
        self._views = [
            fit_view(logs, thresholds, smoothing, trend)
            for smoothing in SMOOTHINGS
            for trend in (False, True)
        ]
        self._thresholds = self._views[0].thresholds
        self._first = self._thresholds.searchsorted(np.log(self._need), "right")
        self._view_of = [v for v in range(len(self._views)) for _ in MEMORIES_STEPS]
        self._rules: list[Policy] = [
            *(static(costs, phi) for phi in range(variants)),
            greedy(costs),
            Alert(costs, objective),
            *more_rules,
        ]
        self._handicap = np.array([0.0] + [RULE_HANDICAP] * len(self._rules))
        members = [
            Member(self._views[v], memory, variants)
            for v, memory in zip(self._view_of, MEMORIES_STEPS * len(self._views), strict=True)
        ]
        self._now = _Path(members, len(self._views), len(self._handicap))
        for member in members:
            self._refresh(member)
        self._learn(history)
        for member in members:
            self._refresh(member)
        self._now.leader = int((self._now.leader_score - self._handicap).argmax())
        self._trained = deepcopy(self._now)

    def __repr__(self) -> str:
        return f"<Committee(members={len(self._view_of)}, steps={self._now.steps})>"

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading, after learning from the step that led to it."""
        now, budget = self._now, reading_ms / self._unit_ms
        log_budget = float(np.log(max(budget, self._least)))
        if now.chosen is not None:
            self._score(budget)
        self._observe(log_budget)
        if now.steps % (REFRESH_STEPS // len(now.members)) == 0:
            turn = now.steps // (REFRESH_STEPS // len(now.members))
            self._refresh(now.members[turn % len(now.members)])
        now.steps += 1
        return self._choose(reading_ms, active)

    def reset(self) -> None:
        """Go back to what was learned from the history."""
        self._now = deepcopy(self._trained)
        for rule in self._rules:
            rule.reset()

    def _learn(self, history: Sequence[Floats]) -> None:
        """Run over the history as if it came now; each series begins with φ = 0 active."""
        for budgets in history:
            active = 0
            for budget in (budgets * self._unit_ms).tolist():
                active = self.decide(budget, active)
            now = self._now
            now.smoothed, now.states, now.chosen = [None] * len(self._views), [], None
            now.active[:] = 0
            for rule in self._rules:
                rule.reset()

    def _score(self, budget: float) -> None:
        """Credit every path with what its last choice got from the budget that came."""
        now = self._now
        assert now.chosen is not None
        before, chosen = now.active, now.chosen
        on_time = self._enough[before, chosen] <= budget
        gained = np.where(on_time, self._quality[chosen], -self._objective.miss_cost)
        gained -= self._objective.switch_cost * (before != chosen)
        members = len(now.members)
        now.member_score *= 2 ** (-1 / MEMBER_HALF_LIFE_STEPS)
        now.member_score += gained[:members]
        now.leader_score *= 2 ** (-1 / LEADER_HALF_LIFE_STEPS)
        now.leader_score += gained[members:]
        now.active = chosen

    def _observe(self, log_budget: float) -> None:
        """Move every view to its next state, and count the step in each member."""
        now = self._now
        states = []
        for v, view in enumerate(self._views):
            state, now.smoothed[v] = view.state(log_budget, now.smoothed[v])
            states.append(state)
        if now.states:
            fall = int(self._thresholds.searchsorted(log_budget, "right"))
            for member, v in zip(now.members, self._view_of, strict=True):
                member.count(now.states[v], states[v], fall)
        now.states = states

    def _refresh(self, member: Member) -> None:
        member.refresh(self._quality, self._first, self._objective, self._penalty)

    def _choose(self, reading_ms: float, active: int) -> int:
        """Let every path choose, and return the leader's choice with `active` active."""
        now = self._now
        members = len(now.members)
        advantage = np.stack(
            [m.advantage[now.states[v]] for m, v in zip(now.members, self._view_of, strict=True)]
        )
        weight = np.exp((now.member_score - now.member_score.max()) / MEMBER_TEMPERATURE)
        committee = np.tensordot(weight / weight.sum(), advantage, 1)  # (M, M)

        chosen = np.empty_like(now.active)
        own = now.active[:members]
        rows = advantage[np.arange(members), own]
        stays = rows[np.arange(members), own] >= -_TIE
        chosen[:members] = np.where(stays, own, rows.argmax(axis=1))
        chosen[members] = _best(committee[now.active[members]], int(now.active[members]))
        own_by_rule = now.active[members + 1 :].tolist()
        by_rule = [
            rule.decide(reading_ms, m) for rule, m in zip(self._rules, own_by_rule, strict=True)
        ]
        chosen[members + 1 :] = by_rule
        now.chosen = chosen
        return self._follow(committee[active], [_best(committee[active], active), *by_rule])

    def _follow(self, advantage: Floats, choices: list[int]) -> int:
        """Return the choice of whoever leads now, the leadership changing where that pays."""
        now = self._now
        lead = now.leader_score - self._handicap
        loss = advantage[choices[now.leader]] - advantage[choices]
        ahead = lead - lead[now.leader] - RENT * np.maximum(loss, 0.0)
        best = int(ahead.argmax())
        if ahead[best] > _TIE:
            now.leader = best
        return choices[now.leader]


def _best(row: Floats, active: int) -> int:
    """Return the best action of a row of worths; the active one where it is as good."""
    best = int(row.argmax())
    return active if row[active] >= row[best] - _TIE else best
