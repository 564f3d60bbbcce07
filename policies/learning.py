"""What a committee learns and remembers: the readable form, over lists and small arrays.

`learning_kernels` is the same over arrays, compiled; tests hold it to this one. Ladders are short, so a
step's sums are over lists: arrays of three would take four times as long.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .differences import settle
from .forecast import Forecast
from .frame import Objective, at_least, expected_reward
from .lookup import EDGE_TOLERANCE, Policy
from .view import View

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MEMORY_STEPS = 2000
PRIOR_STRENGTH = 5.0
CHAIN_HALF_LIFE_STEPS = 400
CHAIN_TEMPERATURE = 0.3
LEADER_HALF_LIFE_STEPS = 150
RULE_HANDICAP = 2.0
GROWTH = math.exp2(1 / MEMORY_STEPS)
TIE = 1e-9
SETTLED = 1e-6  # a refreshed chain's differences are solved this far, in units of quality
SETTLING_STEPS = 500


@dataclass(frozen=True)
class Task:
    """What is decided, in costs of φ = 0: M variants, J thresholds of the next budget, K views of the past.

    `quality` (M,); `need` (M, M) for row m active and column a chosen; `first` (M, M), where the falls begin
    that are enough; `rules` are those that the committee competes with.
    """

    quality: Floats
    objective: Objective
    need: Floats
    first: Ints
    views: Sequence[View]
    rules: Sequence[Policy]

    @property
    def thresholds(self) -> Floats:
        """Return the logarithms of the budgets that decide about being on time, (J,)."""
        return self.views[0].thresholds

    @property
    def gamma(self) -> float:
        """Return the discount of a step, 1 for the average."""
        return 1.0 if self.objective.discount is None else self.objective.discount

    @cached_property
    def penalty(self) -> Floats:
        """Return the price of choosing a with m active, (M, M)."""
        return np.asarray(self.objective.switch_cost * (1 - np.eye(len(self.quality))))

    @cached_property
    def choices(self) -> tuple[Floats, Ints, Floats, Floats]:
        """Return need, the threshold's place, gain on time and gain when late of (m, a): four (M, M)."""
        on_time, late = self.quality - self.penalty, -self.objective.miss_cost - self.penalty
        return self.need * (1 - EDGE_TOLERANCE), self.first - 1, on_time, late

    def refresh(self, view: View, moves: Floats, falls: Floats, d: Floats) -> tuple[Floats, Floats]:
        """Solve a chain anew from its counts, moves (E, E) and falls (E, J + 1), begun from its last d.

        Returns d (E, M), and c (E, M): what each variant is worth afterwards.
        """
        mass = moves.sum(axis=1, keepdims=True) + PRIOR_STRENGTH
        transition = (moves + PRIOR_STRENGTH * view.moves) / mass
        on_time = at_least((falls + PRIOR_STRENGTH * view.falls) / mass, self.first)
        payoff = expected_reward(self.quality, on_time, self.objective) - self.penalty
        d, _ = settle(payoff, transition, self.gamma, d, SETTLED, SETTLING_STEPS)
        return d, np.asarray(self.gamma * (transition @ d))


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
            self._weight *= GROWTH
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

    def refresh(self, task: Task) -> None:
        """Solve the chain anew."""
        counts = np.array(self._falls) / self._weight
        self._moves /= self._weight
        self._falls = counts.tolist()
        self._weight = 1.0
        self._d, ahead = task.refresh(self._view, self._moves, counts, self._d)
        self._ahead = ahead.tolist()


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


class Learning:
    """Everything that changes from step to step; of the followed paths the first is the committee's."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._rules = deepcopy(task.rules)
        self._thresholds: list[float] = task.thresholds.tolist()
        # Rows of lists of what `Task.choices` says of each (m, a).
        columns = zip(*(part.tolist() for part in task.choices), strict=True)
        self._choices = [list(zip(*row, strict=True)) for row in columns]
        self._chains = [LearningChain(view, len(task.quality)) for view in task.views]
        self._forecast = Forecast(task.thresholds, len(task.views))
        self._by_chain = Paths(len(self._chains), CHAIN_HALF_LIFE_STEPS)
        self._followed = Paths(1 + len(self._rules), LEADER_HALF_LIFE_STEPS)
        self._leader = 0
        self._fresh = True

    def __deepcopy__(self, memo: dict[int, object]) -> Learning:
        """Return a copy that learns on its own; what never changes is shared."""
        other = Learning.__new__(Learning)
        memo[id(self._task)] = self._task
        other.__dict__ = {name: deepcopy(value, memo) for name, value in self.__dict__.items()}
        return other

    def restart(self) -> None:
        """Begin another series with φ = 0 active."""
        for chain in self._chains:
            chain.smoothed = None
        for rule in self._rules:
            rule.reset()
        self._forecast.restart()
        for paths in (self._by_chain, self._followed):
            paths.active = [0] * len(paths.active)
        self._fresh = True

    def refresh(self, k: int) -> None:
        """Solve chain k anew."""
        self._chains[k].refresh(self._task)

    def prepare(self) -> None:
        """Do the part of the next decision that does not depend on its budget; it would be done there."""
        self._forecast.prepare()

    def decide(self, budget: float, log_budget: float, reading_ms: float, active: int) -> int:
        """Learn from the step that led to this budget (in costs of φ = 0) and return the leader's choice."""
        if not self._fresh:
            gain = [
                [on_time if need <= budget else late for need, _, on_time, late in row]
                for row in self._choices
            ]
            self._by_chain.credit(gain)
            self._followed.credit(gain)
            self._forecast.learn(log_budget)
        self._fresh = False
        fall = bisect_right(self._thresholds, log_budget)
        for chain in self._chains:
            chain.observe(log_budget, fall)
        reach = self._forecast.predict(log_budget, [chain.reaches() for chain in self._chains])
        payoff = [
            [late + reach[place] * (on_time - late) for _, place, on_time, late in row]
            for row in self._choices
        ]
        return self._choose(payoff, reading_ms, active)

    def _choose(self, payoff: list[list[float]], reading_ms: float, active: int) -> int:
        """Let every path choose, given what is expected now (M, M), and return the leader's choice."""
        followed = self._followed
        followed.active[self._leader] = active
        own, *others = followed.active
        committee = self._committee(payoff, {active, own})
        choices = [_best(committee[active], active)]
        choices += [r.decide(reading_ms, m) for r, m in zip(self._rules, others, strict=True)]
        followed.chosen = [_best(committee[own], own), *choices[1:]]
        self._leader = self._lead(committee[active], choices)
        return choices[self._leader]

    def _committee(self, payoff: list[list[float]], actives: set[int]) -> dict[int, list[float]]:
        """Return the weighted advantages (M,) with each of `actives`; every chain's own path chooses."""
        paths = self._by_chain
        top = max(paths.score)
        weights = [math.exp((score - top) / CHAIN_TEMPERATURE) for score in paths.score]
        whole = sum(weights)
        sums = {m: [0.0] * len(payoff) for m in actives}
        paths.chosen = []
        for chain, weight, own in zip(self._chains, weights, paths.active, strict=True):
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
        score, leader = self._followed.score, self._leader
        lead = [score[0], *(s - RULE_HANDICAP for s in score[1:])]
        best, most = leader, TIE
        for newcomer, choice in enumerate(choices):
            loss = max(advantage[choices[leader]] - advantage[choice], 0.0)
            ahead = lead[newcomer] - lead[leader] - loss
            if ahead > most:
                best, most = newcomer, ahead
        return best


def _best(worth: list[float], active: int) -> int:
    """Return the best action; the active one where it is as good."""
    most = max(worth)
    return active if worth[active] >= most - TIE else worth.index(most)
