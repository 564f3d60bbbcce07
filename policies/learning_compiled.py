"""`Learning` with its steps compiled: what the arrays of `learning_kernels` are at first, and its calls."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from . import forecast
from .forecast import FREQUENCIES_STEPS, LEVELS, RESIDUALS
from .jit import hold
from .learning import PRIOR_STRENGTH, Task
from .learning_kernels import (
    PATTERNS,
    Chains,
    Followed,
    Mixing,
    Signs,
    State,
    decide,
    prepare,
    refresh,
)
from .rules import FIRST_VARIANCE

Floats = NDArray[np.float64]


class CompiledLearning:
    """`Learning` in compiled steps."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._state = begin(task)
        self._held = hold(self._state)
        self._d = [np.zeros((len(task.quality) - 1, view.states)) for view in task.views]
        self._leader = 0
        self._fresh = True

    def __deepcopy__(self, memo: dict[int, object]) -> CompiledLearning:
        """Return a copy that learns on its own; what never changes is shared."""
        other = CompiledLearning.__new__(CompiledLearning)
        other.__dict__ = dict(self.__dict__)
        other._state, other._d = deepcopy(self._state, memo), deepcopy(self._d, memo)
        other._held = hold(other._state)
        return other

    def restart(self) -> None:
        """Begin another series with φ = 0 active."""
        for path in (self._state.by_chain.choices, self._state.followed.choices):
            path[:] = 0
        self._state.signs.past[:] = 0
        self._state.alert[1] = FIRST_VARIANCE
        self._fresh = True

    def refresh(self, k: int) -> None:
        """Solve chain k anew."""
        task = self._task
        refresh(
            self._held, k, task.views[k].moves, self._d[k], task.first, task.quality,
            task.penalty, task.objective.miss_cost, task.gamma,
        )  # fmt: skip

    def prepare(self) -> None:
        """Do the part of the next decision that does not depend on its budget."""
        if not self._fresh:
            prepare(self._held)

    def decide(self, budget: float, log_budget: float, reading_ms: float, active: int) -> int:
        """Learn from the step that led to this budget (in costs of φ = 0) and return the leader's choice."""
        choice, self._leader = decide(
            self._held, budget, log_budget, active, self._leader, self._fresh
        )
        self._fresh = False
        return int(choice)


def begin(task: Task) -> State:
    """Return the state before anything was seen."""
    variants, rows, chains = len(task.need), len(task.thresholds), len(task.views)
    return State(
        terms=np.stack([part.astype(np.float64) for part in task.choices]),
        chains=_no_chains(task),
        signs=_no_signs(task.thresholds),
        mixing=_no_mixing(rows, forecast.OWN_SIGNS + chains),
        by_chain=Followed(np.zeros((2, chains), np.int64), np.zeros(chains)),
        followed=Followed(np.zeros((2, variants + 2), np.int64), np.zeros(variants + 2)),
        alert=np.array([0.0, FIRST_VARIANCE]),
    )


def _no_chains(task: Task) -> Chains:
    views, variants, rows = task.views, len(task.need), len(task.thresholds)
    states = max(view.states for view in views)
    edges = np.full((len(views), max(len(view.edges) for view in views)), np.inf)
    prior = np.zeros((len(views), states, rows + 1))
    for k, view in enumerate(views):
        edges[k, : len(view.edges)] = view.edges
        prior[k, : view.states] = PRIOR_STRENGTH * view.falls
    return Chains(
        views=np.array([[view.smoothing, view.near, view.trend] for view in views]),
        edges=edges,
        prior=prior,
        state=np.zeros(len(views), np.int64),
        now=np.tile([0.0, 1.0], (len(views), 1)),
        moves=np.zeros((len(views), states, states)),
        falls=np.zeros((len(views), states, rows + 1)),
        ahead=np.zeros((len(views), states, variants)),
    )


def _no_signs(thresholds: Floats) -> Signs:
    rows, windows = (
        len(thresholds),
        np.full((len(RESIDUALS), max(size for _, size in RESIDUALS)), np.inf),
    )
    known = np.zeros((rows, PATTERNS, 2))
    known[:, 0::2, 0], known[:, 1::2, 0] = 1 - forecast.BELIEF, forecast.BELIEF  # odd: after a yes
    return Signs(
        thresholds=thresholds.copy(),
        levels=np.tile([0.0, forecast.FIRST_VARIANCE], (len(LEVELS), 1)),
        base=np.zeros(len(RESIDUALS)),
        window=np.zeros((len(RESIDUALS), 2), np.int64),
        order=windows,
        ranked=windows.copy(),
        past=np.zeros((rows, 5), np.int64),
        known=known,
        yes=np.zeros((len(FREQUENCIES_STEPS), rows + 1)),
    )


def _no_mixing(rows: int, signs: int) -> Mixing:
    weights = np.full((rows, signs + 1), 1 / signs)
    weights[:, -1] = 0.0
    return Mixing(
        x=np.ones((rows, signs + 1)),
        weights=weights,
        towards=np.zeros((rows, signs + 1)),
        p=np.full(rows, 0.5),
        spread=np.tile(forecast.PRIOR_DEVIATION**2 * np.eye(signs + 1), (rows, 1, 1)),
        learned=np.zeros(1, np.int64),
    )
