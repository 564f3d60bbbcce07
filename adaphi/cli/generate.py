"""Commands that make budget traces by a law: Markov, regimes, days, heat, a battery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from ..errors import InputError
from .options import numbers, seconds

if TYPE_CHECKING:
    from ..policies.trace import Trace
    from ..sim.heat import HeatModel

app = typer.Typer(
    help="Make budget traces by a law; the same seed makes the same trace.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Output: TypeAlias = Annotated[
    Path, typer.Option("-o", "--output", help="The trace: .csv, .npz or .parquet.")
]
Rows: TypeAlias = Annotated[int, typer.Option(help="How many rows, at most.")]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Of all that is drawn.")]
Step: TypeAlias = Annotated[str, typer.Option(help="From one row to the next.")]
Budget: TypeAlias = Annotated[float, typer.Option("--budget-ms", help="At the full clock.")]
Spread: TypeAlias = Annotated[float, typer.Option(help="Relative standard deviation of the noise.")]
Memory: TypeAlias = Annotated[
    float, typer.Option(help="The noise's autocorrelation from row to row, 0 to below 1.")
]


def _write(trace: Trace, output: Path) -> None:
    trace.write(output)
    typer.echo(f"{output}: {len(trace)} rows, {trace.time_s[-1]:g} s")


@app.command()
def markov(
    output: Output,
    like: Annotated[Path, typer.Option(help="The budget trace whose chain is taken.")],
    rows: Rows = 1000,
    levels: Annotated[int, typer.Option(min=2, help="Of the chain.")] = 24,
    seed: Seed = 0,
) -> None:
    """Budgets that move as another trace's: by the chain that policies learn from it.

    \b
    Example:
      adaphi trace generate markov --like budget.csv --rows 10000 -o long.csv
    """
    from ..policies.trace import Trace
    from ..sim import generating

    _write(generating.markov(Trace.read(like), rows, levels=levels, seed=seed), output)


@app.command()
def regime(
    output: Output,
    levels_ms: Annotated[str, typer.Option(help="Budgets, with commas between.")] = "20,45,80",
    stay: Annotated[str, typer.Option(help="Mean seconds in each, or in all alike.")] = "60",
    spread: Spread = 0.1,
    memory: Memory = 0.0,
    step: Step = "1s",
    rows: Rows = 1000,
    seed: Seed = 0,
) -> None:
    """Budgets that stay near one level for a while, then jump to another.

    \b
    Example:
      adaphi trace generate regime --levels-ms 20,45,80 --stay 300,60,120 -o jumps.csv
    """
    from ..sim import generating

    levels, stays = numbers(levels_ms, "--levels-ms") or (), numbers(stay, "--stay") or ()
    if len(stays) not in (1, len(levels)):
        raise InputError(f"--stay {stay!r}: one number, or {len(levels)} as --levels-ms has")
    trace = generating.regime(
        rows, levels_ms=levels, stay_s=stays, spread=spread, memory=memory,
        step_s=seconds(step, "--step"), seed=seed,
    )  # fmt: skip
    _write(trace, output)


@app.command()
def diurnal(
    output: Output,
    median_ms: Annotated[float, typer.Option(help="Between day and night.")] = 50.0,
    swing: Annotated[
        float, typer.Option(help="At midnight there is exp(2 · swing) times as much as at noon.")
    ] = 0.5,
    day: Annotated[str, typer.Option(help="How long a day is.")] = "24h",
    spread: Spread = 0.1,
    memory: Memory = 0.9,
    step: Step = "1m",
    rows: Rows = 2880,
    seed: Seed = 0,
) -> None:
    """Budgets of days and nights: least at noon, when everything else is busy.

    \b
    Example:
      adaphi trace generate diurnal --rows 10080 -o week.csv
    """
    from ..sim import generating

    trace = generating.diurnal(
        rows, median_ms=median_ms, swing=swing, day_s=seconds(day, "--day"), spread=spread,
        memory=memory, step_s=seconds(step, "--step"), seed=seed,
    )  # fmt: skip
    _write(trace, output)


@app.command()
def thermal(
    output: Output,
    place: Annotated[
        str, typer.Option(help="A Raspberry Pi 4B as fitted: orbit (it throttles) or desk.")
    ] = "orbit",
    like: Annotated[
        Path | None,
        typer.Option(help="Fit the model to a file with time_s, celsius, watts and maybe clock."),
    ] = None,
    budget_ms: Budget = 50.0,
    idle_w: Annotated[float, typer.Option(help="Watts when idle.")] = 2.5,
    busy_w: Annotated[float, typer.Option(help="Watts when busy.")] = 4.9,
    idle: Annotated[str, typer.Option(help="Mean time that it is idle.")] = "5m",
    busy: Annotated[str, typer.Option(help="Mean time that it is busy.")] = "15m",
    step: Step = "1s",
    rows: Rows = 3600,
    seed: Seed = 0,
) -> None:
    """Budgets of a device that heats up when it is busy, and slows down when it is hot.

    \b
    Examples:
      adaphi trace generate thermal -o hot.csv
      adaphi trace generate thermal --like board.csv --busy-w 6 -o hot.csv
    """
    from ..sim import heat

    trace = heat.thermal(
        _heat_model(place, like), rows, budget_ms=budget_ms, idle_w=idle_w, busy_w=busy_w,
        idle_s=seconds(idle, "--idle"), busy_s=seconds(busy, "--busy"),
        step_s=seconds(step, "--step"), seed=seed,
    )  # fmt: skip
    _write(trace, output)


def _heat_model(place: str, like: Path | None) -> HeatModel:
    """Return the model of a place, or the one of a recording; say how good the latter is."""
    from ..policies.trace import read_columns
    from ..sim import heat

    if like is None:
        places = {"orbit": heat.PI_ORBIT, "desk": heat.PI_DESK}
        if place not in places:
            raise InputError(f"--place {place!r}: expected {' or '.join(places)}")
        return places[place]
    columns = read_columns(like)
    missing = [name for name in ("time_s", "celsius", "watts") if name not in columns]
    if missing:
        raise InputError(f"{like}: no column {', '.join(missing)}; found {', '.join(columns)}")
    time_s, celsius, watts = (columns[name] for name in ("time_s", "celsius", "watts"))
    fit = heat.fit_heat(time_s, celsius, watts, columns.get("clock"))
    model = fit.model
    typer.echo(
        f"{like}: {model.celsius_per_watt:.3g} °C a watt above {model.surroundings_celsius:.3g} °C, "
        f"time constant {model.time_constant_s:.4g} s; the fit is off by {fit.error_celsius:.2g} °C and "
        f"explains {fit.explained:.1%} of the temperature"
    )
    if "clock" in columns:
        typer.echo(
            f"throttling from {model.limit_celsius:.4g} °C, {model.clock_per_celsius:.2%} of the clock a "
            f"degree; off by {fit.error_clock:.1%}, explains {fit.clock_explained:.1%} of the clock"
        )
    return model


@app.command()
def battery(
    output: Output,
    battery_wh: Annotated[float, typer.Option(help="What it holds at the start.")] = 15.0,
    idle_w: Annotated[float, typer.Option(help="What all else takes when idle.")] = 0.5,
    busy_w: Annotated[float, typer.Option(help="What all else takes when busy.")] = 3.0,
    idle: Annotated[str, typer.Option(help="Mean time that it is idle.")] = "15m",
    busy: Annotated[str, typer.Option(help="Mean time that it is busy.")] = "5m",
    budget_ms: Budget = 50.0,
    saver_share: Annotated[float, typer.Option(help="Level that it spares itself below.")] = 0.2,
    saver_budget: Annotated[float, typer.Option(help="Share of the budget left then.")] = 0.6,
    spread: Spread = 0.05,
    step: Step = "1s",
    rows: Rows = 100_000,
    seed: Seed = 0,
) -> None:
    """Budgets of a device whose battery runs down and which spares itself at the end.

    The columns `drain_w` and `energy_j` go with it, as `adaphi simulate --battery-wh` needs them.

    \b
    Example:
      adaphi trace generate battery --battery-wh 15 -o day.csv
    """
    from ..sim import generating

    trace = generating.battery(
        rows, battery_wh=battery_wh, idle_w=idle_w, busy_w=busy_w, idle_s=seconds(idle, "--idle"),
        busy_s=seconds(busy, "--busy"), budget_ms=budget_ms, saver_share=saver_share,
        saver_budget=saver_budget, spread=spread, step_s=seconds(step, "--step"), seed=seed,
    )  # fmt: skip
    _write(trace, output)
