r"""What stays warm as part of the decision: which variant answers, and which are resident afterwards.

Where memory admits only some variants, a step decides two things: the variant a that answers, and the set K
that is kept: what of it is not resident is loaded in the background, what is resident and not in it is
evicted. The world shows a budget of time and one of memory (bytes), both one step old. Row by row:

1. With m active and the set R resident, the answer needs L_a + S_ma if a ∈ R (hot), else L_a + C_ma (it is
   loaded first); while K \ R \ {a} loads behind it, L_a counts `LOAD_SLOWDOWN` times.
2. Memory has to hold K ∪ {a}, and of more than one variant a plan asks for no more than is read. Where the
   memory that comes does not hold them, the largest besides a are dropped until it does; where a alone is
   too large, there is no answer, which counts as late.
3. It is on time if there is an answer and its need is at most the budget that comes; a is active, and what
   is left of K is resident.

**Why this is a switching problem.** Let x = (a, K), the last choice, play the part of the active variant.
What is left of K depends on x and on the memory that came, which is part of the world e. So with R(e, x) the
set that is left, r(e, x, x′) = r(e, a, R(e, x), x′) is an ordinary reward, and x′ follows x whatever the
world does: the problem of `mdp` with M 2^M "variants". Time and memory are taken to move independently,
P = P_time ⊗ P_memory (`operators`). Every need is an edge of the bins of time and the size of every set one
of those of memory, so all probabilities are sums of whole bins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import PolicyError
from ..model_zoo.profile import Costs, MemoryCosts, Profile, distinct
from .chain import Chain, default_chain, fit_chain
from .frame import Objective, at_least, expected_reward
from .lookup import EDGE_TOLERANCE, bins
from .mdp import SwitchingMDP
from .operators import Kronecker

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOAD_SLOWDOWN = 1.5
"""How much longer an answer is taken to need while another variant is loaded behind it."""
MOST_VARIANTS = 5
"""Beyond, the M 2^M choices make the problem too large; ladders are short."""
LOAD_COST = 1e-4
"""Price, in quality, of a load or an eviction: so that nothing is moved for next to nothing."""
_EXTRA_BINS = 12
_FORBIDDEN = 10.0  # times the range of all rewards: more than any future makes up for
_SETTLED = 1e-4  # how near the optimum is solved for, in units of quality


@dataclass(frozen=True)
class Residency:
    """The sets of a ladder, and what follows from choosing among them; sets are bit masks of φ.

    A state is m · 2^M + R, a choice a · 2^M + K: X = M 2^M of each.
    """

    costs: Costs
    memory: MemoryCosts

    def __post_init__(self) -> None:
        if len(self.costs) > MOST_VARIANTS:
            raise PolicyError(
                f"the ladder has {len(self.costs)} variants; resident sets are planned for "
                f"{MOST_VARIANTS} at most"
            )

    @property
    def sets(self) -> int:
        """Return 2^M."""
        return 1 << len(self.costs)

    @cached_property
    def members(self) -> list[frozenset[int]]:
        """Return the members of each set."""
        count = len(self.costs)
        return [frozenset(p for p in range(count) if s >> p & 1) for s in range(self.sets)]

    @cached_property
    def set_bytes(self) -> Ints:
        """Return (2^M,): the memory that each set takes."""
        return np.array([sum(self.memory.memory_bytes[p] for p in s) for s in self.members])

    @cached_property
    def levels_bytes(self) -> Ints:
        """Return the distinct sizes of sets, ascending from above 0: memory matters only up to them."""
        return np.unique(self.set_bytes)[1:]

    @cached_property
    def need_ms(self) -> Floats:
        """Return (X, X): what a choice needs in a state, hot or cold, with or without a load behind it."""
        count, sets = len(self.costs), self.sets
        m, r, a, k = np.ogrid[:count, :sets, :count, :sets]
        cold = (r >> a & 1) == 0
        behind = (k & ~r & ~(1 << a)) != 0
        stall = np.where(cold, self.memory.cold_stall_ms[m, a], self.costs.stall_ms[m, a])
        need = self.costs.latency_ms[a] * np.where(behind, LOAD_SLOWDOWN, 1.0) + stall
        return np.asarray(need.reshape(count * sets, count * sets))

    @cached_property
    def left(self) -> Ints:
        """Return (levels + 1, X): the set that is left of each choice at each level of memory."""
        capacities = [0, *self.levels_bytes.tolist()]
        choices = [(a, k) for a in range(len(self.costs)) for k in range(self.sets)]
        return np.array([[self._left(c, a, k) for a, k in choices] for c in capacities])

    def _left(self, capacity_bytes: int, answering: int, kept: int) -> int:
        """Return what is left of `kept`: the largest besides the one that answers go first."""
        held = kept | 1 << answering
        order = sorted(self.members[held] - {answering}, key=lambda p: -self.memory.memory_bytes[p])
        for phi in [*order, answering]:
            if self.set_bytes[held] <= capacity_bytes:
                break
            held &= ~(1 << phi)
        return held & kept

    @cached_property
    def changes(self) -> Ints:
        """Return (X, X): how many loads and evictions a choice makes in a state."""
        size = np.array([len(s) for s in self.members])
        answering = 1 << self.answering
        resident = (np.arange(len(answering)) % self.sets)[:, None]
        kept = resident.T
        return np.asarray(
            size[(kept | answering) & ~resident] + size[(resident | answering) & ~kept]
        )

    @cached_property
    def fits(self) -> NDArray[np.bool_]:
        """Return (levels + 1, X): whether a choice asks for no more than there is, or for one variant."""
        held = np.arange(len(self.answering)) % self.sets | 1 << self.answering
        alone = held & (held - 1) == 0
        needed = np.where(alone, 0, self.set_bytes[held])
        return np.asarray(needed <= np.concatenate([[0], self.levels_bytes])[:, None])

    @cached_property
    def answering(self) -> Ints:
        """Return (X,): the variant that answers in each choice, which is the active one in each state."""
        return np.repeat(np.arange(len(self.costs)), self.sets)

    def level(self, memory_bytes: Iterable[float]) -> Ints:
        """Return how many of `levels_bytes` each memory holds: the row of `left`."""
        return bins(self.levels_bytes, np.asarray(memory_bytes, dtype=np.float64))


class ResidentTable:
    """A solved plan: from time, memory, the active variant and the resident set to answer and set.

    `table` (E_time, E_memory, X) holds choices. The attributes `time_edges_ms` and `memory_edges_bytes` cut
    the readings.
    """

    name = "resident"

    def __init__(
        self, residency: Residency, time_edges_ms: Floats, memory_edges_bytes: Floats, table: Ints
    ) -> None:
        self.residency = residency
        self.time_edges_ms = time_edges_ms
        self.memory_edges_bytes = memory_edges_bytes
        self.table = table
        self._time = (time_edges_ms * (1 - EDGE_TOLERANCE)).tolist()
        self._memory = (memory_edges_bytes * (1 - EDGE_TOLERANCE)).tolist()
        self._rows: list[list[list[int]]] = table.tolist()
        self._need = residency.need_ms.tolist()

    def __repr__(self) -> str:
        return f"<ResidentTable(variants={len(self.residency.costs)}, cells={self.table.size})>"

    @classmethod
    def solve(
        cls,
        profile: Profile,
        *,
        memory: Sequence[Floats] = (),
        budgets: Sequence[Floats] = (),
        objective: Objective | None = None,
        latency: str = "p95",
    ) -> ResidentTable:
        """Return the optimal plan on the chains of `budgets` (ms) and of `memory` (bytes), 1-D series each.

        A constant limit is a memory of two equal rows. Without series the cautious default chains are used.
        Raises `ProfileError` where cold stalls or memory are unknown, `PolicyError` for too long a ladder,
        ValueError for unusable series.
        """
        residency = Residency(profile.costs(latency), profile.memory_costs())
        objective = objective or Objective()
        time = _chain(budgets, distinct(residency.need_ms))
        space = _chain(memory, residency.levels_bytes.astype(np.float64))
        table = _solve(residency, time, space, objective)
        return cls(residency, time.edges, space.edges, table)

    def plan(
        self, reading_ms: float, memory_bytes: float, active: int, resident: Iterable[int]
    ) -> tuple[int, frozenset[int]]:
        """Return (φ to answer with, set to be resident afterwards)."""
        sets = self.residency.sets
        state = active * sets + sum(1 << phi for phi in resident)
        row = self._rows[bisect_right(self._time, reading_ms)]
        answering, kept = divmod(row[bisect_right(self._memory, memory_bytes)][state], sets)
        return answering, self.residency.members[kept]

    def need_ms(self, active: int, resident: Iterable[int]) -> list[float]:
        """Return (M,): what each variant needs now, those that are not resident with their cold stall."""
        sets = self.residency.sets
        mask = sum(1 << phi for phi in resident)
        row = self._need[active * sets + mask]
        return [row[phi * sets + mask] for phi in range(len(self.residency.costs))]

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading with everything resident and memory for all."""
        everything = self.residency.members[-1]
        return self.plan(reading_ms, float(self.residency.set_bytes[-1]), active, everything)[0]

    def reset(self) -> None:
        """Do nothing: a table has no memory."""


def _chain(series: Sequence[Floats], thresholds: Floats) -> Chain:
    if len(series):
        return fit_chain(series, thresholds, extra_bins=_EXTRA_BINS)
    return default_chain(thresholds, extra_bins=_EXTRA_BINS)


def _solve(residency: Residency, time: Chain, space: Chain, objective: Objective) -> Ints:
    """Return the table (E_time, E_memory, X) of optimal choices."""
    reward = _reward(residency, time, space, objective)  # (E, state, choice)
    x = len(residency.answering)
    sets = residency.sets
    # Where the last choice was x and memory is now in bin e, the state is (a, what is left of K).
    low = np.concatenate([[0.0], space.edges])
    left = residency.left[residency.level(low)]  # (E_memory, X)
    state = np.tile(residency.answering * sets + left, (len(time.edges) + 1, 1))  # (E, X)
    payoff = np.take_along_axis(reward, state[:, :, None], axis=1)
    world = Kronecker([time.transition, space.transition])
    mdp = SwitchingMDP(world, payoff, np.zeros((x, x)), objective.discount)
    gamma = 1.0 if objective.discount is None else objective.discount
    worth = reward + gamma * (world @ mdp.solve(tol=_SETTLED).value)[:, None, :]
    best: Ints = worth.argmax(axis=2)
    return best.reshape(len(time.edges) + 1, len(space.edges) + 1, x)


def _reward(residency: Residency, time: Chain, space: Chain, objective: Objective) -> Floats:
    """Return (E, X, X): what a choice is expected to get in a state, memory varying fastest in E."""
    a, sizes = residency.answering, residency.memory.memory_bytes.astype(np.float64)
    x = len(a)
    enough = at_least(time.transition, time.bins(residency.need_ms))  # (E_time, X, X)
    fits = at_least(space.transition, space.bins(sizes))[:, a]  # (E_memory, X)
    on_time = enough[:, None] * fits[None, :, None, :]
    reward = expected_reward(residency.costs.quality[a], on_time, objective)
    reward -= objective.switch_cost * (a[:, None] != a[None, :])
    reward -= LOAD_COST * residency.changes
    excess = ~residency.fits[residency.level(np.concatenate([[0.0], space.edges]))]
    reward -= _FORBIDDEN * (1.0 + np.ptp(reward)) * excess[None, :, None, :]
    return reward.reshape(-1, x, x)
