"""The watched certificate: how often it cries wolf, and how soon it notices what it should."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from adaphi.controller.step import Controller, Reading
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import TablePolicy
from adaphi.policies.chain import Chain
from adaphi.policies.watch import Detector, WatchedTable


def watched(profile: Profile, patience_steps: float) -> tuple[WatchedTable, Chain]:
    policy = WatchedTable(TablePolicy.solve(profile), profile, patience_steps=patience_steps)
    return policy, policy.chain


def test_samples_move_as_the_chain_says(profile: Profile) -> None:
    """Counted again, a long sample has the chain's own transition probabilities."""
    _, chain = watched(profile, 1e9)
    where = chain.bins(chain.sample(60_000, 3))
    counts = np.zeros_like(chain.transition)
    np.add.at(counts, (where[:-1], where[1:]), 1.0)
    visits = counts.sum(axis=1)
    expected = visits[:, None] * chain.transition
    spread = np.sqrt(expected * (1 - chain.transition) + 1)
    assert (np.abs(counts - expected) < 6 * spread).all() and visits.min() > 0


def test_a_fair_bet_gains_nothing() -> None:
    """Whatever the probabilities, one step multiplies the evidence by 1 on average, or by less."""
    for q in (0.0, 1e-4, 1e-3, 0.02, 0.5, 0.97):
        happened, not_happened = Detector(), Detector()
        happened.observe(q, True)
        not_happened.observe(q, False)
        for yes, no in zip(happened.evidence, not_happened.evidence, strict=True):
            assert q * yes + (1 - q) * no <= 1 + 1e-12


def test_false_alarms_are_as_rare_as_is_said(profile: Profile) -> None:
    """Where the chain is the truth, at most n / patience of the runs of n steps end in an alarm."""
    policy, chain = watched(profile, patience_steps=4000)
    runs, steps, alarms = 150, 400, 0
    for seed in range(runs):
        policy.reset()
        active = 0
        for budget in chain.sample(steps, seed).tolist():
            active = policy.decide(budget, active)
        alarms += policy.breaks > 0
    assert alarms / runs <= steps / 4000 + 3 * (0.1 * 0.9 / runs) ** 0.5


def test_a_doubled_latency_is_noticed_and_answered_from_the_smallest(profile: Profile) -> None:
    """When every run takes twice as long the certificate breaks within a hundred steps; then φ = 0."""
    policy, chain = watched(profile, patience_steps=100_000)
    controller = Controller(policy, profile.costs())
    need = profile.costs().need_ms
    chosen: list[int] = []
    budgets = chain.sample(700, 5).tolist()
    for step, (reading, budget) in enumerate(pairwise(budgets)):
        decision = controller.step(Reading(reading))
        factor = 1.0 if step < 400 else 2.0
        controller.report(factor * need[decision.previous, decision.phi] <= budget)
        chosen.append(decision.phi)
        if step == 399:
            assert policy.status == "holds"
        if step == 500:
            assert policy.broken_since is not None and 400 < policy.broken_since <= 500
            assert policy.status == f"broken since step {policy.broken_since}"
            assert set(chosen[policy.broken_since :]) == {0}
    # No table that believes the old latencies can keep its promise: the smallest variant stays.
    assert policy.breaks == 1 and policy.status.startswith("broken since")


def test_requests_with_a_known_slack_are_not_bets(profile: Profile) -> None:
    """The promise is about budgets nobody knows yet: a request that brings its own proves nothing."""
    policy, _ = watched(profile, patience_steps=100)
    controller = Controller(policy, profile.costs())
    for slack_ms in (12.0, 60.0) * 200:
        controller.step(Reading(slack_ms, None, slack_ms))
        controller.report(False)
    assert policy.status == "holds" and policy.steps == 0


def test_a_new_table_takes_over_when_its_promise_holds(profile: Profile) -> None:
    """Budgets of another kind break the certificate; a table solved on them soon answers again."""
    policy, _ = watched(profile, patience_steps=1000)
    random = np.random.default_rng(0)
    active, answers = 0, []
    for step in range(2500):
        level = 40.0 if random.uniform() < 0.5 else 13.0  # leaps that the cautious chain never saw
        active = policy.decide(level if step >= 100 else 40.0, active)
        answers.append(active)
    assert policy.breaks >= 1
    assert policy.status == "holds"


def test_only_two_rows_of_a_promise_are_needed() -> None:
    """One variant: nothing can switch, and a break leaves nothing to fall back to but itself."""
    profile = Profile(
        ladder="one", variants=(VariantProfile(0, "x", 0.5, Latency(p95=10.0)),), stall_ms=((0.0,),)
    )
    policy, _ = watched(profile, patience_steps=100)
    assert {policy.decide(b, 0) for b in (1.0, 50.0) * 100} == {0}


@pytest.mark.parametrize("told", [True, False])
def test_outcomes_may_be_told_or_read(profile: Profile, told: bool) -> None:
    """Told or taken from the next reading, the same outcomes are the same evidence."""
    policy, chain = watched(profile, patience_steps=1e9)
    need = profile.costs().need_ms
    budgets = chain.sample(300, 2).tolist()
    active = 0
    for reading, budget in pairwise(budgets):
        previous, active = active, policy.decide(reading, active)
        if told:
            policy.observe(bool(need[previous, active] <= budget))
    if not told:
        policy.decide(budgets[-1], active)
    reference, _ = watched(profile, patience_steps=1e9)
    active = 0
    for reading in budgets:
        active = reference.decide(reading, active)
    assert policy.promise.late.evidence == pytest.approx(reference.promise.late.evidence)
