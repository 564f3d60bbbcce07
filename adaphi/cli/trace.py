"""Commands for traces: import raw resources, describe a budget trace, split one, generate one."""

from __future__ import annotations

import time
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from ..errors import InputError
from . import generate, show
from .options import Json, moment_s, seconds

if TYPE_CHECKING:
    from ..sim.prometheus import Series

app = typer.Typer(
    help="Import, describe, split and generate budget traces.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(generate.app, name="generate")


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="CSV, NPZ or Parquet with a column time_s; a saved answer of Prometheus (.json); "
            "the address of a Prometheus; or a recording's folder."
        ),
    ],
    mapping: Annotated[
        str,
        typer.Option(
            "--as",
            help="cpu_percent, cpu_fraction, memory_percent, memory_fraction, celsius, absolute, slowdown, "
            "milliseconds, seconds; or flight for a recording.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The budget trace: .csv, .npz or .parquet.")
    ],
    column: Annotated[str | None, typer.Option(help="The resource. [the second column]")] = None,
    median_ms: Annotated[float, typer.Option(help="What the median becomes.")] = 50.0,
    full: Annotated[
        float | None, typer.Option(help="All there is of the resource. [100 %, 1, 80 °C]")
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="What to ask Prometheus: an expression of one series.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="From when: 2026-03-01T08:30. [an hour before --end]")
    ] = None,
    end: Annotated[str | None, typer.Option(help="Until when. [now]")] = None,
    step: Annotated[str, typer.Option(help="From one sample to the next.")] = "15s",
) -> None:
    """Turn a raw resource trace into a budget trace by a stated mapping.

    The headroom (100 − use, 1 − use, 80 − temperature, 1 ÷ slow-down, or the absolute value) is divided by
    its median and multiplied by --median-ms; milliseconds and seconds are budgets already. A recording of
    the daemon ([recorder] folder) becomes one row a request, on which any policy can be replayed: what
    would it have done?

    \b
    Examples:
      adaphi trace import load.csv --as cpu_percent -o budget.csv
      adaphi trace import http://localhost:9090 --query adaphi_slowdown_ratio --as slowdown -o budget.csv
      adaphi trace import query_range.json --as cpu_fraction -o budget.parquet
      adaphi trace import flights --as flight -o requests.csv
    """
    from ..sim.importing import import_flight, import_raw, to_budget
    from ..sim.scoring import check_length

    left_out = 0
    if mapping == "flight":
        trace = import_flight(source)
    elif "://" in source or source.endswith(".json"):
        series = _ask(source, query, start, end, step)
        left_out = series.left_out
        trace = to_budget(
            series.time_s, series.value, mapping, source, median_ms=median_ms, full=full
        )
    else:
        trace = import_raw(source, mapping, column=column, median_ms=median_ms, full=full)
    check_length(trace)
    trace.write(output)
    middle = float(np.median(trace.budget_ms))
    typer.echo(f"{output}: {len(trace)} rows, median {middle:g} ms, from {source} as {mapping}")
    if left_out:
        typer.echo(f"{left_out} samples without a number were left out")


def _ask(source: str, query: str | None, start: str | None, end: str | None, step: str) -> Series:
    """Return the series of a running Prometheus, or of an answer of one."""
    from ..sim.prometheus import query_range, read_range

    if "://" not in source:
        return read_range(source)
    if query is None:
        raise InputError(f"{source}: --query says what to ask it")
    end_s = time.time() if end is None else moment_s(end, "--end")
    start_s = end_s - 3600.0 if start is None else moment_s(start, "--start")
    return query_range(source, query, start_s, end_s, seconds(step, "--step"))


@app.command()
def describe(
    file: Annotated[Path, typer.Argument(help="A budget trace.")],
    levels: Annotated[int, typer.Option(min=2, max=20, help="Of the chain.")] = 4,
    picture: Annotated[
        Path | None, typer.Option(help="Draw it: a .png, .svg or .pdf (extra `report`).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how long a budget trace is, where it has gaps, and how its budgets are spread and move.

    \b
    Examples:
      adaphi trace describe budget.csv
      adaphi trace describe budget.csv --picture budget.png
    """
    from ..policies.trace import Trace
    from ..sim import describing

    trace = Trace.read(file)
    found = describing.describe(trace, levels)
    if picture is not None:
        from ..sim.picture import draw_trace

        draw_trace(trace, found, picture)
    if as_json:
        show.print_json(found.facts())
        return
    for name, value in found.facts().items():
        if isinstance(value, float):
            typer.echo(f"{name:>16}  {value:.6g}")
        elif not isinstance(value, list | tuple):
            typer.echo(f"{name:>16}  {value}")
    for name, line in zip_longest(["levels"], found.words(), fillvalue=""):
        typer.echo(f"{name:>16}  {line}")
    if picture is not None:
        typer.echo(f"{picture}: drawn")


@app.command()
def split(
    file: Annotated[Path, typer.Argument(help="A budget trace.")],
    first: Annotated[Path, typer.Argument(help="Where the first rows go: to learn from.")],
    rest: Annotated[Path, typer.Argument(help="Where the rest goes: to score on.")],
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="How much is first.")] = 0.5,
) -> None:
    """Cut a trace in two: one part to learn from, one that nothing has seen.

    \b
    Example:
      adaphi trace split budget.csv train.csv test.csv
    """
    from ..policies.trace import Trace
    from ..sim.scoring import check_length

    parts = Trace.read(file).split(share)
    for part in parts:
        check_length(part)
    for part, path in zip(parts, (first, rest), strict=True):
        part.write(path)
        typer.echo(f"{path}: {len(part)} rows")
