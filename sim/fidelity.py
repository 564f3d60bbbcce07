"""Does it happen as simulated: one workload, played to a daemon and simulated, side by side.

The simulation knows what the daemon was started with (profile, policy, limits) and what the client does
(arrivals, deadlines, pushed budgets); nothing of the performance itself goes into it. `LIMITS` are what a
simulation has to keep to be believed: differences of shares and qualities, ratios of counts and latencies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..model_zoo.profile import Profile
from ..policies.lookup import Policy
from ..policies.table import TablePolicy
from ..policies.trace import Trace
from .live import Live, switches
from .requests import Served, World, serve
from .service_times import Drift, draw
from .workload import Workload


class Limit(NamedTuple):
    """How far a figure of the simulation may be from the live one: by this much, or by this part of it."""

    figure: str
    by: float
    is_relative: bool


LIMITS = (
    Limit("on_time_share", 0.02, False),
    Limit("mean_quality", 0.005, False),
    Limit("switches", 0.10, True),
    Limit("latency_p95_ms", 0.10, True),
)


FRONT_MS = 0.5
"""What the daemon takes of each run beside the model."""
DRIFT = Drift(share=0.45, runs=50.0)
"""How alike a daemon's neighbouring runs are. In six series of 150 runs (three variants, with pauses or not)
the ranks' correlation was 0.2 to 0.5 from one run to the next, and 0.1 to 0.4 after eight in four of them."""
PUSHED_MS = 1.0
"""How soon a pushed budget counts: at once."""


def simulate(
    workload: Workload,
    profile: Profile,
    policy: str | Path | TablePolicy | Policy | None,
    *,
    budget: Trace | None = None,
    latency: str = "p95",
    max_requests: int = 64,
    seed: int = 0,
) -> Served:
    """Return what a daemon with this profile and policy should make of what `live.play` does to it."""
    return serve(
        workload,
        profile,
        policy,
        world=World(budget=budget, interval_ms=PUSHED_MS, front_ms=FRONT_MS),
        max_requests=max_requests,
        service_ms=draw(profile, len(workload), seed=seed, drift=DRIFT),
        latency=latency,
    )


class Line(NamedTuple):
    """One figure, simulated and live, and how far they are apart in the limit's own terms."""

    limit: Limit
    simulated: float
    live: float
    apart: float

    @property
    def holds(self) -> bool:
        """Say whether the limit is kept."""
        return self.apart <= self.limit.by


@dataclass(frozen=True)
class Fidelity:
    """A workload's simulation beside its performance."""

    simulated: Served
    live: Live

    def __repr__(self) -> str:
        return f"<Fidelity(workload={self.live.workload.name!r}, holds={self.holds})>"

    @property
    def holds(self) -> bool:
        """Say whether every limit is kept."""
        return all(line.holds for line in self.lines())

    def lines(self) -> Iterator[Line]:
        """Yield every figure that has a limit; one that neither has is left out."""
        simulated, live = _figures(self.simulated), _figures(self.live)
        for limit in LIMITS:
            if limit.figure not in simulated and limit.figure not in live:
                continue
            one, other = (
                float(simulated.get(limit.figure, 0)),
                float(live.get(limit.figure, 0)),
            )
            apart = abs(one - other)
            if limit.is_relative and apart:
                apart = apart / abs(other) if other else float("inf")
            yield Line(limit, one, other, apart)

    def as_json(self) -> dict[str, object]:
        """Return every figure of both, and how far they are apart."""
        return {
            "workload": self.live.workload.name,
            "holds": self.holds,
            "simulated": _figures(self.simulated),
            "live": _figures(self.live),
            "apart": {line.limit.figure: line.apart for line in self.lines()},
        }


def _figures(served: Served) -> dict[str, float | int | str]:
    """Return a summary whose switches are counted alike: from one run to the next, the first not."""
    return served.summary() | {"switches": switches(served.phi, served.began_s)}
