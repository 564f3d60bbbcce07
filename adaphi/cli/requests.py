"""`adaphi requests`: what a daemon would make of requests that arrive on their own clock."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import show
from .options import Arrivals, Json, Latency, ProfileFile, Speed, Thin

if TYPE_CHECKING:
    from ..sim.workload import Workload


def requests(
    profile: ProfileFile,
    policy: Annotated[
        list[str],
        typer.Option(
            "--policy", help="A policy file or a rule's name; may be given several times."
        ),
    ],
    arrivals: Arrivals,
    deadline_ms: Annotated[float, typer.Option(min=0, help="From arrival to answer.")],
    number: Annotated[
        int, typer.Option("--number", min=1, help="How many requests, where a rate is given.")
    ] = 100_000,
    speed: Speed = 1.0,
    thin: Thin = 1.0,
    slowdown: Annotated[
        Path | None,
        typer.Option(
            help="A trace whose budget_ms column is the factor by which runs take longer."
        ),
    ] = None,
    budget: Annotated[
        Path | None, typer.Option(help="A budget trace that the sensors read (budget_ms, max_phi).")
    ] = None,
    max_requests: Annotated[int, typer.Option(min=1, help="How many may wait at a time.")] = 64,
    max_batch: Annotated[
        int, typer.Option(min=1, help="How many requests a run may answer together.")
    ] = 1,
    batch_growth: Annotated[
        float, typer.Option(min=0, max=1, help="What each further one adds, in runs of one alone.")
    ] = 1.0,
    latency: Latency = "p95",
    seed: Annotated[int, typer.Option(help="Of arrivals and latencies.")] = 0,
    as_json: Json = False,
) -> None:
    """Simulate a daemon request by request: arrivals, queue, admission, stalls, slow-down.

    The daemon's own scheduler and policies serve the arrivals under a clock that jumps; latencies are drawn
    from the profile. Every policy meets the same arrivals and the same luck.

    \b
    Examples:
      adaphi requests --profile profile.json --policy policy.npz --policy greedy \\
          --arrivals poisson:30 --deadline-ms 80
      adaphi requests --profile profile.json --policy policy.npz --deadline-ms 80 \\
          --arrivals counts.csv --speed 4 --slowdown afternoon.csv
    """
    from ..model_zoo.profile import Profile
    from ..policies.trace import Trace
    from ..sim.requests import World, serve

    costs = Profile.load(profile)
    workload = workload_of(arrivals, deadline_ms, number=number, speed=speed, thin=thin, seed=seed)
    world = World(
        None if slowdown is None else Trace.read(slowdown),
        None if budget is None else Trace.read(budget),
    )
    outcomes = [
        serve(
            workload,
            costs,
            name,
            world=world,
            max_requests=max_requests,
            max_batch=max_batch,
            batch_growth=batch_growth,
            latency=latency,
            seed=seed,
        )
        for name in policy
    ]
    if as_json:
        show.print_json([outcome.summary() for outcome in outcomes])
    else:
        show.print_table(show.served_table(outcomes))


def workload_of(
    arrivals: str,
    deadline_ms: float,
    *,
    number: int | None = None,
    lasts_s: float = math.inf,
    speed: float,
    thin: float,
    seed: int,
) -> Workload:
    """Return what `--arrivals` means, until `lasts_s`; of a rate `number` requests, if that is given."""
    from ..sim.workload import Source

    source = Source.read(arrivals)
    if number is None and source.rate_per_s:
        expected = source.rate_per_s * lasts_s
        number = math.ceil(expected + 10 * math.sqrt(expected) + 10)  # more than will be needed
    workload = source.draw(number or 1, deadline_ms, speed=speed, thin=thin, seed=seed)
    return workload if lasts_s == math.inf else workload.until(lasts_s)
