"""Making a battery last: the planned price of energy on phones' recorded sessions, beside the clairvoyant.

Sessions are the 39 discharges of `phone_aware_level_28d` (level × 15 Wh) and six-hour pieces of
`phone_iphone_current` × `phone_iphone_voltage`; the battery holds 15 Wh at the start and has to last until
the session's end, with one answer a second on top of what the phone itself takes. What the phone takes is
learned from the first half of each phone's sessions, the second half is scored. Two ladders, at 10 and at
20 mJ a millisecond. Time budgets are wide, so that energy alone decides; a further row has budgets that
follow the clock of `edge_pi_orbit_freq` (learned from its first half). Sessions that not even φ = 0 survives
are left out. Without the traces (`$ADAPHI_TRACES`) a made-up phone stands in.

    python -m benchmarks battery
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from adaphi.errors import TraceError
from adaphi.model_zoo import Profile
from adaphi.policies import fit_chain
from adaphi.policies.battery import BatteryTable, plan_battery
from adaphi.policies.frame import frame_mdp
from adaphi.policies.lookup import Lookup
from adaphi.policies.rules import static
from adaphi.policies.trace import read_csv
from adaphi.sim import Trace
from adaphi.sim.battery import BatteryReplay, clairvoyant_battery, replay_battery

from .harness import Row
from .policy import LADDERS, OBJECTIVE, profile, trace_folder

BATTERY_J = 15 * 3600.0
PIECE_S = 6 * 3600.0
MILLIJOULES_A_MS = (10.0, 20.0)

Session = tuple[np.ndarray, np.ndarray]
"""Times (s) and what the phone takes from each on (W)."""


@dataclass(frozen=True)
class Cell:
    """One session: the clairvoyant's outcome and bound, and every policy's outcome."""

    outcomes: dict[str, BatteryReplay]
    bound: float


def phones() -> list[list[Session]]:
    """Return the sessions of each phone."""
    folder = trace_folder() / "budget"
    if not folder.exists():
        random = np.random.default_rng(0)
        times = np.arange(0.0, 7200.0, 60.0)
        return [[(times, random.exponential(1.0, len(times))) for _ in range(4)]]
    level = read_csv(folder / "phone_aware_level_28d.csv")
    current = read_csv(folder / "phone_iphone_current.csv")
    voltage = read_csv(folder / "phone_iphone_voltage.csv")["value"]
    power_w = np.maximum(-current["value"] * voltage / 1e6, 0.0)
    return [
        list(_discharges(level["time_s"], level["value"])),
        list(_pieces(current["time_s"], power_w)),
    ]


def _discharges(time_s: np.ndarray, level: np.ndarray) -> Iterator[Session]:
    """Yield each stretch of an hour or more in which the level (percent) falls by 5 or more."""
    ends = np.flatnonzero((np.diff(level) > 0) | (np.diff(time_s) > 3 * 3600))
    for first, last in zip(
        np.concatenate([[0], ends + 1]), np.concatenate([ends, [len(level) - 1]]), strict=True
    ):
        t, held = time_s[first : last + 1], level[first : last + 1]
        if t[-1] - t[0] >= 3600 and held[0] - held[-1] >= 5:
            drain_w = -np.diff(held) / 100 * BATTERY_J / np.diff(t)
            yield t - t[0], np.append(drain_w, drain_w[-1])


def _pieces(time_s: np.ndarray, power_w: np.ndarray) -> Iterator[Session]:
    for start in np.arange(0.0, time_s[-1] - PIECE_S, PIECE_S):
        inside = (time_s >= start) & (time_s <= start + PIECE_S)
        yield time_s[inside] - start, power_w[inside]


def with_energy(ladder: str, millijoules_a_ms: float) -> Profile:
    """Return a ladder of `policy` with joules that follow its milliseconds."""
    plain = profile(ladder, 0.0)
    variants = tuple(
        msgspec.structs.replace(v, energy_mj=millijoules_a_ms * (v.latency_ms.p95 or 0.0))
        for v in plain.variants
    )
    return msgspec.structs.replace(plain, variants=variants)


def wide(device: Profile) -> tuple[np.ndarray, np.ndarray]:
    """Return time budgets, learned and scored, that admit every variant always."""
    budget = np.full(1000, 1.5 * device.costs().latency_ms[-1])
    return budget, budget


def clocked(device: Profile) -> tuple[np.ndarray, np.ndarray]:
    """Return time budgets, learned and scored, that follow the clock of a board that throttles."""
    file = trace_folder() / "budget" / "edge_pi_orbit_freq.csv"
    if not file.exists():
        return wide(device)
    clock = read_csv(file)["value"]
    clock = clock / clock.max() * 1.2 * device.costs().latency_ms[-1]
    half = len(clock) // 2
    return clock[:half], clock[half:]


def evaluate(
    device: Profile, times: tuple[np.ndarray, np.ndarray], learned: list[Session], session: Session
) -> Cell:
    """Replay one session under every policy; raise `TraceError` where nothing can last."""
    costs, (time_s, drain_w) = device.costs(), session
    clock_s = np.arange(0.0, time_s[-1] + 1e-9)
    place = np.searchsorted(time_s, clock_s, "right") - 1
    budget_ms = np.resize(times[1], len(clock_s))
    trace = Trace(clock_s, budget_ms, {"drain_w": drain_w[place]}, "session")
    best, bound = clairvoyant_battery(trace, device, BATTERY_J, objective=OBJECTIVE)
    chain = fit_chain([times[0]], costs.thresholds_ms)
    plan = plan_battery(
        costs, device.joules(), chain, OBJECTIVE,
        battery_j=BATTERY_J, horizon_s=float(clock_s[-1]), period_s=1.0, drains=learned,
    )  # fmt: skip
    table = frame_mdp(costs, chain, OBJECTIVE).solve().policy
    policies = [
        BatteryTable(plan, chain.edges),
        Lookup("no price", chain.edges, table),
        *(static(costs, phi) for phi in range(len(costs))),
    ]
    outcomes = [replay_battery(trace, device, p, BATTERY_J, objective=OBJECTIVE) for p in policies]
    return Cell({o.policy: o for o in [*outcomes, best]}, bound)


def cells(
    device: Profile, times: tuple[np.ndarray, np.ndarray], quick: bool
) -> tuple[list[Cell], int]:
    """Return every session that can last, and how many cannot."""
    done, left_out = [], 0
    for sessions in phones():
        half = len(sessions) // 2
        for session in sessions[half : half + 1 if quick else None]:
            try:
                done.append(evaluate(device, times, sessions[:half], session))
            except TraceError:
                left_out += 1
    return done, left_out


def run(quick: bool = False) -> list[Row]:
    """Return how many sessions each policy survives, and its mean score beside the clairvoyant's."""
    rows: list[Row] = []
    for ladder in LADDERS:
        for millijoules in MILLIJOULES_A_MS[: 1 if quick else None]:
            device = with_energy(ladder, millijoules)
            some, left_out = cells(device, wide(device), quick)
            title = f"{ladder}, {millijoules:g} mJ/ms, {len(some)} sessions ({left_out} left out)"
            rows += _rows(title, some)
        device = with_energy(ladder, MILLIJOULES_A_MS[0])
        some, _ = cells(device, clocked(device), quick)
        quality, best = (
            float(np.mean([c.outcomes[name].mean_quality for c in some]))
            for name in ("battery", "clairvoyant")
        )
        what = f"{ladder}, time by a clock: plan, mean quality on time"
        target = "≥ 0.97 × the peer's"
        rows.append(Row(what, quality, "score", "more", "clairvoyant", best, target))
    return rows


def _rows(title: str, some: list[Cell]) -> Iterator[Row]:
    names = [name for name in some[0].outcomes if name not in ("battery", "clairvoyant")]
    lasts = {n: float(np.mean([c.outcomes[n].lasts for c in some])) for n in [*names, "battery"]}
    score = {n: float(np.mean([c.outcomes[n].mean_score for c in some])) for n in lasts}
    bound = float(np.mean([c.bound for c in some]))
    yield Row(
        f"{title}: plan lasts",
        lasts["battery"],
        "share",
        "more",
        "no price",
        lasts["no price"],
        "1",
    )
    best = max(names, key=lambda n: (lasts[n], score[n]))
    rule = f"{best} (lasts: {lasts[best]:.2f})"
    yield Row(f"{title}: plan, mean score", score["battery"], "score", "more", rule, score[best])
    yield Row(
        f"{title}: plan, mean score", score["battery"], "score", "more",
        "clairvoyant's bound", bound, "≥ 0.97 × the bound",
    )  # fmt: skip
    worst = min(c.outcomes["battery"].mean_score / c.bound for c in some)
    path = min(c.outcomes["clairvoyant"].mean_score / c.bound for c in some)
    yield Row(
        f"{title}: least score ÷ bound", worst, "share", "more", "clairvoyant path", path, "≥ 0.97"
    )
