"""The queue policy as an artefact: the optima of `QueueMDP` over levels of slow-down and arrival rate.

Each pair of levels is solved by itself: at each, the table is what a policy solved anew for that slow-down
and rate would be. While it runs the nearest slow-down is taken, and the next higher rate. A device on which φ
= 0 takes c times as long as where it was solved is, to this table, a device slowed down by c.

The file (`.npz`) holds `slowdowns` (K,), `rates_per_s` (J,), `decisions` (A, 2) as (φ, batch size), `table`
(K, J, N+1, S+1, M) of places in them (255: nothing waits, or the oldest is refused), `bounds` (K, J, 2) of
the reward a second, and the text of `artefact` with deadline, prices and fingerprints.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, PolicyError
from ..model_zoo.profile import Profile
from ..model_zoo.quantiles import quantile
from . import artefact
from .frame import Objective
from .queue import QueueCosts, QueueMDP, QueueSolution
from .queued import Queued, QueuePolicy

Floats = NDArray[np.float64]

SLOWDOWNS = (0.8, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.4, 3.0, 4.0)
"""The levels of slow-down: near enough that the next one decides much alike."""
OBJECTIVE = Objective(miss_cost=1.5, switch_cost=0.0)
"""Prices where requests queue: late answers so dear that few are late (docs/queue.md)."""
_RATE_STEP = 1.3  # from one level of the arrival rate to the next
_SATURATED = 1.5  # times what the quickest variant can serve: beyond, all rates decide alike
_NODES = 200  # run times by which a variant's distribution is told
_SETTLED = 1e-4  # how near the optimum is solved for, of the largest gain there can be
_NOTHING = 255
_PLAN = ("slowdowns", "rates_per_s", "decisions", "table", "bounds")


@dataclass(frozen=True)
class QueuePlan:
    """A solved queue policy and what it was solved for; see the module's docstring."""

    slowdowns: Floats
    rates_per_s: Floats
    decisions: NDArray[np.int64]
    table: NDArray[np.uint8]
    bounds: Floats
    deadline_ms: float
    growth: float
    miss_cost: float
    switch_cost: float
    quickest_ms: float
    """The typical run of φ = 0 on the device it was solved for."""
    latency: str
    ladder: str
    ladder_fingerprint: str
    profile_fingerprint: str

    @classmethod
    def solve(
        cls,
        profile: Profile,
        *,
        deadline_ms: float,
        rates_per_s: Sequence[float],
        slowdowns: Sequence[float] = SLOWDOWNS,
        batches: Sequence[int] = (1,),
        growth: float = 1.0,
        miss_cost: float = OBJECTIVE.miss_cost,
        switch_cost: float = OBJECTIVE.switch_cost,
        slack_bins: int = 100,
        latency: str = "p95",
    ) -> QueuePlan:
        """Return the plan for requests with `deadline_ms` each that arrive at any of `rates_per_s`.

        Raises `InputError` for a deadline or rates that are none, `ProfileError` as `Profile.costs`.
        """
        costs = queue_costs(profile, growth)
        quickest_ms = min(profile.typical_ms(latency))
        if not (np.isfinite(deadline_ms) and deadline_ms > 0):
            raise InputError(f"a queue needs a deadline above 0 ms, not {deadline_ms}")
        levels = rate_levels(rates_per_s, quickest_ms)
        factors = np.asarray(slowdowns, dtype=np.float64)
        # No more can wait in vain than the quickest variant could serve in time.
        most = int(np.clip(deadline_ms / (quickest_ms * factors.min()) + 2, max(batches) + 1, 32))
        mdps = (
            QueueMDP(
                costs, deadline_ms=deadline_ms, worlds=[[factor, rate]], max_waiting=most,
                slack_bins=slack_bins, batches=batches, miss_cost=miss_cost, switch_cost=switch_cost,
            )
            for factor in factors
            for rate in levels
        )  # fmt: skip
        solutions, decisions = _solve_each(mdps)
        shape = (len(factors), len(levels))
        table = np.stack([s.policy[0] for s in solutions]).astype(np.uint8)  # −1 becomes 255
        return cls(
            slowdowns=factors,
            rates_per_s=levels,
            decisions=np.array(decisions),
            table=table.reshape(*shape, *table.shape[1:]),
            bounds=np.array([s.bounds for s in solutions]).reshape(*shape, 2),
            deadline_ms=float(deadline_ms),
            growth=growth,
            miss_cost=miss_cost,
            switch_cost=switch_cost,
            quickest_ms=quickest_ms,
            latency=latency,
            ladder=profile.ladder,
            ladder_fingerprint=profile.ladder_fingerprint,
            profile_fingerprint=profile.fingerprint,
        )

    def bind(self, profile: Profile) -> QueueTable:
        """Return the policy for this device; raise `PolicyError` if the ladder is another one."""
        if profile.ladder_fingerprint != self.ladder_fingerprint:
            raise PolicyError(
                f"the policy is for ladder {self.ladder!r} ({self.ladder_fingerprint}), "
                f"the profile for {profile.ladder!r} ({profile.ladder_fingerprint})",
                help="solve a policy for this profile with `adaphi solve`",
            )
        return QueueTable(self, min(profile.typical_ms(self.latency)) / self.quickest_ms)

    def to_bytes(self) -> bytes:
        """Return the policy file's content."""
        meta: dict[str, Any] = dict(vars(self))
        arrays = {name: meta.pop(name) for name in _PLAN}
        return artefact.pack(arrays, {"kind": "queue", **meta})

    def save(self, path: str | Path) -> None:
        """Write the plan to `path`, whole or not at all."""
        artefact.write(path, self.to_bytes())

    @classmethod
    def from_parts(cls, arrays: artefact.Arrays, meta: dict[str, Any]) -> QueuePlan:
        """Return the plan of an unpacked file; raise `PolicyError` where parts do not fit together."""
        with artefact.whole():
            parts: dict[str, Any] = {name: arrays[name] for name in _PLAN}
            plan = cls(**parts, **{name: meta[name] for name in meta if name != "kind"})
            table, decisions = plan.table, plan.decisions
            fits = (
                table.dtype == np.uint8
                and table.ndim == 5
                and table.shape[:2] == (len(plan.slowdowns), len(plan.rates_per_s))
                and decisions.shape == (len(decisions), 2)
                and bool((table[table != _NOTHING] < len(decisions)).all())
                and bool(((decisions >= [0, 1]) & (decisions[:, :1] < table.shape[-1])).all())
                and all((np.diff(x) > 0).all() for x in (plan.slowdowns, plan.rates_per_s))
                and min(plan.deadline_ms, plan.quickest_ms, *plan.slowdowns) > 0
            )
        if not fits:
            raise PolicyError("the policy's arrays do not fit together")
        return plan


def _solve_each(
    mdps: Iterable[QueueMDP],
) -> tuple[list[QueueSolution], list[tuple[int, int]]]:
    """Return the solutions, each begun from its neighbour's value, and the decisions of them all."""
    solutions: list[QueueSolution] = []
    decisions: list[tuple[int, int]] = []
    for mdp in mdps:
        start = solutions[-1].value if solutions else None
        solutions.append(mdp.solve(_SETTLED, start=start))
        decisions = mdp.decisions
    return solutions, decisions


class QueueTable(QueuePolicy):
    """A plan that decides; `pace` is how much slower the device is than the one it was solved for."""

    def __init__(self, plan: QueuePlan, pace: float = 1.0) -> None:
        self.plan_solved = plan
        self._rates: list[float] = plan.rates_per_s.tolist()
        middles = np.sqrt(plan.slowdowns[:-1] * plan.slowdowns[1:]) / pace
        self._middles: list[float] = middles.tolist()
        self._bins = plan.table.shape[3] - 1
        self._per_ms = self._bins / plan.deadline_ms
        self._most = plan.table.shape[2] - 1
        self._table = plan.table
        self._decisions = [(int(phi), int(size)) for phi, size in plan.decisions]

    def __repr__(self) -> str:
        return (
            f"<QueueTable(deadline_ms={self.plan_solved.deadline_ms:g}, cells={self._table.size})>"
        )

    def plan(self, queued: Queued, active: int) -> tuple[int, int]:
        """Return (φ, batch size); what the table would refuse gets φ = 0 alone."""
        slack_ms, waiting, rate_per_s, slowdown = queued
        place = self._table[
            bisect_left(self._middles, slowdown),
            min(bisect_left(self._rates, rate_per_s), len(self._rates) - 1),
            min(waiting, self._most),
            int(min(max(slack_ms * self._per_ms + 1e-9, 0.0), self._bins)),
            active,
        ]
        return self._decisions[place] if place != _NOTHING else (0, 1)


def queue_costs(profile: Profile, growth: float = 1.0) -> QueueCosts:
    """Return what a queue's problem needs of a profile."""
    luck = (np.arange(_NODES) + 0.5) / _NODES
    return QueueCosts(
        run_ms=np.stack([quantile(v.latency_ms)(luck) for v in profile.variants]),
        stall_ms=np.array(profile.stall_ms, dtype=np.float64),
        quality=np.array([v.quality for v in profile.variants]),
        growth=growth,
    )


def rate_levels(rates_per_s: Sequence[float], quickest_ms: float) -> Floats:
    """Return levels, ascending, from half the lowest rate to twice the highest, or to where all is lost."""
    given = np.asarray(rates_per_s, dtype=np.float64)
    if not (len(given) and np.isfinite(given).all() and (given > 0).all()):
        raise InputError("arrival rates are numbers above 0, in requests a second")
    low = float(given.min()) / 2
    high = max(min(2 * float(given.max()), _SATURATED * 1e3 / quickest_ms), low)
    steps = max(1, int(np.ceil(np.log(high / low) / np.log(_RATE_STEP))))
    return np.asarray(np.unique(low * (high / low) ** (np.arange(steps + 1) / steps)))
