"""What stays warm: the plan against an independent solver and brute force, the rules, bad input."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantecon.markov import DiscreteDP

from adaphi.controller.step import Controller, Reading
from adaphi.errors import PolicyError, ProfileError, TraceError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import Objective, TablePolicy, fit_chain, rule
from adaphi.policies.choose import choose
from adaphi.policies.resident import LOAD_COST, LOAD_SLOWDOWN, Residency, ResidentTable
from adaphi.sim import Trace
from adaphi.sim.resident import (
    EVICTIONS,
    OnDemand,
    clairvoyant_resident,
    compare_resident,
    replay_resident,
)

MB = 1_000_000


def ladder(
    latency_ms: tuple[float, ...] = (10.0, 20.0),
    megabytes: tuple[int, ...] = (40, 60),
    scale: float = 1.0,
) -> Profile:
    """Return a profile whose cold starts take four runs."""
    count = len(latency_ms)
    pairs = [[(m, a) for a in range(count)] for m in range(count)]
    return Profile(
        ladder="small",
        variants=tuple(
            VariantProfile(phi, f"v{phi}", 0.6 + 0.1 * phi, Latency(p95=ms * scale), mb * MB)
            for phi, (ms, mb) in enumerate(zip(latency_ms, megabytes, strict=True))
        ),
        stall_ms=tuple(tuple(0.0 if m == a else scale for m, a in row) for row in pairs),
        cold_stall_ms=tuple(
            tuple(0.0 if m == a else 4 * latency_ms[a] * scale for m, a in row) for row in pairs
        ),
    )


def trace(budget_ms: Any, megabytes: Any) -> Trace:
    memory = np.asarray(megabytes, dtype=float) * MB
    return Trace(
        np.arange(len(memory), dtype=float), np.asarray(budget_ms, float), {"memory_bytes": memory}
    )


def wandering(rows: int, seed: int = 0) -> Trace:
    """Return time and memory that move on their own, across every threshold of `ladder()`."""
    random = np.random.default_rng(seed)
    walk = np.cumsum(random.normal(0, 0.25, (2, rows)), axis=1)
    budget, memory = np.exp(np.sin(walk))  # between 1/e and e
    return trace(22 * budget, 70 * memory)


def step_by_the_text(
    profile: Profile,
    active: int,
    resident: set[int],
    answering: int,
    kept: set[int],
    memory_bytes: float,
) -> tuple[float | None, set[int]]:
    """Return (need in ms or None, set left) as the text of `policies.resident` says, in its own words."""
    size = {v.phi: v.memory_bytes or 0 for v in profile.variants}
    latency = profile.variants[answering].latency_ms.p95 or 0.0
    if kept - resident - {answering}:
        latency *= LOAD_SLOWDOWN
    if answering in resident:
        need: float | None = latency + profile.stall_ms[active][answering]
    else:
        assert profile.cold_stall_ms is not None
        need = latency + max(row[answering] for row in profile.cold_stall_ms)
    held = kept | {answering}
    while sum(size[p] for p in held) > memory_bytes:
        others = held - {answering}
        if not others:
            held, need = set(), None
            break
        held = held - {max(others, key=lambda p: (size[p], -p))}
    return need, held & kept


def test_the_plan_is_optimal_in_an_independent_formulation() -> None:
    """States (time, memory, active, resident) written out, solved by QuantEcon: the plan is worth as much."""
    profile, objective = ladder(), Objective(discount=0.9)
    recorded = wandering(400)
    plan = ResidentTable.solve(
        profile,
        budgets=[recorded.budget_ms],
        memory=[recorded.columns["memory_bytes"]],
        objective=objective,
    )
    residency = plan.residency
    needs = np.unique(residency.need_ms)
    times = fit_chain([recorded.budget_ms], needs, extra_bins=12)
    spaces = fit_chain(
        [recorded.columns["memory_bytes"]], residency.levels_bytes.astype(float), extra_bins=12
    )
    # One budget and one memory that stand for each bin: its lower edge.
    budget_of = np.concatenate([[0.0], times.edges])
    memory_of = np.concatenate([[0.0], spaces.edges])
    x, sets, members = len(residency.answering), residency.sets, residency.members
    shape = (len(budget_of), len(memory_of), x)
    reward = np.zeros((*shape, x))
    goes = np.zeros((len(memory_of), x), dtype=int)
    for e, (state, choice) in product(range(len(memory_of)), product(range(x), range(x))):
        (active, r), (answering, k) = divmod(state, sets), divmod(choice, sets)
        need, left = step_by_the_text(
            profile, active, set(members[r]), answering, set(members[k]), memory_of[e]
        )
        goes[e, choice] = answering * sets + members.index(frozenset(left))
        on_time = (
            0.0 if need is None else times.transition[:, budget_of >= need * (1 - 1e-12)].sum(1)
        )
        pays = profile.variants[answering].quality * on_time - objective.miss_cost * (1 - on_time)
        held = members[k] | {answering}
        moved = len(held - members[r]) + len((members[r] | held) - members[k])
        pays = pays - objective.switch_cost * (answering != active) - LOAD_COST * moved
        reward[:, :, state, choice] += np.multiply.outer(pays, spaces.transition[:, e])
    for e, choice in product(range(len(memory_of)), range(x)):
        held = members[choice % sets | 1 << choice // sets]
        if len(held) > 1 and sum((40, 60)[p] for p in held) * MB > memory_of[e]:
            reward[:, e, :, choice] = -1e3  # more than there is
    r = reward.reshape(-1, x)
    world = np.kron(times.transition, spaces.transition)
    q = np.zeros((len(world), x, x, len(world), x))
    for e_next in range(len(world)):
        for choice in range(x):
            q[:, :, choice, e_next, goes[e_next % len(memory_of), choice]] += world[:, None, e_next]
    ddp = DiscreteDP(r, q.reshape(len(r), x, len(r)), 0.9)
    best = ddp.solve(method="policy_iteration").v
    ours = ddp.evaluate_policy(plan.table.reshape(-1))
    np.testing.assert_allclose(ours, best, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_clairvoyant_is_the_best_of_all_paths(seed: int) -> None:
    """Every sequence of choices over five rows, scored by the text: none is better, one is as good."""
    random = np.random.default_rng(seed)
    profile, objective = ladder(), Objective()
    rows = trace(random.choice([9, 12, 22, 35, 120], 5), random.choice([30, 50, 70, 110], 5))
    residency = Residency(profile.costs(), profile.memory_costs())
    members, memory = residency.members, rows.columns["memory_bytes"]

    def best(t: int, active: int, resident: frozenset[int]) -> float:
        if t == len(rows):
            return 0.0
        values = []
        for answering, kept in product(range(2), members):
            need, left = step_by_the_text(
                profile, active, set(resident), answering, set(kept), memory[t]
            )
            on_time = need is not None and need <= rows.budget_ms[t]
            pays = profile.variants[answering].quality if on_time else -objective.miss_cost
            pays -= objective.switch_cost * (answering != active)
            values.append(pays + best(t + 1, answering, frozenset(left)))
        return max(values)

    outcome = clairvoyant_resident(rows, profile)
    assert outcome.mean_score == pytest.approx(best(1, 0, frozenset({0})) / 4, abs=1e-12)


@st.composite
def rows_of_both(draw: st.DrawFn) -> Trace:
    """Draw any trace of time and memory, thresholds and nothing at all included."""
    rows = draw(st.integers(2, 30))
    budgets = st.sampled_from([0.0, 10.0, 15.0, 20.0, 21.0, 31.0, 50.0, 100.0, 1e6])
    memory = st.sampled_from([0, 39, 40, 60, 99, 100, 101, 10_000])
    return trace(
        draw(st.lists(budgets, min_size=rows, max_size=rows)),
        draw(st.lists(memory, min_size=rows, max_size=rows)),
    )


PLAN = ResidentTable.solve(ladder())


@given(
    rows_of_both(),
    st.sampled_from(EVICTIONS),
    st.booleans(),
    st.sampled_from(["greedy", "static:1"]),
)
@settings(max_examples=80)
def test_nothing_beats_the_clairvoyant_and_all_is_causal(
    rows: Trace, evict: str, behind: bool, name: str
) -> None:
    """Whatever comes: scores are finite and bounded by the bound; what is yet to come decides nothing."""
    profile = ladder()
    residency = Residency(profile.costs(), profile.memory_costs())
    on_demand = OnDemand(residency, rule(name, profile.costs()), evict, behind=behind)
    bound = clairvoyant_resident(rows, profile).mean_score
    for planner in (PLAN, on_demand):
        whole = replay_resident(rows, profile, planner)
        assert np.isfinite(whole.mean_score) and whole.mean_score <= bound + 1e-12
        if len(rows) > 2:
            part = replay_resident(rows[:-1], profile, planner)
            np.testing.assert_array_equal(part.choices, whole.choices[:-1])


def test_scaling_time_changes_no_choice() -> None:
    """On a device three times slower with budgets three times longer everything is decided alike."""
    rows = wandering(300)
    slow = Trace(rows.time_s, rows.budget_ms * 3, rows.columns)
    choices = []
    for profile, played in ((ladder(), rows), (ladder(scale=3.0), slow)):
        memory = [played.columns["memory_bytes"]]
        plan = ResidentTable.solve(profile, budgets=[played.budget_ms], memory=memory)
        choices.append(replay_resident(played, profile, plan).choices)
    np.testing.assert_array_equal(*choices)


def test_with_memory_for_all_the_plan_answers_as_the_table() -> None:
    """Hot stalls alone decide then: as many are on time as with the frame loop's own table."""
    profile, rows = ladder(), wandering(600)
    plenty = trace(rows.budget_ms, np.full(len(rows), 1000))
    train, test = plenty[:300], plenty[300:]
    outcomes = compare_resident([train], test, profile)
    plan = outcomes[0]
    table = next(o for o in outcomes if o.planner == "lru, behind, table")
    assert plan.loads == 1 and plan.mean_score == pytest.approx(table.mean_score, abs=0.02)
    assert plan.mean_score <= outcomes[-1].mean_score


def test_on_demand_evicts_as_its_name_says() -> None:
    """40, 60 and 80 MB under 110: the least recently used goes; the active alone; never the smallest."""
    profile = ladder((10.0, 20.0, 30.0), (40, 60, 80))
    residency = Residency(profile.costs(), profile.memory_costs())

    def kept(evict: str, *wanted: int) -> frozenset[int]:
        planner = OnDemand(residency, rule("static:0", profile.costs()), evict)
        resident = frozenset({0})
        for phi in wanted:
            planner._policy = rule(f"static:{phi}", profile.costs())
            _, resident = planner.plan(1e3, 110 * MB, 0, resident)
        return resident

    assert kept("lru", 0, 1) == {0, 1}
    assert kept("lru", 0, 1, 2) == {2}
    assert kept("active", 0, 1) == {1}
    assert kept("smallest", 0, 1) == {0, 1}
    assert kept("smallest", 0, 1, 2) == {
        0,
        1,
    }  # 2 does not fit beside the smallest: 1 is the next best
    with pytest.raises(ValueError, match="evict is 'oldest'"):
        OnDemand(residency, rule("greedy", profile.costs()), "oldest")


def test_the_controller_plans_and_obeys_caps_and_slack() -> None:
    """A plan answers hot; with the slack known, a cold start that cannot be on time gives way."""
    profile = ladder()
    plan = ResidentTable.solve(
        profile, memory=[np.full(2, 60.0 * MB)], budgets=[np.full(50, 100.0)]
    )
    controller = Controller(plan, profile.costs())
    everything = Reading(1e3, None, None, 60 * MB, frozenset({0}))
    decision = controller.step(everything)
    assert decision.keep is not None and sum((40, 60)[p] for p in decision.keep) <= 60
    assert controller.step(everything._replace(max_phi=0)).phi == 0
    hurried = everything._replace(resident=frozenset({0}), slack_ms=15.0)
    assert controller.step(hurried).phi == 0
    assert (
        controller.step(Reading(1e3)).keep is None
    )  # nothing is known of memory: nothing is planned


def test_what_does_not_fit_is_planned_and_what_fits_is_not() -> None:
    """`choose` takes a plan where the ladder is larger than the limit, and where its costs are known."""
    profile = ladder()
    policy = TablePolicy.solve(profile)
    assert choose(policy, profile, memory_limit_bytes=100 * MB).name == "table"
    assert choose(policy, profile, memory_limit_bytes=99 * MB).name == "resident"
    assert choose("greedy", profile, memory_limit_bytes=1).name == "greedy"


def test_bad_input_is_refused_in_words(profile: Profile) -> None:
    """Each error says what is missing, and where."""
    with pytest.raises(ProfileError, match="'v0' of profile 'three' has no memory_bytes"):
        ResidentTable.solve(profile)
    with pytest.raises(PolicyError, match="6 variants"):
        ResidentTable.solve(ladder((1.0,) * 6, (1,) * 6))
    plain = Trace.from_budgets([1.0, 2.0])
    with pytest.raises(TraceError, match="no column memory_bytes; found budget_ms"):
        replay_resident(plain, ladder(), PLAN)
    with pytest.raises(TraceError, match="row 1: memory_bytes is below 0"):
        replay_resident(trace([1, 2], [1, -1]), ladder(), PLAN)
    with pytest.raises(TraceError, match="at least two rows"):
        clairvoyant_resident(trace([1], [1]), ladder())
