"""Replays: by definition, by any path through the code, in any unit of time."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import TablePolicy
from adaphi.sim import Trace, clairvoyant, replay
from adaphi.sim.replay import decide_stepwise

POLICIES = ["static:1", "greedy", "hysteresis", "hysteresis:1.2,2", "alert", "random:3"]


def wander(rows: int, seed: int = 0) -> Trace:
    random = np.random.default_rng(seed)
    return Trace.from_budgets(18 * np.exp(0.15 * random.standard_normal(rows).cumsum() % 0.9))


def scaled(profile: Profile, factor: float) -> Profile:
    return Profile(
        ladder=profile.ladder,
        variants=tuple(
            VariantProfile(v.phi, v.name, v.quality, Latency(p95=(v.latency_ms.p95 or 0) * factor))
            for v in profile.variants
        ),
        stall_ms=tuple(tuple(s * factor for s in row) for row in profile.stall_ms),
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_scores_follow_from_the_decisions(policy: str, profile: Profile, tmp_path: Path) -> None:
    """A few lines that know only the written rules re-score the decisions to the same figures."""
    trace = wander(400)
    outcome = replay(trace, profile, policy)
    outcome.write_decisions(tmp_path / "d.csv")
    latency, quality = (10.0, 15.0, 24.0), (0.70, 0.76, 0.80)
    total, active, previous = 0.0, 0, float(trace.budget_ms[0])
    rows = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
    for row in rows:
        chosen = int(row["variant"])
        assert int(row["active"]) == active and float(row["reading_ms"]) == previous
        on_time = latency[chosen] + profile.stall_ms[active][chosen] <= float(row["budget_ms"])
        assert on_time == bool(int(row["on_time"]))
        total += (quality[chosen] if on_time else -0.5) - 0.01 * (chosen != active)
        active, previous = chosen, float(row["budget_ms"])
    assert outcome.mean_score == pytest.approx(total / len(rows), abs=1e-12)


def test_compiled_replay_is_the_controllers(profile: Profile) -> None:
    """A table gives the same decisions in the compiled walk and step by step."""
    trace = wander(3000)
    table = TablePolicy.solve(profile, [trace.budget_ms[:1000]])
    walked = replay(trace, profile, table).decisions
    stepped = decide_stepwise(trace, table.bind(profile), profile.costs())
    np.testing.assert_array_equal(walked, stepped)


@pytest.mark.parametrize("seed", range(5))
def test_clairvoyant_equals_enumeration(seed: int, profile: Profile) -> None:
    """No sequence of choices scores more than the clairvoyant, and one scores as much."""
    trace = wander(8, seed)
    best = -1e9
    for choices in product(range(3), repeat=7):
        total, active = 0.0, 0
        for chosen, budget in zip(choices, trace.budget_ms[1:], strict=True):
            on_time = profile.costs().need_ms[active, chosen] <= budget
            total += (profile.variants[chosen].quality if on_time else -0.5) - 0.01 * (
                chosen != active
            )
            active = chosen
        best = max(best, total)
    assert clairvoyant(trace, profile).mean_score * 7 == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("factor", [0.013, 0.37, 2.0, 1000.0 / 3])
def test_decisions_do_not_depend_on_the_unit_of_time(factor: float, profile: Profile) -> None:
    """Every millisecond multiplied by c > 0 leaves every decision as it was."""
    trace = wander(500)
    other = Trace.from_budgets(trace.budget_ms * factor)
    for policy in POLICIES:
        np.testing.assert_array_equal(
            replay(trace, profile, policy).decisions,
            replay(other, scaled(profile, factor), policy).decisions,
        )
    np.testing.assert_array_equal(
        replay(trace, profile, TablePolicy.solve(profile, [trace.budget_ms])).decisions,
        replay(
            other,
            scaled(profile, factor),
            TablePolicy.solve(scaled(profile, factor), [other.budget_ms]),
        ).decisions,
    )
