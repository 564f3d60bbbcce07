r"""The certificate, watched: is what was promised still what happens?

On its chain a table's answer to reading e with m active and a chosen is late with probability
q = Pr[L_a + S_ma > B′ | e], and its next decision is a switch with a probability that follows from the same
row. Under the certificate each outcome y ∈ {0, 1} therefore pays a fair bet: against odds of y that are
θ times larger, q′ = θq / (1 − q + θq),

    ℓ(θ) = (q′/q)^y · ((1 − q′)/(1 − q))^(1−y),       E[ℓ | past] = 1.

For θ = 2, 5 and 20, and for lateness and switching each, M ← max(1, M) · ℓ is kept: a CUSUM, and an
*e-detector* (Shin, Ramdas & Rinaldo, 2023). The certificate counts as broken when the mean of all M reaches
`patience_steps`. Then, whatever the dependence between steps, a certificate that holds is called broken at
most once in `patience_steps` steps on average, and within n steps with probability at most
n / `patience_steps`: M never exceeds R ← (R + 1) ℓ, and R − n is a martingale. Probabilities are never taken
below a thousandth, which makes the test more patient, never less.

**After a break** the smallest variant answers. Every hundred steps a table is solved on what was read since,
and another hundred steps later it takes over if its own promise held meanwhile, on the path that it would
have taken, and for the answers that were really given.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Costs, Profile
from .chain import Chain, fit_chain
from .frame import on_time_probability
from .lookup import EDGE_TOLERANCE, Lookup
from .table import TablePolicy, solve_table

Floats = NDArray[np.float64]

ODDS = (2.0, 5.0, 20.0)
PATIENCE_STEPS = 100_000
REFIT_STEPS = 100
_LEAST = 1e-3
_MOST_READINGS = 4000


class Detector:
    """Bets against one promise: that y = 1 happens with the probabilities it is told, and no more often."""

    def __init__(self) -> None:
        self.evidence = [1.0] * len(ODDS)

    def observe(self, probability: float, happened: bool) -> None:
        """Take one outcome into account."""
        q = min(max(probability, _LEAST), 1 - _LEAST)
        for i, odds in enumerate(ODDS):
            other = odds * q / (1 - q + odds * q)
            factor = other / q if happened else (1 - other) / (1 - q)
            self.evidence[i] = max(1.0, self.evidence[i]) * factor


class Promise:
    """What a table promises step by step, and the bets against it; `edges` of `chain` in milliseconds."""

    def __init__(self, costs: Costs, chain: Chain, lookup: Lookup) -> None:
        self.lookup = lookup
        self.late = Detector()
        self.switches = Detector()
        table = lookup.table
        variants = table.shape[1]
        self._late: Floats = 1 - on_time_probability(costs, chain)  # (E, m, a)
        self._switch: Floats = np.stack(
            [chain.transition @ (table[:, a] != a) for a in range(variants)], axis=1
        )  # (E, a): the next decision leaves a
        self._edges = lookup.edges_ms
        self._expected: tuple[int, int, int] | None = None

    @property
    def evidence(self) -> float:
        """Return the mean of all bets: how many steps of patience it has used up."""
        every = [*self.late.evidence, *self.switches.evidence]
        return sum(every) / len(every)

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the table's choice, and bet on what it promised about making it."""
        e = int(self._edges.searchsorted(reading_ms, "right"))
        chosen = int(self.lookup.table[e, active])
        if self._expected is not None:
            before, _, previous = self._expected
            if previous == active:
                self.switches.observe(float(self._switch[before, active]), chosen != active)
        self._expected = (e, active, chosen)
        return chosen

    def observe(self, on_time: bool) -> None:
        """Bet on the outcome of the last decision."""
        if self._expected is not None:
            self.late.observe(float(self._late[self._expected]), not on_time)

    def observe_other(self, reading_ms: float, active: int, chosen: int, on_time: bool) -> None:
        """Bet on the outcome of a decision that was not the table's own."""
        e = int(self._edges.searchsorted(reading_ms, "right"))
        self.late.observe(float(self._late[e, active, chosen]), not on_time)


class WatchedTable:
    """A table policy that notices when its certificate no longer holds, and what to do then.

    Call `observe` with each outcome; without it, an outcome is taken from the next reading.
    `broken_since` is the number of the step at which the certificate broke, None while it holds;
    `breaks` counts how often. `chain` is what the promise is made on, in milliseconds. Raises `PolicyError`
    if the policy is for another ladder.
    """

    name = "watched table"

    def __init__(
        self, policy: TablePolicy, profile: Profile, *, patience_steps: float = PATIENCE_STEPS
    ) -> None:
        self._table = policy.bind(profile)
        self._costs = profile.costs(policy.latency)
        self.chain = policy.chain_ms(self._costs)
        self._objective = policy.objective
        self.patience_steps = patience_steps
        self._enough = (self._costs.need_ms * (1 - EDGE_TOLERANCE)).tolist()
        self.reset()

    def __repr__(self) -> str:
        return f"<WatchedTable({self.status})>"

    def reset(self) -> None:
        """Begin again with the certificate that the table came with."""
        self.promise = Promise(self._costs, self.chain, self._table)
        self.steps = 0
        self.breaks = 0
        self.broken_since: int | None = None
        self._last: tuple[int, int] | None = None
        self._told = False
        self._shadow: Promise | None = None
        self._shadow_last: tuple[int, int] | None = None
        self._read: deque[float] = deque(maxlen=_MOST_READINGS)

    @property
    def lookup(self) -> Lookup:
        """Return the table alone, unwatched."""
        return self.promise.lookup

    @property
    def status(self) -> str:
        """Return `holds`, or `broken since step N`."""
        return "holds" if self.broken_since is None else f"broken since step {self.broken_since}"

    def observe(self, on_time: bool) -> None:
        """Say how the last decision came out, as it was measured."""
        self._told = True
        if self.broken_since is None:
            self.promise.observe(on_time)
            self._check()
        elif self._shadow is not None and self._last is not None and self._read:
            # What is measured counts against the newcomer too: readings alone do not show that the
            # models themselves have become slower.
            self._shadow.observe_other(self._read[-1], *self._last, on_time)

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading: the table's, or 0 while the certificate is broken."""
        self.steps += 1
        if not self._told and self._last is not None:
            before, chosen = self._last
            if self.broken_since is None:
                self.promise.observe(self._enough[before][chosen] <= reading_ms)
                self._check()
        self._told = False
        if self.broken_since is None:
            chosen = self.promise.decide(reading_ms, active)
            self._check()
        if self.broken_since is not None:
            chosen = 0
            self._recover(reading_ms)
        self._last = (active, chosen)
        return chosen

    def _check(self) -> None:
        if self.promise.evidence >= self.patience_steps:
            self.broken_since = self.steps
            self.breaks += 1
            self._read.clear()
            self._shadow = self._shadow_last = None

    def _recover(self, reading_ms: float) -> None:
        """Learn from what is read, let a new table run in the shadow, and let it take over if it holds."""
        self._read.append(reading_ms)
        shadow = self._shadow
        if shadow is not None:
            active = 0
            if self._shadow_last is not None:
                before, active = self._shadow_last
                shadow.observe(self._enough[before][active] <= reading_ms)
            self._shadow_last = (active, shadow.decide(reading_ms, active))
        assert self.broken_since is not None
        since = self.steps - self.broken_since
        if since == 0 or since % REFIT_STEPS:
            return
        if shadow is not None and shadow.evidence < self.patience_steps**0.5:
            self.promise, self.broken_since = shadow, None
            return
        chain = fit_chain([np.array(self._read)], self._costs.thresholds_ms)
        table, _ = solve_table(self._costs, chain, self._objective)
        self._shadow = Promise(self._costs, chain, Lookup(self.name, chain.edges, table))
        self._shadow_last = None
