"""Commands that need no device and no clock: solve, simulate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import show
from .options import Adapt, Json, Latency, MissCost, ProfileFile, SwitchCost, make_objective

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Traces = Annotated[
    list[Path] | None,
    typer.Option("--trace", help="A budget trace to learn from; may be given several times."),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write the policy.")]
TraceFile = Annotated[Path, typer.Option("--trace", help="The budget trace to replay.")]
PolicyName = Annotated[
    str,
    typer.Option(
        "--policy",
        help="A policy.npz, or a rule: static:PHI, greedy, hysteresis[:GUARD,PATIENCE], alert, random:SEED.",
    ),
]


def solve(
    profile: ProfileFile,
    output: Output = Path("policy.npz"),
    trace: Traces = None,
    miss_cost: MissCost = None,
    switch_cost: SwitchCost = None,
    latency: Latency = "p95",
    discount: Annotated[
        str, typer.Option(help="`average`, or the discount of a step in (0, 1).")
    ] = "average",
    as_json: Json = False,
) -> None:
    """Solve the table policy for a profile and budget traces.

    Without a trace, a cautious default chain stands for how budgets move.

    \b
    Example:
      adaphi solve --profile profile.json --trace monday.csv --trace tuesday.csv -o policy.npz
    """
    from ..model_zoo.profile import Profile
    from ..policies.table import TablePolicy
    from ..policies.trace import Trace

    objective = make_objective(miss_cost, switch_cost, discount=discount)
    budgets = [Trace.read(path).budget_ms for path in trace or []]
    policy = TablePolicy.solve(Profile.load(profile), budgets, objective=objective, latency=latency)
    policy.save(output)
    promise = policy.certificate
    if as_json:
        from dataclasses import asdict

        show.print_json({"output": str(output), "certificate": asdict(promise)})
        return
    bins, variants = policy.table.shape
    typer.echo(f"{output}: {bins} bins × {variants} variants, solved on {_learned_from(budgets)}")
    typer.echo(
        f"optimal reward a step between {promise.lower:.9f} and {promise.upper:.9f}"
        + ("" if promise.converged else " (not converged)")
    )
    typer.echo(
        f"on that chain: {promise.on_time_share:.1%} on time, "
        f"{promise.switch_share:.1%} switches, mean quality {promise.mean_quality:.4f}"
    )


def simulate(
    profile: ProfileFile,
    trace: TraceFile,
    policy: PolicyName,
    adapt: Adapt = False,
    miss_cost: MissCost = None,
    switch_cost: SwitchCost = None,
    latency: Latency = "p95",
    as_json: Json = False,
    decisions: Annotated[
        Path | None, typer.Option(help="Write every step's decision to this CSV.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the replay to this PNG or SVG (extra `report`).")
    ] = None,
) -> None:
    """Replay one policy over a budget trace.

    Prices that are not given come from the policy file; for a rule they are 0.5 and 0.01.

    \b
    Examples:
      adaphi simulate --profile profile.json --policy policy.npz --trace tuesday.csv
      adaphi simulate --profile profile.json --policy hysteresis --trace tuesday.csv --json
    """
    from ..model_zoo.profile import Profile
    from ..policies.rules import is_rule
    from ..policies.table import TablePolicy
    from ..policies.trace import Trace
    from ..sim.replay import replay

    chosen = policy if is_rule(policy) else TablePolicy.load(policy)
    default = chosen.objective if isinstance(chosen, TablePolicy) else None
    objective = make_objective(miss_cost, switch_cost, default=default)
    outcome = replay(
        Trace.read(trace),
        Profile.load(profile),
        chosen,
        objective=objective,
        latency=latency,
        adapt=adapt,
    )
    if decisions is not None:
        outcome.write_decisions(decisions)
    if picture is not None:
        from ..sim.picture import draw

        draw(outcome, picture)
    if as_json:
        show.print_json(outcome.summary())
    else:
        show.print_table(show.replay_table(outcome))


def compare(
    profile: ProfileFile,
    train: Annotated[
        list[Path],
        typer.Option("--train", help="A trace to learn from; may be given several times."),
    ],
    test: Annotated[Path, typer.Option("--test", help="The trace to score on.")],
    miss_cost: MissCost = None,
    switch_cost: SwitchCost = None,
    latency: Latency = "p95",
    memory: Annotated[
        bool,
        typer.Option("--memory", help="Compare what stays resident: traces with memory_bytes."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Score every policy on a trace that none has seen.

    Every rule, the table, the refreshed table, and the clairvoyant bound. The table is solved, and
    hysteresis tuned, on the --train traces alone. With --memory the traces have a column memory_bytes,
    and the plan of what stays resident stands beside the usual eviction rules.

    \b
    Examples:
      adaphi compare --profile profile.json --train monday.csv --test tuesday.csv
      adaphi compare --profile profile.json --train monday.csv --test tuesday.csv --memory
    """
    from ..model_zoo.profile import Profile
    from ..policies.trace import Trace

    learned = [Trace.read(path) for path in train]
    scored, costs = Trace.read(test), Profile.load(profile)
    objective = make_objective(miss_cost, switch_cost)
    if memory:
        from ..sim.resident import compare_resident

        outcomes = compare_resident(learned, scored, costs, objective=objective, latency=latency)
        if as_json:
            show.print_json([outcome.summary() for outcome in outcomes])
        else:
            show.print_table(show.resident_table(scored.name, outcomes))
        return
    from ..sim.compare import compare as run

    comparison = run(learned, scored, costs, objective=objective, latency=latency)
    if as_json:
        show.print_json(comparison.summary())
    else:
        show.print_table(show.comparison_table(comparison))


def _learned_from(budgets: list[NDArray[np.float64]]) -> str:
    if not budgets:
        return "the default chain"
    rows = sum(map(len, budgets))
    return f"{rows} rows of {len(budgets)} trace{'s' if len(budgets) > 1 else ''}"
