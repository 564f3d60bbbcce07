"""Environments of Gymnasium: steps a second, alone and many at once, beside Gymnasium's own vector of them.

Random actions on a recorded trace, 64 environments of 200 steps an episode; peer: `SyncVectorEnv` of the
same environments. The queue's, at 40 requests a second, is a decision a step by a table; beside it `serve`.

    python -m benchmarks environments
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from adaphi.policies.queue_table import QueuePlan
from adaphi.policies.queued import QueuePolicy
from adaphi.sim import Trace
from adaphi.sim.envs import BudgetTraceEnv, BudgetTraceVectorEnv, QueueEnv
from adaphi.sim.requests import serve

from .harness import Row, seconds
from .policy import ROOT, profile

ENVIRONMENTS = 64
RATE_PER_S, DEADLINE_MS = 40.0, 150.0


def run(quick: bool = False) -> Iterator[Row]:
    """Yield steps a second."""
    steps, repeat = (20, 2) if quick else (1000, 5)
    ladder = profile("30/42/55 ms", 5.0)
    given = {"trace": Trace.read(ROOT / "examples" / "trace.csv"), "profile": ladder, "steps": 200}
    together = BudgetTraceVectorEnv(ENVIRONMENTS, **given)
    apart = SyncVectorEnv([lambda: BudgetTraceEnv(**given)] * ENVIRONMENTS)
    one, peer = seconds(play(together, steps), play(apart, steps), repeat=repeat)
    done = steps * ENVIRONMENTS
    yield Row(
        f"BudgetTrace, {ENVIRONMENTS} at once", done / one, "steps/s", "more", "SyncVectorEnv", done / peer
    )  # fmt: skip
    requests = steps
    plan = QueuePlan.solve(
        ladder, deadline_ms=DEADLINE_MS, rates_per_s=[RATE_PER_S], slack_bins=20 if quick else 100
    )
    env = QueueEnv(ladder, rate_per_s=RATE_PER_S, deadline_ms=DEADLINE_MS, requests=requests)
    env.reset(seed=0)
    workload, service_ms = env.drawn

    def told() -> None:
        serve(workload, ladder, plan, service_ms=service_ms, compiled=False)

    policy = plan.bind(ladder)
    one, peer = seconds(lambda: episode(env, policy), told, repeat=repeat)
    yield Row("Queue, one", requests / one, "requests/s", "more", "serve", requests / peer)


def play(envs: VectorEnv, steps: int) -> Callable[[], None]:
    """Return a function that plays random actions."""
    actions = np.random.default_rng(0).integers(0, 3, (steps, envs.num_envs))

    def all_steps() -> None:
        envs.reset(seed=0)
        for chosen in actions:
            envs.step(chosen)

    return all_steps


def episode(env: QueueEnv, policy: QueuePolicy) -> None:
    """Play an episode by a policy."""
    _, info = env.reset(seed=0)
    over = False
    while not over:
        decided = policy.plan(info["queued"], info["active"])
        *_, over, info = env.step(env.decisions.index(decided))
