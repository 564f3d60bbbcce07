"""Commands that need no device and no clock: solve, simulate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import reporting, show
from .options import (
    Adapt,
    BatteryWh,
    Json,
    Latency,
    MissCost,
    ProfileFile,
    SwitchCost,
    make_objective,
    numbers,
    seconds,
    writable,
)
from .reporting import Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..model_zoo.profile import Profile
    from ..policies.frame import Objective
    from ..policies.table import TablePolicy
    from ..policies.trace import Trace

Traces = Annotated[
    list[Path] | None,
    typer.Option("--trace", help="A budget trace to learn from; may be given several times."),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="Where to write the policy.", callback=writable)
]
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
    battery_wh: BatteryWh = None,
    until: Annotated[
        str, typer.Option(help="How long the battery has to last: 8h, 90m, 45s.")
    ] = "8h",
    period_ms: Annotated[
        float, typer.Option(help="Time from one answer to the next, for the battery.")
    ] = 100.0,
    arrivals: Annotated[
        str | None,
        typer.Option(help="Requests a second, or lowest,highest: plan a queue, not a frame loop."),
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="From arrival to answer, for a queue.")
    ] = None,
    blur: Annotated[
        Path | None,
        typer.Option(
            help="What `adaphi plan drone -o` measured: go by each request's motion blur."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Solve the table policy for a profile and budget traces.

    Without a trace, a cautious default chain stands for how budgets move. With --battery-wh the policy has a
    table for each price of energy and makes the battery last; traces with a column drain_w say what
    everything else takes. With --blur it has a table for each motion blur, and a request says how much it is
    blurred. With --arrivals the policy is for requests that come on their own clock and wait:
    it goes by queue, slack, arrival rate and slow-down (its --miss-cost is 1.5, its --switch-cost 0).

    \b
    Examples:
      adaphi solve --profile profile.json --trace monday.csv --trace tuesday.csv -o policy.npz
      adaphi solve --profile profile.json --trace monday.csv --battery-wh 15 --until 10h
      adaphi solve --profile profile.json --trace monday.csv --blur blur.json
      adaphi solve --profile profile.json --arrivals 5,40 --deadline-ms 150 -o queue.npz
    """
    if arrivals is not None:
        if trace or battery_wh is not None or discount != "average" or blur is not None:
            raise InputError(
                "--arrivals goes with neither --trace, --battery-wh, --blur nor --discount"
            )
        _solve_queue(
            profile, output, arrivals, deadline_ms, miss_cost, switch_cost, latency, as_json
        )
        return
    from ..model_zoo.profile import Profile
    from ..policies.table import TablePolicy

    if battery_wh is not None and blur is not None:
        raise InputError("a policy goes by a battery or by blur: --battery-wh and --blur exclude")
    objective = make_objective(miss_cost, switch_cost, discount=discount)
    traces, costs = _read_to_learn(trace), Profile.load(profile)
    budgets = [each.budget_ms for each in traces]
    policy = TablePolicy.solve(costs, budgets, objective=objective, latency=latency)
    if battery_wh is not None:
        drains = [(t.time_s, t.columns["drain_w"]) for t in traces if "drain_w" in t.columns]
        try:
            policy = policy.with_battery(
                costs,
                battery_j=battery_wh * 3600,
                horizon_s=seconds(until, "--until"),
                period_s=period_ms / 1e3,
                drains=drains,
            )
        except ValueError as error:
            raise InputError(str(error)) from None
    if blur is not None:
        policy = _with_blur(policy, costs, blur)
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
    for line in show.promise_lines(policy):
        typer.echo(line)


def _with_blur(policy: TablePolicy, costs: Profile, file: Path) -> TablePolicy:
    """Return the policy with a table for each blur of a measurement; raise `InputError`."""
    from ..model_zoo.scaling.blurring import Blurred

    measured = Blurred.load(file)
    names = [seen.name for seen in measured.ladder()]
    if names != (found := [v.name for v in costs.variants]):
        raise InputError(
            f"{file} measured {', '.join(names)}; the profile has {', '.join(found)}",
            help="measure that ladder with `adaphi plan drone --images DIR --ladder NAME -o FILE`",
        )
    return policy.with_blur(costs, measured.shares, measured.kept())


def _solve_queue(
    profile: Path,
    output: Path,
    arrivals: str,
    deadline_ms: float | None,
    miss_cost: float | None,
    switch_cost: float | None,
    latency: str,
    as_json: bool,
) -> None:
    from ..model_zoo.profile import Profile
    from ..policies.queue_table import OBJECTIVE, QueuePlan

    if deadline_ms is None:
        raise InputError("--arrivals needs --deadline-ms: how long requests may wait and run")
    objective = make_objective(miss_cost, switch_cost, default=OBJECTIVE)
    plan = QueuePlan.solve(
        Profile.load(profile),
        deadline_ms=deadline_ms,
        rates_per_s=numbers(arrivals, "--arrivals") or (),
        miss_cost=objective.miss_cost,
        switch_cost=objective.switch_cost,
        latency=latency,
    )
    plan.save(output)
    if as_json:
        levels = {
            name: getattr(plan, name).tolist() for name in ("slowdowns", "rates_per_s", "bounds")
        }
        show.print_json({"output": str(output), **levels})
        return
    factors, rates, waiting, slacks, variants = plan.table.shape
    gap = float((plan.bounds[..., 1] - plan.bounds[..., 0]).max())
    typer.echo(
        f"{output}: {factors} slow-downs × {rates} arrival rates, each {waiting} × {slacks} × {variants} "
        f"states (waiting, slack, active variant)"
    )
    typer.echo(
        f"from {plan.rates_per_s[0]:.3g} to {plan.rates_per_s[-1]:.3g} requests a second; "
        f"each optimum known to {gap:.2g} a second"
    )


def simulate(
    profile: ProfileFile,
    trace: TraceFile,
    policy: PolicyName,
    adapt: Adapt = False,
    battery_wh: BatteryWh = None,
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
    report: Report = None,
) -> None:
    """Replay one policy over a budget trace.

    Prices that are not given come from the policy file; for a rule they are 0.5 and 0.01. With --battery-wh
    the trace has a column drain_w, and the replay says how long the battery lasts.

    \b
    Examples:
      adaphi simulate --profile profile.json --policy policy.npz --trace tuesday.csv
      adaphi simulate --profile profile.json --policy policy.npz --trace day.csv --battery-wh 15
      adaphi simulate --profile profile.json --policy hysteresis --trace tuesday.csv --json
      adaphi simulate --profile profile.json --policy policy.npz --trace tuesday.csv --report tuesday.html
    """
    from ..model_zoo.profile import Profile
    from ..policies.rules import is_rule
    from ..policies.table import TablePolicy
    from ..policies.trace import Trace
    from ..sim.replay import replay

    chosen = policy if is_rule(policy) else TablePolicy.load(policy)
    default = chosen.objective if isinstance(chosen, TablePolicy) else None
    objective = make_objective(miss_cost, switch_cost, default=default)
    played, costs = Trace.read(trace), Profile.load(profile)
    if battery_wh is not None:
        if decisions is not None or picture is not None or report is not None:
            raise InputError("--decisions, --picture and --report do not go with --battery-wh")
        _simulate_battery(played, costs, chosen, battery_wh, objective, latency, adapt, as_json)
        return
    outcome = replay(played, costs, chosen, objective=objective, latency=latency, adapt=adapt)
    if decisions is not None:
        outcome.write_decisions(decisions)
    if picture is not None:
        from ..sim.picture import draw

        draw(outcome, picture)
    if report is not None:
        inputs = [profile, trace, *([] if is_rule(policy) else [Path(policy)])]
        reporting.write(
            report,
            reporting.beside_rules(outcome, costs, latency),
            inputs,
            latency=latency,
            table=chosen if isinstance(chosen, TablePolicy) else None,
        )
    if as_json:
        show.print_json(outcome.summary())
    else:
        show.print_table(show.replay_table(outcome))


def _simulate_battery(
    trace: Trace,
    profile: Profile,
    policy: str | TablePolicy,
    battery_wh: float,
    objective: Objective,
    latency: str,
    adapt: bool,
    as_json: bool,
) -> None:
    from ..policies.choose import choose
    from ..sim.battery import clairvoyant_battery, replay_battery

    decider = choose(policy, profile, latency=latency, objective=objective, adapt=adapt)
    battery_j = battery_wh * 3600
    outcomes = [
        replay_battery(trace, profile, decider, battery_j, objective=objective, latency=latency),
        clairvoyant_battery(trace, profile, battery_j, objective=objective, latency=latency)[0],
    ]
    if as_json:
        show.print_json([outcome.summary() for outcome in outcomes])
    else:
        show.print_table(show.battery_table(trace.name, outcomes))


def compare(
    profile: ProfileFile,
    train: Annotated[
        list[Path] | None,
        typer.Option("--train", help="A trace to learn from; may be given several times."),
    ] = None,
    test: Annotated[Path | None, typer.Option("--test", help="The trace to score on.")] = None,
    flight: Annotated[
        Path | None,
        typer.Option("--flight", help="Score on what a daemon recorded in this folder instead."),
    ] = None,
    miss_cost: MissCost = None,
    switch_cost: SwitchCost = None,
    latency: Latency = "p95",
    memory: Annotated[
        bool,
        typer.Option("--memory", help="Compare what stays resident: traces with memory_bytes."),
    ] = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Score every policy on a trace that none has seen.

    Every rule, the table, the refreshed table, and the clairvoyant bound. The table is solved, and
    hysteresis tuned, on the --train traces alone. With --memory the traces have a column memory_bytes,
    and the plan of what stays resident stands beside the usual eviction rules.

    With --flight: what would each policy have done with the requests that a daemon recorded, with the
    switching stalls seen there? Without --train, the first half is learned from and the second scored. What
    nobody ran is a model; what was done is scored both as it happened and as the model has it.

    \b
    Examples:
      adaphi compare --profile profile.json --train monday.csv --test tuesday.csv
      adaphi compare --profile profile.json --train monday.csv --test tuesday.csv --memory
      adaphi compare --profile profile.json --flight flights --report what_if.html
    """
    from ..model_zoo.profile import Profile
    from ..policies.trace import Trace

    if (test is None) == (flight is None):
        raise InputError("give a trace to score on: either --test or --flight")
    if memory and (report is not None or flight is not None):
        raise InputError("--memory goes with neither --flight nor --report")
    learned, costs = _read_to_learn(train), Profile.load(profile)
    objective = make_objective(miss_cost, switch_cost)
    inputs = [profile, *(train or []), flight or test or Path()]
    if flight is not None:
        _compare_flight(flight, costs, learned, objective, inputs, report, as_json)
        return
    if not learned or test is None:
        raise InputError("--test needs --train: a trace to learn from")
    scored = Trace.read(test)
    if memory:
        from ..sim.resident import compare_resident

        outcomes = compare_resident(learned, scored, costs, objective=objective, latency=latency)
        if as_json:
            show.print_json([outcome.summary() for outcome in outcomes])
        else:
            show.print_table(show.resident_table(scored.name, outcomes))
        return
    from ..policies.table import TablePolicy
    from ..sim.compare import compare as run

    table = TablePolicy.solve(
        costs, [t.budget_ms for t in learned], objective=objective, latency=latency
    )
    comparison = run(learned, scored, costs, objective=objective, latency=latency, policy=table)
    if report is not None:
        reporting.write(report, comparison, inputs, latency=latency, table=table)
    if as_json:
        show.print_json(comparison.summary())
    else:
        show.print_table(show.comparison_table(comparison))


def _read_to_learn(paths: list[Path] | None) -> list[Trace]:
    """Return the traces in these files; raise `TraceError` for one of which nothing can be learned."""
    from ..policies.trace import Trace
    from ..sim.scoring import check_length

    traces = [Trace.read(path) for path in paths or []]
    for each in traces:
        check_length(each, "learning")
    return traces


def _compare_flight(
    folder: Path,
    profile: Profile,
    learned: list[Trace],
    objective: Objective,
    inputs: list[Path],
    report: Path | None,
    as_json: bool,
) -> None:
    from ..sim.counterfactual import compare_flight

    found = compare_flight(folder, profile, learned, objective=objective)
    if report is not None:
        reporting.write(
            report, found.comparison, inputs, latency="as recorded", table=found.table,
            recorded=found,
        )  # fmt: skip
    if as_json:
        show.print_json(found.summary())
        return
    show.print_table(show.comparison_table(found.comparison))
    show.print_table(show.recorded_table(found))
    for line in show.recorded_lines(found):
        typer.echo(line)


def _learned_from(budgets: list[NDArray[np.float64]]) -> str:
    if not budgets:
        return "the default chain"
    rows = sum(map(len, budgets))
    return f"{rows} rows of {len(budgets)} trace{'s' if len(budgets) > 1 else ''}"
