"""From what a user writes (a file, a rule's name, nothing) to a policy that decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..model_zoo.profile import Profile
from . import files
from .committee import Committee
from .frame import Objective
from .lookup import Policy
from .queue_table import QueuePlan
from .resident import MOST_VARIANTS, ResidentTable
from .rules import is_rule, rule
from .table import TablePolicy
from .watch import WatchedTable


def choose(
    spec: str | Path | files.Solved | Policy | None,
    profile: Profile,
    *,
    latency: str = "p95",
    objective: Objective | None = None,
    adapt: bool = False,
    watch: bool = False,
    memory_limit_bytes: float | None = None,
) -> Policy:
    """Return the policy that `spec` names, ready to decide for `profile`.

    A rule's name, the path of a `policy.npz`, what is in one, a policy (returned as it is), or None: a table
    solved here and now on the cautious default chain. A plan for queues is taken as it is. With `adapt` a
    table keeps learning, with `watch` its certificate is tested while it runs. A table with a battery to plan
    for goes by the battery's level, one that knows blur by that of the requests, whatever else is asked for.
    Where the ladder takes more than `memory_limit_bytes`, a table that does not learn is replaced by a plan
    of what stays resident, solved on the same history. Raises `PolicyError` or `InputError`.
    """
    if spec is None:
        spec = TablePolicy.solve(profile, objective=objective, latency=latency)
    elif isinstance(spec, str) and is_rule(spec):
        return rule(spec, profile.costs(latency), objective)
    elif isinstance(spec, str | Path):
        spec = files.load(spec)
    if isinstance(spec, QueuePlan):
        return spec.bind(profile)
    if isinstance(spec, TablePolicy):
        if spec.battery is not None:
            return spec.bind_battery(profile)
        if spec.blur is not None:
            return spec.bind_blur(profile)
        table, costs = spec.bind(profile), profile.costs(spec.latency)
        if adapt:
            return Committee(costs, spec.objective, spec.history)
        if memory_limit_bytes is not None and not _fits(profile, memory_limit_bytes):
            return ResidentTable.solve(
                profile,
                budgets=[series * costs.latency_ms[0] for series in spec.history],
                memory=[np.full(2, memory_limit_bytes)],
                objective=spec.objective,
                latency=spec.latency,
            )
        if watch:
            return WatchedTable(spec, profile)
        return table
    return spec


def _fits(profile: Profile, memory_limit_bytes: float) -> bool:
    """Say whether the whole ladder may be resident, or too little is known of it to plan what may."""
    sizes = [v.memory_bytes or 0 for v in profile.variants]
    plannable = all(sizes) and profile.cold_stall_ms is not None and len(sizes) <= MOST_VARIANTS
    return not plannable or sum(sizes) <= memory_limit_bytes
