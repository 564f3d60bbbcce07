"""Does it happen as simulated: one workload, played to a daemon and simulated, side by side.

The simulation knows what the daemon was started with (profile, policy, limits) and what the client does
(arrivals, deadlines, pushed budgets); nothing of the performance itself goes into it. It is made `DRAWS`
times, each with other luck, and says two things of each figure: its mean, and the range in which one play
is to be expected. `LIMITS` are what the means have to keep to be believed: differences of shares and
qualities, ratios of counts and latencies. Whether the play is within the range is another question: a
figure that is off and not to be expected says that the simulation is wrong, one that is off as expected,
that one play says no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Profile
from ..policies.choose import choose
from ..policies.lookup import Policy
from ..policies.table import TablePolicy
from ..policies.trace import Trace
from .live import Live, switches
from .requests import Served, World, serve
from .service_times import Drift, draw
from .workload import Workload

Floats = NDArray[np.float64]
Figures = dict[str, float | int | str]


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


DRAWS = 99
"""How often a play is simulated: the range is from the fifth lowest of these to the fifth highest."""
EXPECTED = (0.05, 0.95)
"""The quantiles between which a single play is to be expected."""
FRONT_MS = 0.5
"""What the daemon takes of each run beside the model."""
DRIFT = Drift(share=0.45, runs=50.0)
"""How alike a daemon's neighbouring runs are. In six series of 150 runs (three variants, with pauses or not)
the ranks' correlation was 0.2 to 0.5 from one run to the next, and 0.1 to 0.4 after eight in four of them."""
REST_SHARE, REST_HALF_LIFE_MS = 0.022, 30.0
"""What a run takes more after a rest, and how soon: pauses of 0, 10, 40 and 120 ms before runs of three
variants (80 each, in turn) gave medians of 1, 1.000, 1.013 and 1.021. Profiles are measured without."""
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
    draws: int = DRAWS,
    pace: float = 1.0,
) -> list[Served]:
    """Return what a daemon with this profile and policy should make of what `live.play` does to it.

    One outcome a draw; they differ in the times that the runs take, and in nothing else. `seed` and `draws`
    say which these are. With another `pace` than 1 every run takes so many times as long: a `Fidelity` tells
    the one that the device had, and simulated with it, whether what is unexpected comes from there.
    """
    chosen = choose(policy, profile, latency=latency)  # read once
    world = World(
        budget=budget,
        interval_ms=PUSHED_MS,
        front_ms=FRONT_MS,
        rest_share=REST_SHARE,
        rest_half_life_ms=REST_HALF_LIFE_MS,
    )
    return [
        serve(
            workload,
            profile,
            chosen,
            world=world,
            max_requests=max_requests,
            service_ms=pace * draw(profile, len(workload), seed=one, drift=DRIFT),
            latency=latency,
        )
        for one in np.random.SeedSequence(seed).generate_state(draws).tolist()
    ]


class Line(NamedTuple):
    """One figure: its mean over the draws, the range of a single play, what it was live.

    `apart` is how far the mean is from the live figure, in the limit's own terms.
    """

    limit: Limit
    simulated: float
    low: float
    high: float
    live: float
    apart: float

    @property
    def holds(self) -> bool:
        """Say whether the limit is kept."""
        return self.apart <= self.limit.by

    @property
    def expected(self) -> bool:
        """Say whether the live figure is one that a single play may well have."""
        return self.low <= self.live <= self.high


@dataclass(frozen=True)
class Fidelity:
    """A workload's simulation, draw by draw, beside its performance."""

    simulated: Sequence[Served]
    live: Live

    def __repr__(self) -> str:
        return f"<Fidelity(workload={self.live.workload.name!r}, holds={self.holds})>"

    @property
    def holds(self) -> bool:
        """Say whether every limit is kept."""
        return all(line.holds for line in self.lines)

    @property
    def expected(self) -> bool:
        """Say whether every figure is in the range of a single play."""
        return all(line.expected for line in self.lines)

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Return every figure that has a limit; one that neither has is left out."""
        simulated, live = [_figures(one) for one in self.simulated], _figures(self.live)
        return tuple(
            _line(
                limit,
                np.array([one.get(limit.figure, 0) for one in simulated], dtype=np.float64),
                float(live.get(limit.figure, 0)),
            )
            for limit in LIMITS
            if any(limit.figure in figures for figures in (*simulated, live))
        )

    @cached_property
    def pace(self) -> float:
        """Return how long the model's runs took live, in parts of what they take in the simulation.

        The median, each run beside the median of its variant. Where it is not 1, the device was another
        than its profile says, and figures are to be expected elsewhere. 1 where nothing is to compare.
        """
        phi = np.concatenate([one.phi for one in self.simulated])
        took_ms = np.concatenate([(one.done_s - one.began_s) * 1e3 for one in self.simulated])
        parts = [
            self.live.inference_ms[self.live.phi == ran]
            / (np.median(took_ms[phi == ran]) - FRONT_MS)
            for ran in np.intersect1d(self.live.phi, phi)
            if ran >= 0
        ]
        return float(np.median(np.concatenate(parts))) if parts else 1.0

    def as_json(self) -> dict[str, object]:
        """Return every figure of both, how far they are apart, and where one play was to be expected."""
        return {
            "workload": self.live.workload.name,
            "holds": self.holds,
            "expected": self.expected,
            "pace": self.pace,
            "draws": len(self.simulated),
            "simulated": _means([_figures(one) for one in self.simulated]),
            "live": _figures(self.live),
            "apart": {line.limit.figure: line.apart for line in self.lines},
            "range": {line.limit.figure: [line.low, line.high] for line in self.lines},
            "figure_holds": {line.limit.figure: line.holds for line in self.lines},
            "figure_expected": {line.limit.figure: line.expected for line in self.lines},
        }


def _line(limit: Limit, simulated: Floats, live: float) -> Line:
    """Return a figure's line, from its values in all draws (D,) and in the play.

    The quantiles are Weibull's, k / (D + 1) for the k-th: the play, were it one more draw, is in the range
    with the probability that the range says, and not a little less often.
    """
    low, high = np.quantile(simulated, EXPECTED, method="weibull")
    mean = float(simulated.mean())
    apart = abs(mean - live)
    if limit.is_relative and apart:
        apart = apart / abs(live) if live else float("inf")
    return Line(limit, mean, float(low), float(high), live, apart)


def _figures(served: Served) -> Figures:
    """Return a summary whose switches are counted alike: from one run to the next, the first not."""
    return served.summary() | {"switches": switches(served.phi, served.began_s)}


def _means(draws: Sequence[Figures]) -> Figures:
    """Return each figure's mean over the draws that have it; what is the same in all stays as it is."""
    means: Figures = {}
    for figure in dict.fromkeys(name for figures in draws for name in figures):
        values = [figures[figure] for figures in draws if figure in figures]
        alike = all(value == values[0] for value in values)
        means[figure] = values[0] if alike else float(np.mean(values))  # type: ignore[arg-type]
    return means
