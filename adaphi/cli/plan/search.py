"""`adaphi plan search`: the rule of compound scaling that serves this device best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import InputError
from .. import show
from ..options import Json
from .output import Report, emit

if TYPE_CHECKING:
    from ...model_zoo.scaling import CompoundScaling
    from ...model_zoo.scaling.search import Laws, Prices, Worth
    from ...model_zoo.scaling.search_data import SearchData
    from ...report import Page

_COLUMNS = ["rule", "λ₁, λ₂", "costs", "α", "β", "γ", "α β² γ²"]
_COLUMNS += ["accuracy", "latency", "memory", "J"]
_GAINS = ["gain", "refitted", "rounds"]
_PROSE = (
    "J is the mean over φ = 1, 2, 3 of accuracy − λ₁ · latency − λ₂ · memory: points of ImageNet top-1, and "
    "costs of φ = 0. Accuracy is a model fitted to published networks in all rows. Costs follow laws fitted "
    "to networks measured here, or were measured on the ladder itself."
)
_GAIN = (
    "What was measured: the gain in J over the published rule, its range when the accuracy is fitted without "
    "one of the published networks, and the share of rounds in which it was above 0."
)


def search(
    latency_price: Annotated[
        float, typer.Option(help="λ₁: points of accuracy for one latency of φ = 0.")
    ] = 1.0,
    memory_price: Annotated[
        float, typer.Option(help="λ₂: points of accuracy for one memory of φ = 0.")
    ] = 1.0,
    budget: Annotated[
        float | None, typer.Option(help="What α β² γ² may be.  [the published rule's 1.92]")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="What was measured; without it, what comes with adaphi.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Measure this machine first (minutes); write --data.")
    ] = False,
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Find the rule whose ladder is worth most, for what depth, width and resolution cost on a device.

    The accuracy is a model fitted to published networks; latency and memory are measured.

    \b
    Examples:
      adaphi plan search
      adaphi plan search --latency-price 0.5 --memory-price 0 --report search.html
      adaphi plan search --full --data here.json
    """
    from ...model_zoo.scaling import PUBLISHED, search_data
    from ...model_zoo.scaling.search import BUDGET, Prices

    prices = Prices(latency_price, memory_price)
    limit = BUDGET if budget is None else budget
    if full:
        measured = _measure(data, limit, quiet=as_json)
    else:
        measured = search_data.SearchData.load(data or search_data.DATA)
    laws = measured.laws()
    rules = {
        "found": laws.find(prices, limit),
        "published": PUBLISHED,
        "shorter steps": laws.shortened(PUBLISHED, prices),
    }
    worths = {name: laws.worth(rule) for name, rule in rules.items()}
    rows = [_row(name, "laws", rule, worths[name], prices) for name, rule in rules.items()]
    rows += _measured_rows(measured, laws)
    front = laws.front(limit)
    lines = [_cells(row) for row in rows]
    title = f"Costs of {measured.machine}, {measured.date}"
    table = show.make_table(title, [*_COLUMNS, *_GAINS])
    for line in lines:
        table.add_row(*line)
    value = {
        "machine": measured.machine,
        "date": measured.date,
        "budget": limit,
        "laws": {
            "accuracy": {"shares": laws.accuracy.shares.tolist(), "power": laws.accuracy.power},
            "latency": laws.latency.exponents.tolist(),
            "memory": laws.memory.exponents.tolist(),
        },
        "rows": rows,
        "front": [_row("front", "laws", rule, worth, prices) for rule, worth in front],
    }

    def draw(page: Page) -> None:
        _draw(page, lines, _figure(front, worths["found"], worths["published"]))

    emit("Finding the rule", value, table, draw, as_json=as_json, report=report)


def _draw(page: Page, lines: list[list[str]], figure: object) -> None:
    page.prose(_PROSE)
    page.table(_COLUMNS, [line[: len(_COLUMNS)] for line in lines])
    page.prose(_GAIN)
    gains = [[line[1], *line[len(_COLUMNS) :]] for line in lines if line[-1]]
    page.table([_COLUMNS[1], *_GAINS], gains)
    page.heading("The Pareto front of the laws")
    page.figure(figure)


def _measure(path: Path | None, budget: float, *, quiet: bool) -> SearchData:
    from ...model_zoo.scaling import search_data

    if path is None:
        raise InputError("--full writes what it measures", help="name a file with --data")
    with show.progress(quiet) as progress:
        command = f"adaphi plan search --full --data {path.name} --budget {budget:.4g}"
        measured = search_data.measure(command, budget, progress=progress)
    measured.save(path)
    return measured


def _measured_rows(measured: SearchData, laws: Laws) -> list[dict[str, Any]]:
    """Return two rows for each pair of prices whose ladders were measured."""
    import numpy as np

    from ...model_zoo.scaling import PUBLISHED, CompoundScaling
    from ...model_zoo.scaling.search import PUBLISHED_TOP1, fit_accuracy

    refitted = [fit_accuracy(without=k) for k in range(len(PUBLISHED_TOP1))]
    rows = []
    for ladders in measured.ladders:
        found, published = ladders.worth(laws.accuracy)
        gains = ladders.gains(laws.accuracy)
        others = [float(np.median(ladders.gains(law))) for law in refitted]
        gain = {
            "gain": float(np.median(gains)),
            "gain_refitted": [min(others), max(others)],
            "rounds_better": float((gains > 0).mean()),
        }
        rule = CompoundScaling(*ladders.rule)
        rows.append(_row("found", "measured", rule, found, ladders.prices) | gain)
        rows.append(_row("published", "measured", PUBLISHED, published, ladders.prices))
    return rows


def _row(
    what: str, costs: str, rule: CompoundScaling, worth: Worth, prices: Prices
) -> dict[str, Any]:
    return {
        "what": what,
        "prices": [prices.latency, prices.memory],
        "costs": costs,
        "rule": [rule.alpha, rule.beta, rule.gamma],
        "operations": rule.operations(1),
        "accuracy": worth.accuracy,
        "latency": worth.latency,
        "memory": worth.memory,
        "objective": worth.objective(prices),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [
        row["what"],
        "{:g}, {:g}".format(*row["prices"]),
        row["costs"],
        *(f"{x:.3f}" for x in row["rule"]),
        *(f"{row[name]:.2f}" for name in ("operations", "accuracy", "latency", "memory")),
        f"{row['objective']:.2f}",
    ]
    if "gain" not in row:
        return [*cells, "", "", ""]
    low, high = row["gain_refitted"]
    return [
        *cells,
        f"{row['gain']:+.2f}",
        f"{low:+.2f}…{high:+.2f}",
        f"{row['rounds_better']:.0%}",
    ]


def _figure(front: list[tuple[CompoundScaling, Worth]], found: Worth, published: Worth) -> object:
    """Return accuracy over latency, coloured by memory, with both rules marked."""
    import plotly.graph_objects as go

    marker = {
        "color": [worth.memory for _, worth in front],
        "colorbar": {"title": "memory × φ = 0", "x": 1.0},
        "size": 9,
    }
    names = [f"{rule.alpha:.3f}, {rule.beta:.3f}, {rule.gamma:.3f}" for rule, _ in front]
    traces = [
        go.Scatter(
            x=[worth.latency for _, worth in front],
            y=[worth.accuracy for _, worth in front],
            text=names,
            mode="markers",
            marker=marker,
            name="front",
            showlegend=False,
        )
    ]
    for name, worth, symbol in (("found", found, "star"), ("published", published, "x")):
        mark = {"symbol": symbol, "size": 15, "color": "#cb181d"}
        traces.append(
            go.Scatter(
                x=[worth.latency], y=[worth.accuracy], mode="markers", marker=mark, name=name
            )
        )
    layout = {
        "xaxis": {"title": "latency × φ = 0, mean over the ladder"},
        "yaxis": {"title": "accuracy, modelled"},
        "legend": {"x": 0.02, "y": 0.98},
    }
    return go.Figure(traces, layout)
