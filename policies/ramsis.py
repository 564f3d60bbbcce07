"""The rule `ramsis`: planning over queue and slack alone; after RAMSIS (EuroSys 2024), from its description.

A state is (queue length 1 … N, slack of the oldest in `SLACK_BINS` of the deadline), and one overflow state
beyond N. A decision is a variant, with which the whole queue is served as one batch; only variants whose
latency at that batch fits the slack may be chosen, where none does the fastest. It pays the variant's
quality, times the share of the queue that is served, if it fits, else 0. What comes meanwhile is Poisson;
undiscounted value iteration, 100 sweeps. One policy for each load; while it runs, that of the smallest load
not below the rate of the last half second. It knows no slow-down and no cost of switching.

Own choices, where the description leaves them open: a run takes its planned latency; slack counts from its
bin's lower edge; loads are those that half a second can count, each solved when it is first met.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..model_zoo.profile import Costs
from .queue import poisson
from .queued import Queued, QueuePolicy

Floats = NDArray[np.float64]

MOST_WAITING = 32
SLACK_BINS = 100
_SWEEPS = 100


class Ramsis(QueuePolicy):
    """The rule for requests with `deadline_ms` each; a batch of b takes 1 + `growth` (b − 1) times as
    long."""

    window_s = 0.5

    def __init__(self, costs: Costs, deadline_ms: float, growth: float = 1.0) -> None:
        if not (math.isfinite(deadline_ms) and deadline_ms > 0 and 0 <= growth <= 1):
            raise InputError(
                f"ramsis:{deadline_ms:g},{growth:g}: a deadline above 0 (ms), and a growth in [0, 1]"
            )
        self.name = f"ramsis:{deadline_ms:g}" + (f",{growth:g}" if growth < 1 else "")
        size = np.arange(1, MOST_WAITING + 1)
        self._latency = np.outer(costs.latency_ms, 1 + growth * (size - 1)) / deadline_ms  # (M, N)
        self._quality = costs.quality
        self._deadline_ms = deadline_ms
        self._top_load = math.ceil(1.5 / (self._latency.min() * deadline_ms / 1e3) * self.window_s)
        self._tables: dict[int, list[list[int]]] = {}

    def plan(self, queued: Queued, active: int) -> tuple[int, int]:
        """Return (φ, the whole queue)."""
        load = min(max(1, math.ceil(queued.rate_per_s * self.window_s - 1e-9)), self._top_load)
        if load not in self._tables:
            self._tables[load] = self.solve(load / self.window_s).tolist()
        waiting = min(queued.waiting, MOST_WAITING)
        slack = int(min(max(queued.slack_ms / self._deadline_ms, 0.0), 1.0) * SLACK_BINS + 1e-9)
        return self._tables[load][waiting - 1][slack], waiting

    def solve(self, rate_per_s: float) -> NDArray[np.int64]:
        """Return (N, S+1): the variant for each queue and slack at one load."""
        slack = np.arange(SLACK_BINS + 1) / SLACK_BINS
        fits = self._latency[:, :, None] <= slack * (1 + 1e-12)  # (M, N, S+1)
        reward = np.where(fits, self._quality[:, None, None], 0.0)
        fastest = int(self._latency[:, 0].argmin())
        allowed = fits.copy()
        allowed[fastest] |= ~fits.any(axis=0)
        moves, overflow = self._moves(rate_per_s)
        value, lost = np.zeros(reward.shape[1:]), 0.0
        for _ in range(_SWEEPS):
            next_value = np.tensordot(moves, value, 2) + overflow * lost  # (M, N)
            worth = np.where(allowed, reward + next_value[:, :, None], -np.inf)
            value, lost = worth.max(axis=0), float(next_value[fastest, -1])
        return np.asarray(worth.argmax(axis=0))

    def _moves(self, rate_per_s: float) -> tuple[Floats, Floats]:
        """Return (M, N, N, S+1), the chances of queue and slack after a run, and (M, N) of overflow."""
        takes = self._latency
        came = poisson(takes * rate_per_s * self._deadline_ms / 1e3, MOST_WAITING)
        moves = np.zeros((*takes.shape, MOST_WAITING, SLACK_BINS + 1))
        # Of k who came in a time d the first came before t with chance 1 − (1 − t/d)^k.
        edges = np.arange(SLACK_BINS + 1) / SLACK_BINS
        passed = np.clip((edges - (1 - takes[..., None])) / takes[..., None], 0.0, 1.0)
        for k in range(1, MOST_WAITING + 1):
            below = 1 - (1 - passed) ** k
            below[..., 0] = 0.0  # no slack left is the lowest bin
            chance = np.diff(below, axis=-1, append=1.0)
            moves[:, :, k - 1] = came[..., k, None] * chance
        moves[:, :, 0, -1] += came[..., 0]  # nobody: the next finds the worker idle
        return moves, 1 - moves.sum(axis=(2, 3))
