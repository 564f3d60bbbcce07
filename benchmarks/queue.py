"""Requests that wait: late share and quality beside RAMSIS, blind and regenerated, when runs take longer.

All serve the same arrivals with the same luck in the request-level simulation. *regenerated* is the rule
`ramsis`, solved anew for the factor by which runs take longer at the moment, which it is told; the others
have to find out. *as published* is the same rule without the daemon around it: nothing is refused, nothing is
known of the factor. Late counts what was late or refused; quality is that of answers on time.

Two ladders: one like that of the paper (figures of its published profiles, rounded: an EfficientNet-B0 of
47 ms, of which four together take 2.7 times as long), at its 10 requests a second and 150 ms; and the
measured one of the examples, where a batch saves nothing, at 25 a second and 100 ms. Real arrivals are those
of `$ADAPHI_TRACES`/arrivals, thinned or sped up to that rate, or to a quarter of it where they come in
bursts; without the folder they are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies.queue import QueueMDP, next_oldest
from adaphi.policies.queue_table import OBJECTIVE, SLOWDOWNS, QueuePlan, queue_costs
from adaphi.policies.queued import Queued, QueuePolicy
from adaphi.policies.ramsis import Ramsis
from adaphi.sim import Trace
from adaphi.sim.requests import Served, World, serve
from adaphi.sim.service_times import draw
from adaphi.sim.workload import Workload

from .harness import Row
from .problems import ROOT, example_profile

FACTORS = (1.0, 1.25, 1.5, 2.0)
PUBLISHED = ((0.730, 24.0), (0.777, 47.0), (0.787, 66.0), (0.806, 78.0))
PRICES = (0.5, 0.7, 1.0, OBJECTIVE.miss_cost, 2.0)
"""The plan's prices of a late answer."""
TARGET, MARGIN = 1.5, 1.35
"""Times the late share of the regenerated rule: what is aimed at, and what a price has to keep elsewhere."""


@dataclass(frozen=True)
class Setting:
    """A ladder with its deadline, rate, batches, and what a further request adds to a run."""

    name: str
    profile: Profile
    deadline_ms: float
    rate_per_s: float
    batches: tuple[int, ...]
    growth: float

    def arrivals(self, requests: int, *, earlier: bool = False) -> Iterator[Workload]:
        """Yield Poisson arrivals, then real ones at about the same rate; or what comes before them."""
        yield Workload.poisson(self.rate_per_s, requests, self.deadline_ms, seed=1 + earlier)
        folder = Path(os.environ.get("ADAPHI_TRACES", ROOT.parent / "shared" / "data" / "traces"))
        for name, rate_per_s in (
            ("twitter2021_day3_2h", 61.2),
            ("nasa_jul13_6h", 2.885),
            ("azure_llm2023_code", 4 * 2.567),
        ):
            path = folder / "arrivals" / f"{name}.csv"
            if path.exists():
                more = self.rate_per_s / rate_per_s
                scale = {"thin": more} if more < 1 else {"speed": more}
                whole = Workload.read_counts(path, self.deadline_ms, **scale)
                is_in_two = len(whole) >= 2 * requests
                if earlier and not is_in_two:
                    continue
                first = requests if is_in_two and not earlier else 0
                arrived_s = whole.arrived_s[first : first + requests]
                yield Workload(arrived_s - arrived_s[0], self.deadline_ms, name=name)


def settings() -> list[Setting]:
    """Return both ladders."""
    published = Profile(
        ladder="like the published",
        variants=tuple(
            VariantProfile(phi, f"v{phi}", q, Latency(p50=ms, p95=1.35 * ms, p99=1.6 * ms))
            for phi, (q, ms) in enumerate(PUBLISHED)
        ),
        stall_ms=((0.0,) * 4,) * 4,
    )
    return [
        Setting("published", published, 150.0, 10.0, (1, 2, 3, 4, 6, 8), 0.57),
        Setting("measured", example_profile(), 100.0, 25.0, (1,), 1.0),
    ]


class Regenerated(QueuePolicy):
    """The rule `ramsis` of whatever factor it is told."""

    name, window_s = "regenerated", Ramsis.window_s

    def __init__(self, setting: Setting) -> None:
        self.setting, self.rules = setting, {}

    def plan(self, queued: Queued, active: int) -> tuple[int, int]:
        """Return what the rule of this factor decides."""
        factor = queued.slowdown
        if factor not in self.rules:
            costs = self.setting.profile.costs()
            costs = replace(costs, latency_ms=factor * costs.latency_ms)
            self.rules[factor] = Ramsis(costs, self.setting.deadline_ms, self.setting.growth)
        return self.rules[factor].plan(queued, active)


def changing(seconds: float, seed: int = 1) -> Trace:
    """Return a factor that jumps among `FACTORS` after 20 s on average."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(20.0, int(seconds / 10) + 10))
    return Trace(np.concatenate([[0.0], times]), rng.choice(FACTORS, len(times) + 1))


def as_published(
    workload: Workload, rule: Ramsis, service_ms: np.ndarray, growth: float, slow: Trace
) -> tuple[float, float]:
    """Return (late share, quality on time) of the rule in a loop of its own: the whole queue, run by run."""
    arrived = workload.arrived_s
    deadline_s = arrived + workload.deadline_ms / 1e3
    now_s, first, phis = 0.0, 0, np.zeros(len(arrived), int)
    on_time = np.zeros(len(arrived), bool)
    while first < len(arrived):
        now_s = max(now_s, float(arrived[first]))
        come = int(np.searchsorted(arrived, now_s, side="right"))
        recent = come - int(np.searchsorted(arrived, now_s - rule.window_s, side="right"))
        slack_ms = (deadline_s[first] - now_s) * 1e3
        queued = Queued(slack_ms, come - first, recent / rule.window_s)
        phi, size = rule.plan(queued, 0)
        factor = slow.budget_ms[max(np.searchsorted(slow.time_s, now_s, side="right") - 1, 0)]
        now_s += service_ms[first, phi] * (1 + growth * (size - 1)) * factor / 1e3
        served = slice(first, first + size)
        phis[served], on_time[served] = phi, now_s <= deadline_s[served]
        first += size
    return 1 - float(on_time.mean()), float(rule._quality[phis[on_time]].mean())


class Play:
    """One workload, served again and again with the same luck."""

    def __init__(self, setting: Setting, workload: Workload, slow: Trace) -> None:
        self.setting, self.workload, self.slow = setting, workload, slow
        self.service_ms = draw(setting.profile, len(workload), seed=2)

    def __call__(
        self, policy: str | QueuePolicy | None, *, told: bool = False
    ) -> tuple[float, float]:
        """Return (late share, quality on time) of a policy."""
        outcome: Served = serve(
            self.workload, self.setting.profile, policy, world=World(self.slow, told=told),
            max_batch=32, batch_growth=self.setting.growth, service_ms=self.service_ms,
        )  # fmt: skip
        return 1 - outcome.on_time_share, outcome.mean_quality

    def regenerated(self) -> tuple[float, float]:
        """Return the same of the rule that is solved anew for the true factor, and told of it."""
        return self(Regenerated(self.setting), told=True)


def study(
    setting: Setting, plans: list[QueuePlan], workload: Workload, slow: Trace
) -> dict[str, tuple[float, float]]:
    """Return (late share, quality on time) by policy."""
    profile, growth = setting.profile, setting.growth
    figures = Play(setting, workload, slow)
    blind = Ramsis(profile.costs(), setting.deadline_ms, growth)
    statics = [figures(f"static:{phi}") for phi in range(len(profile))]
    return {
        **{f"queue, κ = {plan.miss_cost:g}": figures(plan.bind(profile)) for plan in plans},
        "regenerated": figures.regenerated(),
        "ramsis": figures(blind),
        "as published": as_published(workload, blind, figures.service_ms, growth, slow),
        "table": figures(None),
        "greedy": figures("greedy"),
        "best static": max(statics, key=lambda s: (1 - s[0]) * s[1] - OBJECTIVE.miss_cost * s[0]),
    }


def chosen_price(setting: Setting, requests: int) -> float:
    """Return the lowest price that keeps `MARGIN` in all worlds, on requests that nothing is reported of."""
    plays = [
        Play(setting, workload, slow)
        for workload in setting.arrivals(requests, earlier=True)
        for _, slow in _worlds(workload, seed=2)
    ]
    theirs = [play.regenerated()[0] for play in plays]
    for price in PRICES:
        policy = _plan(setting, price).bind(setting.profile)
        if all(play(policy)[0] <= MARGIN * late for play, late in zip(plays, theirs, strict=True)):
            return price
    raise RuntimeError(
        f"{setting.name}: no price keeps {MARGIN} × the regenerated rule's late share"
    )


def run(quick: bool = False) -> list[Row]:
    """Return the time to solve one problem of RAMSIS' size, and a row for each policy in each world."""
    first = settings()[1]
    costs = queue_costs(first.profile)

    def solve() -> None:
        next_oldest.cache_clear()
        mdp = QueueMDP(costs, deadline_ms=100.0, worlds=[[1.0, 25.0]], max_waiting=32)
        assert mdp.solve(1e-4).converged

    def rule() -> None:
        Ramsis(first.profile.costs(), 100.0).solve(25.0)

    took_s, rule_s = (_processor_s(f, 1 if quick else 5) for f in (solve, rule))
    rows = [
        Row("33 × 101 states, each active variant, solved", took_s, "s", "less",
            "the rule ramsis, 100 sweeps", rule_s, "< 0.5")
    ]  # fmt: skip
    requests = 100 if quick else 20_000
    for setting in settings()[1:] if quick else settings():
        price = OBJECTIVE.miss_cost if quick else chosen_price(setting, requests)
        print(f"{setting.name}: κ = {price:g}, chosen on other requests")
        prices = sorted({price, OBJECTIVE.miss_cost, PRICES[0]})
        plans = [_plan(setting, one, quick) for one in prices]
        for workload in setting.arrivals(requests):
            rows += _rows(setting, plans, workload, quick)
    return rows


def _processor_s(function: Callable[[], None], repeat: int) -> float:
    """Return the median processor time of a call: the machine may be shared."""
    took = []
    for _ in range(repeat):
        began = time.process_time()
        function()
        took.append(time.process_time() - began)
    return median(took)


def _plan(setting: Setting, miss_cost: float, quick: bool = False) -> QueuePlan:
    rate = setting.rate_per_s
    return QueuePlan.solve(
        setting.profile,
        deadline_ms=setting.deadline_ms,
        rates_per_s=[rate] if quick else [rate / 2, 3 * rate],
        slowdowns=(1.0, 2.0) if quick else SLOWDOWNS,
        batches=setting.batches,
        growth=setting.growth,
        miss_cost=miss_cost,
    )


def _worlds(workload: Workload, seed: int) -> list[tuple[str, Trace]]:
    worlds = [(f"× {f:g}", Trace([0.0, 1.0], [f, f])) for f in FACTORS]
    return [*worlds, ("changing", changing(float(workload.arrived_s[-1]), seed))]


def _rows(setting: Setting, plans: list[QueuePlan], workload: Workload, quick: bool) -> list[Row]:
    worlds = _worlds(workload, seed=1)
    rows = []
    for factor, slow in worlds[3:] if quick else worlds:
        found = study(setting, plans, workload, slow)
        theirs = found["regenerated"][0]
        for policy, (late, quality) in found.items():
            what = f"{setting.name}, {workload.name}, {factor}: {policy}, quality {quality:.4f}"
            target = f"≤ {TARGET * theirs:.4f}" if policy.startswith("queue") else ""
            rows.append(Row(what, late, "share", "less", "regenerated", theirs, target))
    return rows
