"""All sensors together: what may be spent now. Read on a timer, so that a request pays nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..model_zoo.profile import Profile
from .scheduler import Limits
from .sensors import CpuSensor, Sample, Sensor

MEMORY_RESERVE_BYTES = 64 << 20
"""Available memory below which only φ = 0 is admitted."""
MEMORY_PRESSURE_LIMIT = 0.2
"""Share of time waiting for memory above which only φ = 0 is admitted."""


@dataclass
class BudgetMonitor:
    """Combines sensors into `Limits`: the least time, the lowest cap, the largest slow-down.

    `samples` and `read_s` hold the last sample of each sensor and when it was taken; a sensor that
    stops answering is left out and shows in the metrics. `memory_limit_bytes` is what variants may take
    together however much memory there is.
    """

    sensors: Sequence[Sensor]
    profile: Profile
    memory_limit_bytes: float | None = None
    samples: dict[str, Sample | None] = field(default_factory=dict)
    read_s: dict[str, float] = field(default_factory=dict)

    def update(self, now_s: float, *, own_tasks: int = 1) -> None:
        """Read every sensor; `own_tasks` of the runnable tasks are the daemon's and its worker's."""
        for sensor in self.sensors:
            if isinstance(sensor, CpuSensor):
                sensor.own_tasks = own_tasks
            sample = sensor.read(now_s)
            self.samples[sensor.name] = sample
            if sample is not None:
                self.read_s[sensor.name] = now_s

    def limits(self, measured_slowdown: float, resident: frozenset[int]) -> Limits:
        """Return what may be spent; `resident` variants need no further memory."""
        seen = [sample for sample in self.samples.values() if sample is not None]
        budgets = [s.budget_ms for s in seen if s.budget_ms is not None]
        caps = [s.max_phi for s in seen if s.max_phi is not None]
        memory = self.samples.get("memory")
        if memory is not None:
            caps.append(self._memory_cap(memory, resident))
        slowdowns = [s.slowdown for s in seen if s.slowdown is not None]
        return Limits(
            budget_ms=min(budgets, default=None),
            max_phi=min(caps, default=None),
            slowdown=max([measured_slowdown, *slowdowns]),
            memory_bytes=self._memory_for_variants(memory, resident),
            resident=resident,
            energy_j=min((s.energy_j for s in seen if s.energy_j is not None), default=None),
        )

    def _memory_for_variants(self, memory: Sample | None, resident: frozenset[int]) -> float | None:
        """Return what variants may take together: those that are resident have their share already."""
        available = memory.available_bytes if memory is not None else None
        if available is None:
            return self.memory_limit_bytes
        held = sum(v.memory_bytes or 0 for v in self.profile.variants if v.phi in resident)
        admitted = float(max(0, available - MEMORY_RESERVE_BYTES + held))
        return min(admitted, self.memory_limit_bytes or admitted)

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
