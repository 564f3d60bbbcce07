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
tried, with the figures. The steps are in `learning`, and compiled in `learning_kernels`: the same decisions,
their probabilities alike to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Costs
from .frame import Objective
from .jit import COMPILED
from .learning import Learning, Task
from .learning_compiled import CompiledLearning
from .lookup import Policy
from .rules import Alert, static
from .view import DIGITS, fit_view

Floats = NDArray[np.float64]

VIEWS = ((1.0, False), (1.0, True), (0.5, True), (0.25, True))
"""Smoothing of the reading, and whether its trend is part of the state."""
REFRESH_STEPS = 100
_LEAST = 1e-3  # of the smallest need: less than this is as little as nothing, and has a logarithm


class Committee:
    """A policy that learns while it runs, begun on `history`: series of budgets in costs of φ = 0."""

    name = "refreshed"

    def __init__(
        self,
        costs: Costs,
        objective: Objective,
        history: Sequence[Floats],
        *,
        compiled: bool = COMPILED,
    ) -> None:
        self._unit_ms = float(costs.latency_ms[0])
        need = costs.need_ms / self._unit_ms
        self._least = _LEAST * float(need.min())
        thresholds = _rounded(np.log(costs.thresholds_ms / self._unit_ms))
        logs = [_rounded(np.log(np.maximum(series, self._least))) for series in history]
        views = [fit_view(logs, thresholds, *view) for view in VIEWS]
        first = views[0].thresholds.searchsorted(_rounded(np.log(need)), "right")
        rules: list[Policy] = [
            *(static(costs, phi) for phi in range(len(costs))),
            Alert(costs, objective),
        ]
        task = Task(costs.quality, objective, need, first, views, rules)
        self._steps = 0
        self._prepared = True
        self._learning = CompiledLearning(task) if compiled else Learning(task)
        self._refresh_all()
        for series in history:
            active = 0
            for budget in (series * self._unit_ms).tolist():
                active = self.decide(budget, active)
            self._learning.restart()
        self._refresh_all()
        self._trained = self._steps, self._prepared, deepcopy(self._learning)

    def __repr__(self) -> str:
        return f"<Committee(chains={len(VIEWS)}, steps={self._steps})>"

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading, after learning from the step that led to it."""
        self.prepare()
        self._prepared = False
        budget = reading_ms / self._unit_ms
        log_budget = round(math.log(max(budget, self._least)), DIGITS)
        return self._learning.decide(budget, log_budget, reading_ms, active)

    def prepare(self) -> None:
        """Do what the next decision needs and its reading does not change; `decide` does it if nobody did.

        Whoever has time between two decisions may call this: no decision depends on whether it was called.
        """
        if self._prepared:
            return
        self._prepared = True
        self._learning.prepare()
        turn, rest = divmod(self._steps, REFRESH_STEPS // len(VIEWS))
        if not rest:
            self._learning.refresh(turn % len(VIEWS))
        self._steps += 1

    def reset(self) -> None:
        """Go back to what was learned from the history."""
        self._steps, self._prepared, trained = self._trained
        self._learning = deepcopy(trained)

    def _refresh_all(self) -> None:
        for k in range(len(VIEWS)):
            self._learning.refresh(k)


def _rounded(logs: Floats) -> Floats:
    return np.asarray(np.round(logs, DIGITS), dtype=np.float64)
