"""Budgets that are given rather than sensed: pushed by an application, or played back from a trace."""

from __future__ import annotations

import math
from bisect import bisect_right

from ...errors import InvalidRequest, TraceError
from ...policies.trace import Trace
from .base import Sample


class PushedBudget:
    """What an application pushes by `Client.push_budget`; it expires after the time it was given for."""

    name = "pushed"
    every_s = 0.0

    def __init__(self) -> None:
        self._sample = Sample()
        self._until_s = -math.inf

    def probe(self) -> bool:
        """Say that this always works."""
        return True

    def push(
        self, now_s: float, budget_ms: float | None, max_phi: int | None, ttl_s: float
    ) -> None:
        """Hold a budget for `ttl_s` seconds; raise `InvalidRequest` for an impossible one."""
        if budget_ms is not None and not (math.isfinite(budget_ms) and budget_ms >= 0):
            raise InvalidRequest(f"budget_ms is {budget_ms}; expected a finite number ≥ 0")
        if max_phi is not None and max_phi < 0:
            raise InvalidRequest(f"max_phi is {max_phi}; expected a number ≥ 0")
        if not (math.isfinite(ttl_s) and ttl_s >= 0):
            raise InvalidRequest(f"ttl_s is {ttl_s}; expected a finite number ≥ 0")
        self._sample = Sample(budget_ms=budget_ms, max_phi=max_phi)
        self._until_s = now_s + ttl_s

    def read(self, now_s: float) -> Sample | None:
        """Return the pushed budget while it holds, and no opinion when it no longer does."""
        return self._sample if now_s < self._until_s else Sample()


class PlayedTrace:
    """A budget trace played back in real time, from its first row again when it ends.

    Raises `TraceError` for one without rows.
    """

    name = "trace"
    every_s = 0.0

    def __init__(self, trace: Trace) -> None:
        if not len(trace):
            raise TraceError(f"{trace.name}: there is no row to play")
        self._time_s: list[float] = (trace.time_s - trace.time_s[0]).tolist()
        self._budget_ms: list[float] = trace.budget_ms.tolist()
        step = self._time_s[-1] / max(1, len(trace) - 1)
        self._length_s = self._time_s[-1] + (step or 1.0)
        self._began_s: float | None = None

    def probe(self) -> bool:
        """Say that this always works."""
        return True

    def read(self, now_s: float) -> Sample | None:
        """Return the row that holds now."""
        if self._began_s is None:
            self._began_s = now_s
        elapsed = (now_s - self._began_s) % self._length_s
        row = bisect_right(self._time_s, elapsed) - 1
        return Sample(budget_ms=self._budget_ms[max(0, row)])
