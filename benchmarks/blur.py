"""Knowing the motion blur of each request: tables by blur beside blind ones, on flights of changing speed.

What a variant is worth at each blur was measured (docs/scaling/drone.json): one half of the photographs
makes the policies, the other half pays, and both ways are taken. Budgets are those of examples/trace.csv, the
first half to learn from, the second to fly through. The flights are made up: the speed returns to 6 m/s in
5 s, with a spread of 5 m/s; things are 4 m away, the shutter is open for 20 ms, the focal length is 300 px
(blur up to some 25 px of 288). Blind tables are solved on the published qualities, and on the mean of the
measured ones over the flights' blurs; a table "that knew" is made from the half that pays.

    python -m benchmarks blur
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from adaphi.model_zoo import Profile
from adaphi.model_zoo.scaling.blurring import Blurred, Seen
from adaphi.model_zoo.scaling.drone import blur_px
from adaphi.policies import TablePolicy
from adaphi.policies.blur import nearest
from adaphi.policies.lookup import Lookup, Policy
from adaphi.policies.rules import static
from adaphi.policies.table import solve_table
from adaphi.sim import Trace
from adaphi.sim.blur import replay_blur

from .harness import Row
from .policy import OBJECTIVE

ROOT = Path(__file__).parents[1]
FLIGHTS = 40
PERIOD_S, RETURN_S, MEAN_M_S, SPREAD_M_S = 0.1, 5.0, 6.0, 5.0
EXPOSURE_MS, DISTANCE_M, FOCAL_PX, SHORT_PX = 20.0, 4.0, 300.0, 288.0

Floats = NDArray[np.float64]


def flight(steps: int, seed: int) -> Floats:
    """Return the blur (steps,) of a flight, as a share of the picture's shorter side."""
    random = np.random.default_rng(seed)
    stays = np.exp(-PERIOD_S / RETURN_S)
    speed = np.empty(steps)
    here = 0.0
    for step, push in enumerate(random.normal(size=steps) * SPREAD_M_S * np.sqrt(1 - stays**2)):
        here = stays * here + push
        speed[step] = max(0.0, MEAN_M_S + here)
    return speed * blur_px(1.0, EXPOSURE_MS, DISTANCE_M, FOCAL_PX) / SHORT_PX


def half(measured: Blurred, which: int) -> Blurred:
    """Return what was measured on every second photograph."""

    def of(seen: Seen) -> Seen:
        right, same = (tuple(t[which::2] for t in texts) for texts in (seen.right, seen.same))
        return msgspec.structs.replace(seen, right=right, same=same)

    count = len(range(which, measured.photographs, 2))
    seen = tuple(of(seen) for seen in measured.seen)
    return msgspec.structs.replace(measured, photographs=count, seen=seen)


def policies(
    profile: Profile, budget_ms: Floats, learned: Blurred, paying: Blurred, blurs: Floats
) -> dict[str, Policy]:
    """Return the table by blur, the blind ones, the one that knows what will pay, and each variant alone."""
    costs = profile.costs()
    table = TablePolicy.solve(profile, [budget_ms], objective=OBJECTIVE)
    often = np.bincount(nearest(learned.shares, blurs), minlength=len(learned.shares))
    mean = costs.quality * np.average(learned.kept(), axis=0, weights=often)
    chain = table.chain_ms(costs)
    blind, _ = solve_table(replace(costs, quality=mean), chain, OBJECTIVE)
    return {
        "table by blur": _by_blur(profile, table, learned),
        "blind table": Lookup("blind", chain.edges, table.table),
        "blind table, mean quality": Lookup("blind", chain.edges, blind),
        "table by blur that knew": _by_blur(profile, table, paying),
        **{f"φ{phi} alone": static(costs, phi) for phi in range(len(costs))},
    }


def _by_blur(profile: Profile, table: TablePolicy, measured: Blurred) -> Policy:
    return table.with_blur(profile, measured.shares, measured.kept()).bind_blur(profile)


def run(quick: bool = False) -> list[Row]:
    """Return the mean score of the tables by blur, beside each other policy's."""
    profile = Profile.load(ROOT / "examples" / "profile.json")
    trace = Trace.read(ROOT / "examples" / "trace.csv")
    measured = Blurred.load(ROOT / "docs" / "scaling" / "drone.json")
    middle = len(trace) // 2
    budget_ms = trace.budget_ms[middle:]
    time_s = trace.time_s[middle:]
    learned_blurs = np.concatenate([flight(len(time_s), 1000 + seed) for seed in range(FLIGHTS)])
    scores: dict[str, list[float]] = {}
    for which in (0, 1):
        learned, paying = half(measured, which), half(measured, 1 - which)
        quality = profile.costs().quality * paying.kept()
        known = policies(profile, trace.budget_ms[:middle], learned, paying, learned_blurs)
        for seed in range(2 if quick else FLIGHTS):
            columns = {"blur_share": flight(len(time_s), seed)}
            flown = Trace(time_s, budget_ms, columns, "flight")
            for name, policy in known.items():
                outcome = replay_blur(
                    flown, profile, policy, paying.shares, quality, objective=OBJECTIVE
                )
                scores.setdefault(name, []).append(outcome.mean_score)
    (ours, own), *others = scores.items()
    rows = []
    for other, theirs in others:
        gain = np.array(own) - np.array(theirs)
        halves = gain.reshape(2, -1).mean(axis=1)
        what = f"{ours}; gain {gain.mean():+.4f} ({halves[0]:+.4f} and {halves[1]:+.4f})"
        rows.append(Row(what, float(np.mean(own)), "score", "more", other, float(np.mean(theirs))))
    return rows
