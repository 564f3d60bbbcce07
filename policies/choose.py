"""From what a user writes (a file, a rule's name, nothing) to a policy that decides."""

from __future__ import annotations

from pathlib import Path

from ..model_zoo.profile import Profile
from .committee import Committee
from .frame import Objective
from .lookup import Policy
from .rules import is_rule, rule
from .table import TablePolicy
from .watch import WatchedTable


def choose(
    spec: str | Path | TablePolicy | Policy | None,
    profile: Profile,
    *,
    latency: str = "p95",
    objective: Objective | None = None,
    adapt: bool = False,
    watch: bool = False,
) -> Policy:
    """Return the policy that `spec` names, ready to decide for `profile`.

    A rule's name, the path of a `policy.npz`, a `TablePolicy`, a policy (returned as it is), or None:
    a table solved here and now on the cautious default chain. With `adapt` a table keeps learning,
    with `watch` its certificate is tested while it runs.
    Raises `PolicyError` or `InputError`.
    """
    if spec is None:
        spec = TablePolicy.solve(profile, objective=objective, latency=latency)
    elif isinstance(spec, str) and is_rule(spec):
        return rule(spec, profile.costs(latency), objective)
    elif isinstance(spec, str | Path):
        spec = TablePolicy.load(spec)
    if isinstance(spec, TablePolicy):
        table, costs = spec.bind(profile), profile.costs(spec.latency)
        if adapt:
            return Committee(costs, spec.objective, spec.history)
        if watch:
            return WatchedTable(spec, profile)
        return table
    return spec
