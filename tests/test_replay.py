"""Replays: by definition, by any path through the code, in any unit of time."""

from __future__ import annotations

import csv
import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import TablePolicy
from adaphi.policies.choose import choose
from adaphi.sim import Trace, clairvoyant, kernels, replay
from adaphi.sim.optimum import best_path
from adaphi.sim.packed import find_bins, play, play_bins
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


edge_lists = st.lists(st.one_of(st.integers(1, 9).map(float), st.floats(1e-9, 1e9)), max_size=40)


@given(
    edges=edge_lists.map(lambda values: np.unique(values)),
    budgets=st.lists(st.one_of(st.just(0.0), st.floats(0, 1e300)), min_size=2, max_size=30),
    variants=st.integers(1, 9),
    seed=st.integers(0, 9),
)
@settings(max_examples=200)
def test_compiled_loops_are_numpys(
    edges: np.ndarray, budgets: list[float], variants: int, seed: int
) -> None:
    """For any edges, tables and budgets (edges among them) both forms decide and count the same."""
    if not kernels.COMPILED:
        pytest.skip("numba (extra `fast`) is not installed")
    random = np.random.default_rng(seed)
    budget = np.array([*budgets, *edges, *np.nextafter(edges, 0)])
    table = random.integers(0, variants, (len(edges) + 1, variants), dtype=np.uint8)
    need = random.choice([*edges, 1.0], (variants, variants))
    quality = random.permutation(variants) / 10
    walked = [kernels.walk(budget[:-1], edges, table, compiled=c) for c in (True, False)]
    np.testing.assert_array_equal(*walked)
    (one, first), (two, second) = (
        kernels.tally(budget, need, walked[0], compiled=c) for c in (True, False)
    )
    np.testing.assert_array_equal(one, two)
    assert first == second
    for readings, decided in ((None, walked[0]), (budget[:0:-1], None)):
        if decided is None:
            decided = kernels.walk(readings, edges, table)
        counts, switches = kernels.tally(budget, need, decided)
        for compiled in (True, False):
            played = play(budget, edges, table, need, readings, compiled=compiled)
            np.testing.assert_array_equal(played[0], decided)
            np.testing.assert_array_equal(played[1], counts)
            assert played[2] == switches
    totals = []
    for compiled in (True, False):
        best = best_path(budget, need, quality, 0.5, 0.01, compiled=compiled)
        on_time, switches = kernels.tally(budget, need, best)
        totals.append(on_time @ quality - 0.5 * (len(best) - on_time.sum()) - 0.01 * switches)
    assert totals[0] == pytest.approx(totals[1], abs=1e-9)


def test_bins_serve_every_table_with_the_same_edges(profile: Profile) -> None:
    """Found once, they give what each table's own replay gives."""
    trace, costs = wander(3000), profile.costs()
    edges = TablePolicy.solve(profile, [trace.budget_ms]).bind(profile).edges_ms
    bins = find_bins(trace.budget_ms, edges, costs.need_ms)
    for seed in range(5):
        table = np.random.default_rng(seed).integers(0, 3, (len(edges) + 1, 3), dtype=np.uint8)
        decided, on_time, switches = play_bins(bins, edges, table, costs.need_ms)
        again = play(trace.budget_ms, edges, table, costs.need_ms)
        np.testing.assert_array_equal(decided, again[0])
        np.testing.assert_array_equal(on_time, again[1])
        assert switches == again[2] > 0


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


milliseconds = st.one_of(
    st.integers(1, 60).map(float), st.floats(0.5, 60, allow_nan=False, allow_subnormal=False)
)


@st.composite
def ladders(draw: st.DrawFn) -> Profile:
    """Draw any small ladder: whole and broken milliseconds, zero stalls and long ones."""
    count = draw(st.integers(1, 4))
    latencies = sorted(draw(st.lists(milliseconds, min_size=count, max_size=count)))
    qualities = draw(st.lists(st.integers(1, 99), min_size=count, max_size=count, unique=True))
    stall = st.one_of(st.just(0.0), milliseconds)
    return Profile(
        ladder="drawn",
        variants=tuple(
            VariantProfile(phi, f"v{phi}", quality / 100, Latency(p95=ms))
            for phi, (ms, quality) in enumerate(zip(latencies, qualities, strict=True))
        ),
        stall_ms=tuple(
            tuple(0.0 if m == a else draw(stall) for a in range(count)) for m in range(count)
        ),
    )


@given(
    profile=ladders(),
    budgets=st.lists(st.one_of(st.just(0.0), milliseconds), min_size=3, max_size=60),
    factor=st.floats(1e-4, 1e4),
    exact=st.booleans(),
)
@settings(max_examples=100)
def test_decisions_do_not_depend_on_the_unit_of_time(
    profile: Profile, budgets: list[float], factor: float, exact: bool
) -> None:
    """Every millisecond multiplied by any c > 0 leaves every decision of every policy as it was.

    Budgets that are exactly a threshold of the ladder are among them: rounding must not move them.
    """
    if exact:
        budgets = [*budgets, *profile.costs().need_ms.ravel().tolist(), *budgets]
    trace, other = Trace.from_budgets(budgets), Trace.from_budgets(np.multiply(budgets, factor))
    stretched = scaled(profile, factor)
    tables = [
        TablePolicy.solve(p, [t.budget_ms]) for p, t in ((profile, trace), (stretched, other))
    ]
    names = [f"static:{len(profile) - 1}", *(name for name in POLICIES if name != "static:1")]
    for one, two in (*((name, name) for name in names), tuple(tables)):
        np.testing.assert_array_equal(
            replay(trace, profile, one).decisions, replay(other, stretched, two).decisions
        )
    # The table solved in one unit serves the device whose clock runs in another.
    np.testing.assert_array_equal(
        replay(trace, profile, tables[0]).decisions, replay(other, stretched, tables[0]).decisions
    )
    refreshed = [
        replay(t, p, tables[0], adapt=True).decisions
        for t, p in ((trace, profile), (other, stretched))
    ]
    np.testing.assert_array_equal(*refreshed)


def test_a_look_up_allocates_nothing(profile: Profile) -> None:
    """A thousand decisions neither leave a byte behind nor take one meanwhile."""
    lookup = TablePolicy.solve(profile).bind(profile)
    budgets = wander(1000).budget_ms.tolist()
    decide, active = lookup.decide, 0
    tracemalloc.start()
    try:
        for budget in budgets:
            active = decide(budget, active)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for budget in budgets:
            active = decide(budget, active)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after <= before + 64 and peak <= before + 128  # the loop's own iterator


def test_a_learning_policy_only_looks_back(profile: Profile) -> None:
    """The first decisions do not depend on what comes later, and a second run repeats the first."""
    trace = wander(900)
    policy = TablePolicy.solve(profile, [trace.budget_ms[:400]])
    other = Trace.from_budgets(np.concatenate([trace.budget_ms[:500], trace.budget_ms[:400] * 0.3]))
    whole, changed = (replay(t, profile, policy, adapt=True).decisions for t in (trace, other))
    np.testing.assert_array_equal(whole[:500], changed[:500])
    np.testing.assert_array_equal(whole, replay(trace, profile, policy, adapt=True).decisions)
    decider = choose(policy, profile, adapt=True)
    again = [decide_stepwise(trace, decider, profile.costs()) for _ in range(2)]
    np.testing.assert_array_equal(again[0], whole)
    np.testing.assert_array_equal(again[1], whole)


def test_a_learning_policy_is_never_far_below_a_rule(profile: Profile) -> None:
    """On budgets unlike all it learned from it soon follows the rule that is best there."""
    policy = TablePolicy.solve(profile, [wander(400).budget_ms * 3])
    for level, phi in ((11.0, 0), (16.5, 1), (100.0, 2)):
        outcome = replay(Trace.from_budgets([level] * 1500), profile, policy, adapt=True)
        best = replay(outcome.trace, profile, f"static:{phi}")
        assert outcome.mean_score > best.mean_score - 0.005
        assert (outcome.decisions[-500:] == phi).all()


def test_a_policy_file_keeps_what_a_learning_policy_begins_with(
    profile: Profile, tmp_path: Path
) -> None:
    """Saved and loaded, a policy learns on from the same history to the same decisions."""
    trace = wander(700, 1)
    policy = TablePolicy.solve(profile, [trace.budget_ms[:300], trace.budget_ms[300:500]])
    policy.save(tmp_path / "p.npz")
    loaded = TablePolicy.load(tmp_path / "p.npz")
    assert [len(series) for series in loaded.history] == [300, 200]
    np.testing.assert_array_equal(
        replay(trace, profile, policy, adapt=True).decisions,
        replay(trace, profile, loaded, adapt=True).decisions,
    )
