"""The refreshed table: the same policy, solved anew from what the device has seen lately.

The chain of the trained table is the start; transitions seen while running are counted with
exponential forgetting (half-life 1000 steps), and every 100 steps the table is solved again, which
takes about a millisecond. Decisions are causal: a step uses readings up to itself and no further.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

from ..model_zoo.profile import Profile
from .lookup import Lookup
from .table import TablePolicy, solve_table

HALF_LIFE_STEPS = 1000
REFRESH_STEPS = 100


class RefreshedTable:
    """A table policy that learns while it runs; raises `PolicyError` if the ladder does not fit."""

    name = "refreshed"

    def __init__(
        self,
        policy: TablePolicy,
        profile: Profile,
        *,
        half_life_steps: float = HALF_LIFE_STEPS,
        refresh_steps: int = REFRESH_STEPS,
    ) -> None:
        self._trained = policy.bind(profile)
        self._costs = profile.costs(policy.latency)
        self._objective = policy.objective
        self._start = policy.chain_ms(self._costs)
        self._edges: list[float] = self._trained.edges_ms.tolist()
        self._half_life_steps = half_life_steps
        self._refresh_steps = refresh_steps
        self._last: int | None = None
        self.reset()

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading, after counting the step that led to it."""
        now = bisect_right(self._edges, reading_ms)
        if self._last is not None:
            # One step's weight grows instead of all others' shrinking: the same ratios, O(1).
            self._weight *= 2 ** (1 / self._half_life_steps)
            self._counts[self._last, now] += self._weight
            self._steps += 1
            if self._steps % self._refresh_steps == 0:
                self._refresh()
        self._last = now
        return int(self._lookup.table[now, active])

    def reset(self) -> None:
        """Go back to the trained table."""
        self._lookup: Lookup = self._trained
        self._counts = self._start.counts.copy()
        mass = self._counts.sum()
        limit = 1.4427 * self._half_life_steps  # what endless counting with forgetting would hold
        if mass > limit:
            self._counts *= limit / mass
        self._weight = 1.0
        self._steps = 0
        self._last = None

    def _refresh(self) -> None:
        self._counts /= self._weight
        self._weight = 1.0
        chain = replace(self._start, counts=self._counts)
        table, _ = solve_table(self._costs, chain, self._objective)
        self._lookup = Lookup(self.name, self._start.edges, table)
