"""`adaphi plan rule`: a rule of compound scaling as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .. import show
from ..options import Json
from .output import Report, emit

if TYPE_CHECKING:
    from ...report import Page


def rule(
    alpha: Annotated[float, typer.Option(help="Depth of one φ to the next.")] = 1.2,
    beta: Annotated[float, typer.Option(help="Width of one φ to the next.")] = 1.1,
    gamma: Annotated[float, typer.Option(help="Resolution of one φ to the next.")] = 1.15,
    sizes: Annotated[int, typer.Option(min=1, max=20, help="How many φ, from 0.")] = 8,
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Say what a rule of compound scaling makes of each φ, relative to φ = 0.

    \b
    Examples:
      adaphi plan rule
      adaphi plan rule --alpha 1.3 --beta 1.1 --gamma 1.1 --report rule.html
    """
    from ...model_zoo.scaling import CompoundScaling

    law = CompoundScaling(alpha, beta, gamma)
    columns = ("depth", "width", "resolution", "operations", "weights", "activations")
    rows = [[getattr(law, column)(phi) for column in columns] for phi in range(sizes)]
    title = f"α = {alpha:g}, β = {beta:g}, γ = {gamma:g}"
    table = show.make_table(title, ["φ", *columns])
    shown = [[str(phi), *(f"{x:.3g}" for x in row)] for phi, row in enumerate(rows)]
    for line in shown:
        table.add_row(*line)

    def draw(page: Page) -> None:
        import plotly.graph_objects as go

        page.prose("Relative to φ = 0; a step of φ multiplies the operations by α β² γ².")
        page.table(["φ", *columns], shown)
        traces = [
            go.Scatter(x=list(range(sizes)), y=[row[k] for row in rows], name=column)
            for k, column in enumerate(columns)
        ]
        layout = {"yaxis": {"type": "log", "title": "× φ = 0"}, "xaxis": {"title": "φ"}}
        page.figure(go.Figure(traces, layout))

    value: dict[str, object] = {"alpha": alpha, "beta": beta, "gamma": gamma}
    value |= {column: [row[k] for row in rows] for k, column in enumerate(columns)}
    emit(f"Compound scaling: {title}", value, table, draw, as_json=as_json, report=report)
