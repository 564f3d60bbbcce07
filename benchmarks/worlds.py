"""Worlds to draw traces from, each made of one real trace: a chain whose law is known, or its blocks.

A `World` moves as the chain of one `View` (the plain reading, or the reading with its trend) counted over all
rows of a trace, the prior of a learning policy mixed in; a state's budgets are those the trace showed in it.
Every threshold of every problem is an edge of the view, so what a choice gets depends on the next state
alone, and backward induction on the chain is the optimum: no causal policy expects more in that world.

`Blocks` keep the memory that a trace has: a draw follows the trace itself, and now and then goes on from
another row, one whose budget is among the nearest in rank (a matched-block bootstrap; Carlstein, Do, Hall,
Hesterberg & Künsch 1998). Their law cannot be written down; `law` is the chain counted over a very long draw.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adaphi.model_zoo.profile import Costs
from adaphi.policies import Objective, SwitchingMDP
from adaphi.policies.frame import at_least, expected_reward
from adaphi.policies.learning import PRIOR_STRENGTH
from adaphi.policies.view import View, fit_view

_LEAST_MS = 0.01  # less is as little as nothing, and has a logarithm
_POINTS = 9  # budgets that stand for a state in which the trace never was
_NEAREST = 0.01  # of all rows, on either side: those from which a draw may go on
_NEAREST_LEAST = 3
_LAW_ROWS = 40_000


class Source(Protocol):
    """Whatever traces are drawn from; `law` is the chain that a policy may know."""

    law: World

    def draw(self, rows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return (states of the law, budgets in ms), (rows,) each."""
        ...


@dataclass(frozen=True)
class World:
    """A chain `transition` (S, S) over the states of a view; `pools` are the budgets of each state, in ms."""

    view: View
    transition: np.ndarray
    pools: list[np.ndarray]

    @classmethod
    def fit(cls, budget_ms: np.ndarray, thresholds_ms: np.ndarray, trend: bool) -> World:
        """Return the world of a whole trace, `thresholds_ms` among its edges."""
        logs = _logs(budget_ms)
        view = fit_view([logs], np.round(np.log(thresholds_ms), 9), 1.0, trend)
        states = _states(view, logs)
        counts = np.zeros_like(view.moves)
        np.add.at(counts, (states[:-1], states[1:]), 1.0)
        mass = counts + PRIOR_STRENGTH * view.moves
        pools = [budget_ms[states == s] for s in range(view.states)]
        trends = view.states // (len(view.edges) + 1)
        bounds = np.exp([view.edges[0] - np.log(2), *view.edges, view.edges[-1] + np.log(1.5)])
        for state in (s for s, pool in enumerate(pools) if not len(pool)):
            low, high = bounds[state // trends :][:2]
            pools[state] = low + (high - low) * (np.arange(_POINTS) + 0.5) / _POINTS
        return cls(view, mass / mass.sum(axis=1, keepdims=True), pools)

    @property
    def law(self) -> World:
        """Return itself."""
        return self

    def draw(self, rows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return (states, budgets), (rows,) each, that move as the chain."""
        cumulated = self.transition.cumsum(axis=1).tolist()
        sizes = [len(pool) for pool in self.pools]
        state = int(random.choice(len(sizes), p=np.array(sizes) / sum(sizes)))
        states, budgets = np.empty(rows, np.int64), np.empty(rows)
        for row, (move, place) in enumerate(random.uniform(size=(rows, 2)).tolist()):
            states[row] = state
            budgets[row] = self.pools[state][int(place * sizes[state])]
            state = min(bisect_right(cumulated[state], move), len(sizes) - 1)
        return states, budgets

    def tables(self, costs: Costs, objective: Objective, steps: int) -> np.ndarray:
        """Return the action (steps, S, M) that is optimal with so many steps to go, by backward induction.

        Exact, for all thresholds of `costs` are edges.
        """
        bins = len(self.view.edges) + 1
        falls = self.transition.reshape(self.view.states, bins, -1).sum(axis=2)
        first = self.view.edges.searchsorted(np.round(np.log(costs.need_ms), 9), "right")
        reward = expected_reward(costs.quality, at_least(falls, first), objective)
        problem = SwitchingMDP(
            self.transition, reward, objective.switch_cost * (1 - np.eye(len(costs)))
        )
        actions = np.empty((steps, self.view.states, len(costs)), np.uint8)
        value = np.zeros(actions.shape[1:])
        for step in range(steps - 1, -1, -1):
            worth = problem.q(value)
            actions[step] = worth.argmax(axis=2)
            value = worth.max(axis=2)
        return actions


class Blocks:
    """Pieces of one trace, `block_steps` long on average, each begun near where the last one ended."""

    def __init__(self, budget_ms: np.ndarray, thresholds_ms: np.ndarray, block_steps: int) -> None:
        self._budget_ms = budget_ms
        self._order = np.argsort(budget_ms, kind="stable")
        self._rank = np.argsort(self._order)
        self._reach = max(_NEAREST_LEAST, round(_NEAREST * len(budget_ms)))
        self._ends = 1 / block_steps
        budgets = self._walk(_LAW_ROWS, np.random.default_rng(0))
        self.law = World.fit(budgets, thresholds_ms, trend=True)

    def draw(self, rows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return (states of the law, budgets), (rows,) each."""
        budgets = self._walk(rows, random)
        return _states(self.law.view, _logs(budgets)), budgets

    def _walk(self, rows: int, random: np.random.Generator) -> np.ndarray:
        last = len(self._rank) - 1
        ends = (random.uniform(size=rows) < self._ends).tolist()
        moves = random.integers(-self._reach, self._reach + 1, rows).tolist()
        here, path = int(random.integers(last + 1)), []
        for end, move in zip(ends, moves, strict=True):
            path.append(here)
            if end:
                here = int(self._order[min(max(self._rank[here] + move, 0), last)])
            here = here + 1 if here < last else 0
        return np.asarray(self._budget_ms[path])


def _states(view: View, logs: np.ndarray) -> np.ndarray:
    states, before = [], None
    for log_budget in logs.tolist():
        state, before = view.state(log_budget, before)
        states.append(state)
    return np.array(states)


def _logs(budget_ms: np.ndarray) -> np.ndarray:
    return np.round(np.log(np.maximum(budget_ms, _LEAST_MS)), 9)
