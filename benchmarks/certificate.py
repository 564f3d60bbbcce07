"""The watched certificate: false alarms where the chain is the truth, steps until a change is noticed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from adaphi.controller.step import Controller, Reading
from adaphi.policies import TablePolicy
from adaphi.policies.watch import PATIENCE_STEPS, WatchedTable

from .harness import Row
from .problems import example_profile, wandering_trace


def watched(patience_steps: float) -> WatchedTable:
    """Return a table solved on a wandering trace, watched."""
    profile = example_profile()
    policy = TablePolicy.solve(profile, [wandering_trace(4000).budget_ms])
    return WatchedTable(policy, profile, patience_steps=patience_steps)


def false_alarms(runs: int, steps: int, patience_steps: float) -> float:
    """Return the share of runs of `steps` steps in which a certificate that holds is called broken."""
    policy = watched(patience_steps)
    broken = 0
    for seed in range(runs):
        policy.reset()
        active = 0
        for budget in policy.chain.sample(steps, seed).tolist():
            active = policy.decide(budget, active)
        broken += policy.breaks > 0
    return broken / runs


def steps_to_notice(slower: float, runs: int) -> float:
    """Return the median steps from the moment all latencies are times `slower` to the break (inf: never)."""
    profile = example_profile()
    need = profile.costs().need_ms
    policy = watched(PATIENCE_STEPS)
    controller = Controller(policy, profile.costs())
    waited = []
    for seed in range(runs):
        controller.reset()
        for step, (reading, budget) in enumerate(
            pairwise(policy.chain.sample(3000, seed).tolist())
        ):
            decision = controller.step(Reading(reading))
            factor = 1.0 if step < 200 else slower
            controller.report(factor * need[decision.previous, decision.phi] <= budget)
            if policy.breaks:
                break
        waited.append(step - 200 if policy.breaks else np.inf)
    return float(np.median(waited))


def run(quick: bool = False) -> list[Row]:
    """Return the figures; the peer is what the theory allows."""
    runs = 10 if quick else 400
    rows = [
        Row(
            f"false alarms within 1000 steps, patience {patience:,}",
            false_alarms(runs, 100 if quick else 1000, patience), "share", "less",
            "n / patience", 1000 / patience, "≤ n / patience",
        )
        for patience in (2_000, 10_000, PATIENCE_STEPS)
    ]  # fmt: skip
    return rows + [
        Row(
            f"steps to notice latencies × {slower}, patience {PATIENCE_STEPS:,}",
            steps_to_notice(slower, 3 if quick else 40), "steps", "less",
        )
        for slower in (1.25, 1.5, 2.0)
    ]  # fmt: skip
