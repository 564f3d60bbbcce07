"""Commands for traces: import a raw resource trace, describe a budget trace, split one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import show
from .options import Json

app = typer.Typer(
    help="Import, describe and split budget traces.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(help="CSV of numbers, the first column time_s; or a recording's folder."),
    ],
    mapping: Annotated[
        str,
        typer.Option(
            "--as",
            help="cpu_percent, cpu_fraction, memory_percent, memory_fraction, absolute, or flight.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The budget trace to write.")],
    column: Annotated[str | None, typer.Option(help="The resource. [the second column]")] = None,
    median_ms: Annotated[float, typer.Option(help="What the median becomes.")] = 50.0,
) -> None:
    """Turn a raw resource trace into a budget trace by a stated mapping.

    The headroom (100 − use, 1 − use, or the absolute value) is divided by its median and multiplied
    by --median-ms. A recording of the daemon ([recorder] folder) becomes one row a request, on which any
    policy can be replayed: what would it have done?

    \b
    Examples:
      adaphi trace import load.csv --as cpu_percent -o budget.csv
      adaphi trace import flights --as flight -o requests.csv
    """
    from ..sim.importing import import_flight, import_raw

    if mapping == "flight":
        trace = import_flight(file)
        trace.write(output)
        typer.echo(f"{output}: {len(trace)} requests of the recording {file}")
        return
    trace = import_raw(file, mapping, column=column, median_ms=median_ms)
    trace.write(output)
    typer.echo(f"{output}: {len(trace)} rows, median {median_ms:g} ms, from {file} as {mapping}")


@app.command()
def describe(
    file: Annotated[Path, typer.Argument(help="A budget trace.")], as_json: Json = False
) -> None:
    """Say how long a budget trace is, and how its budgets are spread and move.

    \b
    Example:
      adaphi trace describe budget.csv
    """
    import numpy as np

    from ..policies.trace import Trace

    trace = Trace.read(file)
    budget = trace.budget_ms
    steps = np.diff(trace.time_s)
    low, p5, p50, p95, high = np.percentile(budget, [0, 5, 50, 95, 100]).tolist()
    facts = {
        "trace": trace.name,
        "rows": len(trace),
        "duration_s": float(trace.time_s[-1] - trace.time_s[0]),
        "step_s": float(np.median(steps)) if len(steps) else 0.0,
        "min_ms": low,
        "p5_ms": p5,
        "p50_ms": p50,
        "p95_ms": p95,
        "max_ms": high,
        "unchanged_share": float((np.diff(budget) == 0).mean()) if len(steps) else 0.0,
    }
    if as_json:
        show.print_json(facts)
        return
    for name, value in facts.items():
        typer.echo(
            f"{name:>16}  {value:.6g}" if isinstance(value, float) else f"{name:>16}  {value}"
        )


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

    trace = Trace.read(file)
    for part, path in zip(trace.split(share), (first, rest), strict=True):
        part.write(path)
        typer.echo(f"{path}: {len(part)} rows")
