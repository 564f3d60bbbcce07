"""Replaying what stays warm: plans and the usual rules over traces of time and memory, and the bound.

A trace has the columns `budget_ms` and `memory_bytes`. Row 0 is only a reading; φ = 0 is active and alone
resident at the start. At step t = 1 … T−1 a decider sees both columns of row t−1, the active variant and the
resident set, and chooses who answers and what is kept; the rules of `policies.resident` say what follows
from row t. A step scores quality if on time, else −miss_cost, minus switch_cost if another variant answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Profile
from ..policies.frame import Objective
from ..policies.lookup import EDGE_TOLERANCE, Policy
from ..policies.resident import Residency, ResidentTable
from ..policies.rules import greedy, static
from ..policies.table import TablePolicy
from ..policies.trace import Trace
from .scoring import figures, needed_column

Ints = NDArray[np.int64]
EVICTIONS = ("lru", "active", "smallest")
"""Who goes: the least recently used; all but the active; the least recently used, but never φ = 0."""


class _Options(TypedDict):
    objective: Objective | None
    latency: str


class Planner(Protocol):
    """Whatever decides who answers and what is kept."""

    name: str

    def plan(
        self, reading_ms: float, memory_bytes: float, active: int, resident: Iterable[int]
    ) -> tuple[int, frozenset[int]]:
        """Return (φ to answer with, set to be resident afterwards)."""
        ...

    def reset(self) -> None:
        """Forget everything seen since the start."""
        ...


@dataclass(frozen=True)
class ResidentReplay:
    """The outcome of one planner on one trace; `choices` (T−1,) are those of `Residency`."""

    planner: str
    choices: Ints
    mean_score: float
    on_time_share: float
    switch_share: float
    loads: int
    mean_quality: float

    def summary(self) -> dict[str, float | int | str]:
        """Return the figures alone."""
        return {
            "planner": self.planner,
            "steps": len(self.choices),
            "mean_score": self.mean_score,
            "on_time_share": self.on_time_share,
            "switch_share": self.switch_share,
            "loads": self.loads,
            "mean_quality": self.mean_quality,
        }


class OnDemand:
    """A pool as most servers keep one: a policy says what is wanted, an eviction rule makes room for it.

    `evict` is one of `EVICTIONS`. The policy's choice is lowered to what memory admits at all. What is wanted
    and not resident is loaded before it answers, or, with `behind`, in the background while the largest
    resident variant below it answers (the smallest, if there is none below).
    """

    def __init__(
        self, residency: Residency, policy: Policy, evict: str = "lru", *, behind: bool = False
    ) -> None:
        if evict not in EVICTIONS:
            raise ValueError(f"evict is {evict!r}; expected one of {', '.join(EVICTIONS)}")
        self.name = f"{evict}, {'behind' if behind else 'on demand'}, {policy.name}"
        self._residency = residency
        self._bytes: list[int] = residency.memory.memory_bytes.tolist()
        self._policy = policy
        self._evict = evict
        self._behind = behind
        self._used: list[int] = []  # the most recently used last

    def plan(
        self, reading_ms: float, memory_bytes: float, active: int, resident: Iterable[int]
    ) -> tuple[int, frozenset[int]]:
        """Return (φ to answer with, set to be resident afterwards)."""
        resident = set(resident)
        wanted = self._policy.decide(reading_ms, active)
        pinned = self._bytes[0] if self._evict == "smallest" else 0
        while wanted > 0 and self._bytes[wanted] + pinned > memory_bytes:
            wanted -= 1
        answering = wanted
        if self._behind and wanted not in resident and resident:
            below = [phi for phi in resident if phi < wanted]
            answering = max(below) if below else min(resident)
        self._used = [p for p in self._used if p not in (wanted, answering)] + [answering, wanted]
        kept = {wanted} if self._evict == "active" else resident | {wanted}
        if self._evict == "smallest":
            kept.add(0)
        return answering, frozenset(self._make_room(kept, wanted, memory_bytes))

    def reset(self) -> None:
        """Forget what was used."""
        self._used = []
        self._policy.reset()

    def _make_room(self, kept: set[int], wanted: int, memory_bytes: float) -> set[int]:
        spared = {wanted, 0} if self._evict == "smallest" else {wanted}
        for phi in self._used:
            if sum(self._bytes[p] for p in kept) <= memory_bytes:
                break
            kept -= {phi} - spared
        return kept


def compare_resident(
    train: Sequence[Trace],
    test: Trace,
    profile: Profile,
    *,
    objective: Objective | None = None,
    latency: str = "p95",
) -> list[ResidentReplay]:
    """Return the plan solved on `train`, every rule of `OnDemand`, and the clairvoyant, on `test`.

    The rules are the three evictions, on demand and behind, for each of these policies: every static φ,
    greedy, and the frame-loop table solved on the same traces. Raises `TraceError`.
    """
    costs = profile.costs(latency)
    residency = Residency(costs, profile.memory_costs())
    budgets = [trace.budget_ms for trace in train]
    options: _Options = {"objective": objective, "latency": latency}
    table = TablePolicy.solve(profile, budgets, **options).bind(profile)
    policies = [*(static(costs, phi) for phi in range(len(costs))), greedy(costs), table]
    planners: list[Planner] = [
        ResidentTable.solve(profile, budgets=budgets, memory=[*map(_memory, train)], **options),
        *(
            OnDemand(residency, policy, evict, behind=behind)
            for evict, behind, policy in product(EVICTIONS, (False, True), policies)
        ),
    ]
    outcomes = [replay_resident(test, profile, planner, **options) for planner in planners]
    return [*outcomes, clairvoyant_resident(test, profile, **options)]


def replay_resident(
    trace: Trace,
    profile: Profile,
    planner: Planner,
    *,
    objective: Objective | None = None,
    latency: str = "p95",
) -> ResidentReplay:
    """Return the outcome of `planner` over a trace with a column `memory_bytes`; raise `TraceError`."""
    residency = Residency(profile.costs(latency), profile.memory_costs())
    memory = _memory(trace)
    planner.reset()
    sets, members = residency.sets, residency.members
    left = residency.left[residency.level(memory)].tolist()
    active, resident = 0, 1
    states, choices = [], []
    readings = zip(trace.budget_ms[:-1].tolist(), memory[:-1].tolist(), strict=True)
    for t, (budget, space) in enumerate(readings):
        answering, kept = planner.plan(budget, space, active, members[resident])
        states.append(active * sets + resident)
        choices.append(answering * sets + sum(1 << phi for phi in kept))
        active, resident = answering, left[t + 1][choices[-1]]
    return _score(trace, residency, objective or Objective(), states, choices, planner.name)


def clairvoyant_resident(
    trace: Trace, profile: Profile, *, objective: Objective | None = None, latency: str = "p95"
) -> ResidentReplay:
    """Return the best that any planner could have scored, the whole trace known (backward DP)."""
    residency = Residency(profile.costs(latency), profile.memory_costs())
    objective = objective or Objective()
    memory = _memory(trace)
    levels = residency.level(memory)
    # What a step pays and where it leads depends on two ranks only, so each pair is worked out once.
    enough = np.unique(residency.need_ms * (1 - EDGE_TOLERANCE))
    ranks = np.searchsorted(enough, trace.budget_ms, "right")
    x, a, sets = len(residency.answering), residency.answering, residency.sets
    pays: dict[tuple[int, int], NDArray[np.float64]] = {}
    value, best = np.zeros(x), np.empty((len(trace), x), np.int64)
    for t in range(len(trace) - 1, 0, -1):
        key = int(ranks[t]), int(levels[t])
        if key not in pays:
            pays[key] = _pays(residency, objective, trace.budget_ms[t], memory[t])
        worth = pays[key] + value[a * sets + residency.left[levels[t]]]
        best[t] = worth.argmax(axis=1)
        value = np.take_along_axis(worth, best[t][:, None], axis=1)[:, 0]
    state, states, choices = 1, [], []
    for t in range(1, len(trace)):
        states.append(state)
        choices.append(int(best[t, state]))
        state = int(a[choices[-1]] * sets + residency.left[levels[t], choices[-1]])
    return _score(trace, residency, objective, states, choices, "clairvoyant")


def _pays(
    residency: Residency, objective: Objective, budget_ms: float, memory_bytes: float
) -> NDArray[np.float64]:
    """Return (X, X): what a choice scores in a state when this row comes."""
    a = residency.answering
    on_time = residency.need_ms * (1 - EDGE_TOLERANCE) <= budget_ms
    on_time = on_time & (residency.memory.memory_bytes[a] <= memory_bytes)
    score = np.where(on_time, residency.costs.quality[a], -objective.miss_cost)
    return np.asarray(score - objective.switch_cost * (a[:, None] != a[None, :]))


def _score(
    trace: Trace,
    residency: Residency,
    objective: Objective,
    in_states: list[int],
    chosen: list[int],
    name: str,
) -> ResidentReplay:
    memory, states, choices = _memory(trace), np.array(in_states), np.array(chosen)
    a, steps = residency.answering[choices], len(choices)
    on_time = residency.need_ms[states, choices] * (1 - EDGE_TOLERANCE) <= trace.budget_ms[1:]
    on_time &= residency.memory.memory_bytes[a] <= memory[1:]
    switched = a != residency.answering[states]
    in_time, quality = int(on_time.sum()), float(residency.costs.quality[a] @ on_time)
    resident, kept = states % residency.sets, choices % residency.sets | 1 << a
    loads = sum(len(residency.members[s]) for s in (kept & ~resident).tolist())
    return ResidentReplay(
        planner=name,
        choices=choices,
        **figures(objective, steps, in_time, int(switched.sum()), quality)._asdict(),
        loads=loads,
    )


def _memory(trace: Trace) -> NDArray[np.float64]:
    return needed_column(trace, "memory_bytes", "add the memory that variants may take, row by row")
