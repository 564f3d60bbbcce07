"""All sensors together: what may be spent now. Read on a timer, so that a request pays nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..model_zoo.profile import Profile
from .scheduler import Limits
from .sensors import CpuSensor, Sample, Sensor

log = logging.getLogger("adaphi")

MEMORY_RESERVE_BYTES = 64 << 20
"""Available memory below which only φ = 0 is admitted."""
MEMORY_PRESSURE_LIMIT = 0.2
"""Share of time waiting for memory above which only φ = 0 is admitted."""


@dataclass
class BudgetMonitor:
    """Combines sensors into `Limits`: the least time, the lowest cap, the largest slow-down.

    `samples` and `read_s` hold the last sample of each sensor and when it was taken. A sensor that stops
    answering keeps its last sample for `stale_s` seconds; then it is in `lost`, and until it answers again
    only φ = 0 is admitted and nothing more is loaded. One that never answered has no part in anything.
    `memory_limit_bytes` is what variants may take together however much memory there is.
    """

    sensors: Sequence[Sensor]
    profile: Profile
    memory_limit_bytes: float | None = None
    stale_s: float = 2.0
    samples: dict[str, Sample] = field(default_factory=dict)
    read_s: dict[str, float] = field(default_factory=dict)
    up: dict[str, bool] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    _asked_s: dict[str, float] = field(default_factory=dict)
    _sensed: Limits | None = None  # what the samples say; None: to be worked out anew

    def update(self, now_s: float, *, own_tasks: int = 1) -> None:
        """Read every sensor whose time has come; `own_tasks` of the runnable tasks are the daemon's own."""
        self._sensed = None
        for sensor in self.sensors:
            name = sensor.name
            if now_s < self._asked_s.get(name, -1e9) + sensor.every_s:
                continue
            self._asked_s[name] = now_s
            if isinstance(sensor, CpuSensor):
                sensor.own_tasks = own_tasks
            sample = self._read(sensor, now_s)
            self.up[name] = sample is not None
            if sample is not None:
                self.samples[name], self.read_s[name] = sample, now_s
        self.lost = frozenset(
            name
            for name, read_s in self.read_s.items()
            if not self.up[name] and now_s - read_s > self.stale_s
        )

    def _read(self, sensor: Sensor, now_s: float) -> Sample | None:
        """Return what a sensor says; one that raises has a bug, and counts as down: nobody else has to."""
        try:
            return sensor.read(now_s)
        except Exception:
            if self.up.get(sensor.name, True):  # once, not at each reading
                log.exception("the budget source %r failed", sensor.name)
            return None

    def limits(self, resident: frozenset[int]) -> Limits:
        """Return what the sensors say may be spent; `resident` variants need no further memory."""
        if self._sensed is None or self._sensed.resident != resident:
            self._sensed = self._work_out(resident)
        return self._sensed

    def _work_out(self, resident: frozenset[int]) -> Limits:
        seen = [sample for name, sample in self.samples.items() if name not in self.lost]
        budgets = [s.budget_ms for s in seen if s.budget_ms is not None]
        slowdowns = [s.slowdown for s in seen if s.slowdown is not None]
        return Limits(
            budget_ms=min(budgets, default=None),
            max_phi=min(self._caps(seen, resident), default=None),
            slowdown=max(slowdowns, default=0.0),
            memory_bytes=self._memory_for_variants(resident),
            resident=resident,
            energy_j=min((s.energy_j for s in seen if s.energy_j is not None), default=None),
        )

    def _caps(self, seen: Sequence[Sample], resident: frozenset[int]) -> list[int]:
        largest = len(self.profile.variants) - 1
        caps = [s.max_phi for s in seen if s.max_phi is not None]
        caps += [int(s.admitted * largest + 1e-9) for s in seen if s.admitted is not None]
        caps += [self._memory_cap(s, resident) for s in seen if s.available_bytes is not None]
        return [*caps, 0] if self.lost else caps

    def _memory_for_variants(self, resident: frozenset[int]) -> float | None:
        """Return what variants may take together: those that are resident have their share already."""
        memory = None if "memory" in self.lost else self.samples.get("memory")
        available = memory.available_bytes if memory is not None else None
        held = float(sum(v.memory_bytes or 0 for v in self.profile.variants if v.phi in resident))
        limits = [] if self.memory_limit_bytes is None else [self.memory_limit_bytes]
        if available is not None:
            limits.append(max(0.0, available - MEMORY_RESERVE_BYTES + held))
        if self.lost:  # nothing more is loaded
            limits.append(held)
        return min(limits, default=None)

    def _memory_cap(self, memory: Sample, resident: frozenset[int]) -> int:
        available = memory.available_bytes or 0
        if available < MEMORY_RESERVE_BYTES or (memory.pressure or 0) > MEMORY_PRESSURE_LIMIT:
            return 0
        free = available - MEMORY_RESERVE_BYTES
        admitted = [
            v.phi
            for v in self.profile.variants
            if v.phi in resident or (v.memory_bytes or 0) <= free
        ]
        return max(admitted, default=0)
