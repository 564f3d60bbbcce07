"""`adaphi sweep`: every combination of ladders, prices, traces, seeds and policies; whole fleets, too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from . import show
from .options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from ..sim.results import Row
    from ..sim.sweep import Plan

HEADLINES = {
    "mean_score": "mean score",
    "on_time_share": "on time",
    "late_share": "late",
    "mean_quality": "mean quality",
    "switch_share": "switches",
    "latency_p95_ms": "p95 ms",
}
"""The figures that the table shows; the rest are in the files, and all percentiles in the JSON."""


def sweep(
    file: Annotated[Path, typer.Argument(help="What to try, as TOML.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the results. [FILE without its .toml]"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="How many processes. [one a processor]")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Run on a Ray cluster: its address, auto, or local (extra `cluster`)."),
    ] = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Write results.parquet, too (extra `parquet`).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Play every combination that a file names, on all processors, and say how the figures spread.

    The folder gets results.csv, a row for each cell, and cells.jsonl, where each cell is kept as soon as it
    is done: a sweep that was stopped, however it was, goes on where it stood when it is started again, and
    one whose file was changed plays only what is new. docs/scale.md describes the file.

    \b
    Examples:
      adaphi sweep examples/sweep.toml
      adaphi sweep examples/fleet.toml -o fleet --jobs 2 --json
      adaphi sweep examples/fleet.toml --ray auto --parquet
    """
    from ..sim import executor, results
    from ..sim.journal import Journal
    from ..sim.planning import plan
    from ..sim.sweep import run

    executor.require(cluster=ray is not None)
    if parquet:
        results.require_parquet()
    planned = plan(file)
    folder = output or Path(file.stem)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}", help="name a folder with -o") from None
    with Journal(folder / "cells.jsonl") as journal, show.progress() as tell:
        try:
            known = run(planned, journal, jobs=-1 if jobs is None else jobs, ray=ray, tell=tell)
        except KeyboardInterrupt:
            typer.echo(_stopped(len(journal.cells), folder), err=True)
            raise
        rows = list(planned.rows(journal))
    results.write_csv(rows, folder / "results.csv")
    if parquet:
        results.write_parquet(rows, folder / "results.parquet")
    summary = results.summarise(rows, planned.over)
    if as_json:
        show.print_json({"cells": len(rows), "summary": summary})
        return
    show.print_table(_table(_title(file, planned, rows), summary))
    typer.echo(f"{folder}/results.csv: {len(rows)} cells, {known} of them known before")


def _stopped(done: int, folder: Path) -> str:
    return (
        f"adaphi: stopped; {done} cells are kept in {folder}, the same command goes on from there"
    )


def _title(file: Path, planned: Plan, rows: list[Row]) -> str:
    counts = {name: len({row[name] for row in rows}) for name in planned.over}
    named = [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items()]
    return f"{file}: {len(planned.candidates)} policies over {', '.join(named)}"


def _table(title: str, summary: list[dict[str, Any]]) -> Table:
    """Return one row for each policy at each point of the grid, under the labels that differ."""
    from rich.markup import escape

    labels = [name for name in summary[0] if name not in ("cells", "figures")]
    labels = [n for n in labels if n == "policy" or len({g[n] for g in summary}) > 1]
    found = {name for group in summary for name in group["figures"]}
    figures = [name for name in HEADLINES if name in found]
    if any(group["cells"] > 1 for group in summary):
        title += "\nmean [5th, 95th percentile]"
    table = show.make_table(escape(title), [*labels, *(HEADLINES[name] for name in figures)])
    for group in summary:
        spreads = [_spread(group["figures"].get(name), group["cells"]) for name in figures]
        table.add_row(*(escape(str(group[name])) for name in labels), *map(escape, spreads))
    return table


def _spread(figure: dict[str, float] | None, cells: int) -> str:
    if figure is None:
        return ""
    mean, low, high = (f"{figure[name]:.4g}" for name in ("mean", "p5", "p95"))
    return mean if cells == 1 else f"{mean} [{low}, {high}]"
