"""`adaphi replay --live` and `adaphi fidelity`: a workload in real time, alone and beside its simulation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import show
from .options import (
    Address,
    Arrivals,
    Json,
    KeyFile,
    Latency,
    ProfileFile,
    ServerKey,
    Speed,
    Thin,
    seconds,
)
from .requests import workload_of

if TYPE_CHECKING:
    from ..model_zoo.profile import Profile
    from ..policies.trace import Trace
    from ..sim.live import Live
    from ..sim.workload import Workload

DeadlineMs = Annotated[float, typer.Option("--deadline-ms", min=0, help="From arrival to answer.")]
Lasts = Annotated[
    str, typer.Option("--seconds", help="Play so much of it: 90s, 10m or a number of seconds.")
]
Budget = Annotated[
    Path | None,
    typer.Option("--budget", help="A trace that is pushed meanwhile: budget_ms, perhaps max_phi."),
]
BudgetSpeed = Annotated[
    float, typer.Option("--budget-speed", help="Push the budgets this many times faster.")
]
Picture = Annotated[
    Path | None, typer.Option("--picture", help="What every request asks about. [an example]")
]
Seed = Annotated[int, typer.Option(help="Of arrivals, and of simulated latencies.")]


def replay(
    profile: ProfileFile,
    arrivals: Arrivals,
    deadline_ms: DeadlineMs,
    lasts: Lasts = "60s",
    live: Annotated[
        bool, typer.Option("--live", help="Ask a running daemon, in real time.")
    ] = False,
    speed: Speed = 1.0,
    thin: Thin = 1.0,
    budget: Budget = None,
    budget_speed: BudgetSpeed = 1.0,
    picture: Picture = None,
    address: Address = None,
    server_key: ServerKey = None,
    key_file: KeyFile = None,
    output: Annotated[
        Path | None, typer.Option("--requests", help="Write what became of each request (CSV).")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Play arrivals and budgets to a running daemon, as an ordinary client, each request at its time.

    Nothing waits for answers, and nothing is sent twice. For --budget the daemon has to take pushed budgets
    ("pushed" among budget.sources). How late the client itself was is told: where that is much, use another
    machine or fewer requests.

    \b
    Examples:
      adaphi replay --live --profile profile.json --arrivals poisson:20 --deadline-ms 100
      adaphi replay --live --profile profile.json --arrivals counts.csv --speed 10 --thin 0.2 \\
          --deadline-ms 100 --budget afternoon.csv --seconds 5m --requests requests.csv
    """
    if not live:
        raise InputError(
            "adaphi replay asks a running daemon: say --live",
            help="offline, use `adaphi simulate` for frames and `adaphi requests` for requests",
        )
    costs, workload, trace = _parts(
        profile, arrivals, deadline_ms, lasts, speed, thin, budget, budget_speed, seed
    )
    outcome = _play(workload, costs, picture, address, server_key, key_file, trace, as_json)
    if output is not None:
        outcome.write_csv(output)
    if as_json:
        show.print_json(outcome.summary())
        return
    show.print_table(show.served_table([outcome]))
    typer.echo(show.client_line(outcome))


def fidelity(
    profile: ProfileFile,
    policy: Annotated[str, typer.Option("--policy", help="The daemon's: a file or a rule.")],
    arrivals: Arrivals,
    deadline_ms: DeadlineMs,
    lasts: Lasts = "60s",
    speed: Speed = 1.0,
    thin: Thin = 1.0,
    budget: Budget = None,
    budget_speed: BudgetSpeed = 1.0,
    picture: Picture = None,
    address: Address = None,
    server_key: ServerKey = None,
    key_file: KeyFile = None,
    latency: Latency = "p95",
    max_requests: Annotated[int, typer.Option(min=1, help="The daemon's queue.max_requests.")] = 64,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Play arrivals and budgets to a running daemon, simulate the same, and print both side by side.

    The times that runs take are drawn many times: the table has the mean of all draws, and the range in
    which nine plays of ten should be. A mean too far from what happened is "off"; what happened is
    "unexpected" outside the range.

    Give what the daemon was started with: its profile, its policy, the latency it plans with. Nothing else
    should use the machine, and the profile should be fresh: a simulation knows a device by its profile alone.

    \b
    Example:
      adaphi fidelity --profile profile.json --policy policy.npz --arrivals poisson:20 --deadline-ms 100
    """
    from ..sim.fidelity import Fidelity, simulate

    costs, workload, trace = _parts(
        profile, arrivals, deadline_ms, lasts, speed, thin, budget, budget_speed, seed
    )
    simulated = partial(
        simulate,
        workload,
        costs,
        policy,
        budget=trace,
        latency=latency,
        max_requests=max_requests,
        seed=seed,
    )
    before = simulated()  # what is wrong is told before anything is played
    both = Fidelity(
        before, _play(workload, costs, picture, address, server_key, key_file, trace, as_json)
    )
    paced = Fidelity(simulated(pace=both.pace), both.live)
    if as_json:
        show.print_json(both.as_json() | {"at_pace": paced.as_json()})
        return
    show.print_table(show.fidelity_table(both))
    typer.echo(show.pace_line(both, paced))
    typer.echo(show.client_line(both.live))


def _parts(
    profile: Path,
    arrivals: str,
    deadline_ms: float,
    lasts: str,
    speed: float,
    thin: float,
    budget: Path | None,
    budget_speed: float,
    seed: int,
) -> tuple[Profile, Workload, Trace | None]:
    """Return the profile, the workload of the seconds wanted, and the budgets at their speed."""
    from ..model_zoo.profile import Profile
    from ..policies.trace import Trace

    costs = Profile.load(profile)
    lasts_s = seconds(lasts, "--seconds")
    workload = workload_of(
        arrivals, deadline_ms, lasts_s=lasts_s, speed=speed, thin=thin, seed=seed
    )
    if budget is None:
        return costs, workload, None
    trace = Trace.read(budget)
    if not budget_speed > 0:
        raise InputError(f"--budget-speed is {budget_speed:g}; expected a number above 0")
    return costs, workload, replace(trace, time_s=trace.time_s / budget_speed)


def _play(
    workload: Workload,
    costs: Profile,
    picture: Path | None,
    address: str | None,
    server_key: str | None,
    key_file: Path | None,
    budget: Trace | None,
    quiet: bool,
) -> Live:
    from ..model_zoo.images import example_image
    from ..sim.live import play

    with show.progress(quiet) as tell:
        return play(
            workload,
            costs,
            example_image() if picture is None else picture,
            address=address,
            budget=budget,
            progress=tell,
            server_key=server_key,
            key_file=key_file,
        )
