"""Making a battery last: duality and the bound against brute force, bursts of drain, files and sensors."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaphi.controller.sensors import BatterySensor
from adaphi.controller.step import Controller, Reading
from adaphi.errors import PolicyError, ProfileError, TraceError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import TablePolicy, rule
from adaphi.policies.choose import choose
from adaphi.sim import Trace, replay
from adaphi.sim.battery import clairvoyant_battery, replay_battery

SMALL = Profile(
    ladder="three",
    variants=tuple(
        VariantProfile(phi, f"v{phi}", quality, Latency(p95=ms))
        for phi, (ms, quality) in enumerate([(10.0, 0.70), (15.0, 0.76), (24.0, 0.80)])
    ),
    stall_ms=((0.0,) * 3,) * 3,
)


def priced(profile: Profile) -> Profile:
    """Return the profile with 1, 2 and 4 J an answer."""
    variants = tuple(
        msgspec.structs.replace(v, energy_mj=1000.0 * 2**v.phi) for v in profile.variants
    )
    return msgspec.structs.replace(profile, variants=variants)


def trace(budget_ms: Any, drain_w: Any) -> Trace:
    drains = np.asarray(drain_w, dtype=float)
    return Trace(
        np.arange(len(drains), dtype=float), np.resize(budget_ms, len(drains)), {"drain_w": drains}
    )


def planned(profile: Profile, rows: Trace, battery_j: float, **options: Any) -> TablePolicy:
    policy = TablePolicy.solve(profile, [rows.budget_ms])
    return policy.with_battery(
        profile,
        battery_j=battery_j,
        horizon_s=float(len(rows) - 1),
        period_s=1.0,
        drains=[(rows.time_s, rows.columns["drain_w"])],
        **options,
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_encloses_the_best_of_all_paths(profile: Profile, seed: int) -> None:
    """Every sequence over six rows: none that lasts is above the bound; the path found is near the best."""
    random = np.random.default_rng(seed)
    device = priced(profile)
    rows = trace(random.choice([9.0, 14.0, 20.0, 40.0], 7), random.uniform(0, 0.5, 7))
    battery_j = float(random.uniform(9.5, 20))
    costs, joules = device.costs(), device.joules()
    best = -np.inf
    for path in product(range(3), repeat=6):
        if joules[list(path)].sum() + rows.columns["drain_w"][1:].sum() > battery_j:
            continue
        active, total = 0, 0.0
        for t, a in enumerate(path, start=1):
            on_time = costs.need_ms[active, a] <= rows.budget_ms[t]
            total += (costs.quality[a] if on_time else -0.5) - 0.01 * (a != active)
            active = a
        best = max(best, total / 6)
    outcome, bound = clairvoyant_battery(rows, device, battery_j)
    assert outcome.lasts and outcome.left_j >= -1e-9
    assert outcome.mean_score <= best + 1e-12 <= bound + 2e-12
    assert outcome.mean_score >= best - 0.25  # six rows: one late answer is a fifth of a mean


def test_a_constant_allowance_is_shared_as_duality_says(profile: Profile) -> None:
    """Wide budgets and 3 J an answer: φ = 1 and φ = 2 in halves, quality half-way, a few switches, nothing
    left to speak of; the clairvoyant has no more to gain than the last review."""
    device, rows = priced(profile), trace(100.0, np.full(4001, 0.5))
    battery_j = 4000 * 3.5
    policy = choose(planned(device, rows, battery_j), device)
    outcome = replay_battery(rows, device, policy, battery_j)
    _, bound = clairvoyant_battery(rows, device, battery_j)
    assert outcome.lasts and outcome.left_j < 0.01 * battery_j
    assert outcome.mean_quality == pytest.approx(0.78, abs=0.003)
    assert 0.99 * bound <= outcome.mean_score <= bound
    assert outcome.switch_share < 0.02


def test_prices_rise_and_joules_fall(profile: Profile) -> None:
    """Price 0 is the ordinary table; each further price takes no more, the last the least there is."""
    device = priced(profile)
    random = np.random.default_rng(1)
    rows = trace(20 * np.exp(0.4 * np.sin(random.normal(0, 0.3, 3000).cumsum())), np.zeros(3000))
    policy = planned(device, rows, 1e4)
    plan = policy.battery
    assert plan is not None and len(plan.prices) > 3 and plan.prices[0] == 0
    assert (np.diff(plan.prices) > 0).all() and (np.diff(plan.answer_j) <= 0).all()
    np.testing.assert_array_equal(plan.tables[0], policy.table)
    assert plan.answer_j[-1] == pytest.approx(1.0) and (plan.tables[-1][:, 0] == 0).all()
    # What the plan says a price takes is what a replay on its own chain takes.
    long = Trace.from_budgets(policy.chain_ms(device.costs()).sample(100_000, 2))
    for k in (0, len(plan.prices) // 2):
        table = with_table(policy, plan.tables[k])
        taken = device.joules()[replay(long, device, table).decisions].mean()
        assert taken == pytest.approx(plan.answer_j[k], rel=0.02)


def with_table(policy: TablePolicy, table: np.ndarray) -> TablePolicy:
    """Return the policy with another table and no battery."""
    return dataclasses.replace(policy, table=table, battery=None)


@given(
    st.lists(st.floats(0, 3), min_size=30, max_size=60),
    st.floats(0.05, 3.0),
    st.sampled_from([12.0, 18.0, 100.0]),
)
@settings(max_examples=40)
def test_no_policy_is_above_the_bound(drains: list[float], slack: float, budget_ms: float) -> None:
    """Whatever drains, and however little is left: lasting or not, nothing scores above the bound."""
    device, rows = priced(SMALL), trace(budget_ms, drains)
    steps = len(rows) - 1
    battery_j = float(sum(drains[1:]) + steps * (1 + slack))
    _, bound = clairvoyant_battery(rows, device, battery_j)
    policies = [choose(planned(device, rows, battery_j), device), rule("greedy", device.costs())]
    for policy in policies:
        outcome = replay_battery(rows, device, policy, battery_j)
        assert np.isfinite(outcome.mean_score)
        assert not outcome.lasts or outcome.mean_score <= bound + 1e-9
        assert outcome.left_j >= -1e-9 and outcome.lasted_s <= steps


def test_bursts_at_the_end_are_reckoned_with(profile: Profile) -> None:
    """A phone that takes ten times as much in its last tenth, as it did before: the plan still lasts."""
    device = priced(profile)
    drains = np.where(np.arange(2001) % 1000 > 900, 5.0, 0.5)
    rows = trace(100.0, drains)
    battery_j = float(drains[1:].sum() + 2000 * 2.5)
    outcome = replay_battery(
        rows, device, choose(planned(device, rows, battery_j), device), battery_j
    )
    assert outcome.lasts
    assert not replay_battery(rows, device, rule("static:2", device.costs()), battery_j).lasts


def test_a_file_keeps_the_plan_and_notices_damage(profile: Profile) -> None:
    """What is loaded decides alike at every level of the battery; a flipped byte is noticed."""
    device, rows = priced(profile), trace([9.0, 20.0, 40.0], np.full(300, 0.3))
    policy = planned(device, rows, 700.0)
    again = TablePolicy.from_bytes(policy.to_bytes())
    one, two = (choose(p, device) for p in (policy, again))
    for energy_j, left_s in product((0.0, 50.0, 700.0), (0.0, 10.0, 299.0)):
        for table in (one, two):
            table.review(energy_j, left_s)  # type: ignore[attr-defined]
        assert [one.decide(b, 1) for b in (8, 15, 30)] == [two.decide(b, 1) for b in (8, 15, 30)]
    content, refused = policy.to_bytes(), 0
    for place in range(0, len(content), 37):
        damaged = bytearray(content)
        damaged[place] ^= 0x40
        try:
            loaded = TablePolicy.from_bytes(bytes(damaged)).battery
        except PolicyError:
            refused += 1
            continue
        assert loaded is not None and policy.battery is not None  # a byte that means nothing
        np.testing.assert_array_equal(loaded.tables, policy.battery.tables)
        np.testing.assert_array_equal(loaded.prices, policy.battery.prices)
    assert refused > 50


def test_the_controller_reviews_the_price(profile: Profile) -> None:
    """A full battery is spent, an empty one is spared; without a level the plan's own price holds."""
    device, rows = priced(profile), trace(100.0, np.zeros(1000))
    policy = choose(planned(device, rows, 2500.0), device)
    controller = Controller(policy, device.costs())
    assert controller.step(Reading(100.0)).phi == 1
    assert controller.step(Reading(100.0, energy_j=4000.0, left_s=900.0)).phi == 2
    assert controller.step(Reading(100.0, energy_j=500.0, left_s=500.0)).phi == 0
    controller.reset()
    assert controller.step(Reading(100.0)).phi == 1


def test_bad_input_is_refused_in_words(profile: Profile) -> None:
    """Each error says what is missing or impossible."""
    rows = trace(100.0, np.zeros(10))
    with pytest.raises(ProfileError, match="'v0' of profile 'three' has no energy_mj"):
        planned(profile, rows, 10.0)
    for bad in ({"battery_j": -1.0}, {"horizon_s": float("nan")}, {"period_s": 0.0}):
        numbers = {"battery_j": 1.0, "horizon_s": 1.0, "period_s": 1.0} | bad
        with pytest.raises(ValueError, match=next(iter(bad))):
            TablePolicy.solve(profile).with_battery(priced(profile), **numbers)
    with pytest.raises(PolicyError, match="no battery"):
        TablePolicy.solve(profile).bind_battery(profile)
    greedy = rule("greedy", profile.costs())
    with pytest.raises(TraceError, match="no column drain_w"):
        replay_battery(Trace.from_budgets([1.0, 2.0]), priced(profile), greedy, 1.0)
    with pytest.raises(TraceError, match="row 1: drain_w is below 0"):
        replay_battery(trace(1.0, [0, -1]), priced(profile), greedy, 1.0)
    with pytest.raises(TraceError, match="no policy lasts: 5 J are left for 9 answers"):
        clairvoyant_battery(rows, priced(profile), 5.0)
    with pytest.raises(ProfileError, match=r"energy_mj is -1.*variants\[0\]\.energy_mj"):
        msgspec.structs.replace(
            profile,
            variants=(msgspec.structs.replace(profile.variants[0], energy_mj=-1.0),),
            stall_ms=((0.0,),),
        )


def test_a_recorded_power_supply_is_read(tmp_path: Path) -> None:
    """Energy in µWh, or charge times voltage; the mains and a broken battery are passed over."""
    files = {
        "AC/type": "Mains\n",
        "BAT0/type": "Battery\n",
        "BAT0/energy_now": "2000000\n",
        "BAT1/type": "Battery\n",
        "BAT1/charge_now": "500000\n",
        "BAT1/voltage_now": "4000000\n",
        "BAT2/type": "Battery\n",
    }
    for name, text in files.items():
        path = tmp_path / "sys/class/power_supply" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sensor = BatterySensor(tmp_path)
    sample = sensor.read(0.0)
    assert sensor.probe() and sample is not None
    assert sample.energy_j == pytest.approx(2 * 3600 + 0.5 * 4 * 3600)
    assert BatterySensor(tmp_path / "nothing").read(0.0) is None
