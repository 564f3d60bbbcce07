"""`adaphi plan graph`: graph networks of growing size, by their laws and as they really run and answer."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import InputError
from .. import show
from ..options import Json
from .output import Report, emit

if TYPE_CHECKING:
    from ...model_zoo.scaling.citations import Citations
    from ...model_zoo.scaling.graph import GraphNetwork, GraphSize
    from ...report import Page

CORA = (2708, 5278, 1433, 7)
MAX_PHI = 16


def graph(
    file: Annotated[
        Path | None,
        typer.Option("--graph", help="A graph to measure and train on (NPZ; extra graph)."),
    ] = None,
    nodes: Annotated[int, typer.Option(help="Without --graph: nodes.")] = CORA[0],
    edges: Annotated[int, typer.Option(help="Without --graph: edges, each once.")] = CORA[1],
    features: Annotated[int, typer.Option(help="Without --graph: raw features.")] = CORA[2],
    classes: Annotated[int, typer.Option(help="Without --graph: classes.")] = CORA[3],
    alpha: Annotated[float, typer.Option(help="Message-passing steps of one φ to the next.")] = 2.0,
    beta: Annotated[float, typer.Option(help="Width of one φ to the next.")] = 1.4142,
    gamma: Annotated[float, typer.Option(help="Share of features of one φ to the next.")] = 2.0,
    sizes: Annotated[int, typer.Option(min=1, max=6, help="How many φ, from 0.")] = 3,
    memory_mb: Annotated[float | None, typer.Option(help="Find the largest φ within this.")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Find the largest φ within this; with --graph.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Trainings of each φ; 0: only measure.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="How long each training is.")] = 60,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A folder for the trained ladder, to be served."),
    ] = None,
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Scale a graph network by message-passing steps, hidden width and the share of raw features.

    By itself: what each φ costs by the laws. With --graph the laws are held against runs that are counted and
    timed, and every φ is trained (a minute and a half). With --output the ladder can then be served.

    \b
    Examples:
      adaphi plan graph --nodes 100000 --edges 1000000 --memory-mb 512
      adaphi plan graph --graph cora.npz --latency-ms 5 --report graph.html
      adaphi plan graph --graph cora.npz -o nodes
    """
    from ...model_zoo.scaling import CompoundScaling
    from ...model_zoo.scaling.graph import GraphNetwork, GraphSize

    if file is None and (latency_ms is not None or output is not None):
        raise InputError(
            "--latency-ms and --output need a graph to measure and train on",
            help="name its file with --graph",
        )
    if output is not None and not seeds:
        raise InputError("--output needs trained networks", help="let --seeds be 1 or more")
    rule = CompoundScaling(alpha, beta, gamma)
    data = None if file is None else _read(file)
    size = GraphSize(nodes, edges, features, classes) if data is None else data.size
    every = [GraphNetwork.of(rule, phi, size.features) for phi in range(MAX_PHI + 1)]
    value: dict[str, Any] = {"graph": asdict(size), "rule": [alpha, beta, gamma]}
    value["ladder"] = [_by_law(network, size) for network in every[:sizes]]
    if memory_mb is not None:
        value["largest_by_memory"] = _largest_by_memory(every, size, memory_mb)
    if data is not None:
        assert file is not None
        _measure(value, data, every, sizes, latency_ms)
        if seeds:
            _train(value, file, data, every[:sizes], seeds, epochs, output)
    _print(value, as_json, report)
    if output is not None and not as_json:
        _say_how_to_serve(output)


def _read(file: Path) -> Citations:
    """Return the graph; raise `InputError`, or `MissingExtraError` before anything long begins."""
    from ...model_zoo.scaling import graph_network  # noqa: F401
    from ...model_zoo.scaling.citations import Citations

    return Citations.read(file)


def _by_law(network: GraphNetwork, size: GraphSize) -> dict[str, Any]:
    return {
        **asdict(network),
        "multiply_adds": network.operations(size),
        "memory_bytes": network.memory_bytes(size),
    }


def _largest_by_memory(
    every: list[GraphNetwork], size: GraphSize, memory_mb: float
) -> dict[str, Any]:
    from ...model_zoo.scaling.graph import largest

    phi = largest(every, lambda network: network.memory_bytes(size) <= memory_mb * 1e6)
    return {"memory_mb": memory_mb, "phi": phi}


def _measure(
    value: dict[str, Any],
    data: Citations,
    every: list[GraphNetwork],
    sizes: int,
    latency_ms: float | None,
) -> None:
    """Add what was counted and measured, beside what the laws say."""
    import numpy as np

    from ...model_zoo.profiling import device_name
    from ...model_zoo.scaling import graph_trial as trial
    from ...model_zoo.scaling.graph import largest
    from ...model_zoo.scaling.graph_network import Gcn2

    with show.progress() as tell:
        timed = trial.time_grid(data, every[:sizes], progress=tell)
    for row, network, measured, predicted in zip(
        value["ladder"],
        every,
        timed.measured_ms[-sizes:].tolist(),
        timed.predicted_ms[-sizes:].tolist(),
        strict=False,
    ):
        built = Gcn2(data, network).eval()
        row["counted_multiply_adds"] = trial.counted_operations(built)
        row["measured_memory_bytes"] = trial.kept_bytes(built) + trial.measured_activation_bytes(
            built
        )
        row |= {"measured_ms": measured, "predicted_ms": predicted}
    value["time_law"] = {
        "held_out": len(timed.cases),
        "median_error": float(np.median(timed.errors)),
        "largest_error": float(timed.errors.max()),
        "measured_ms": timed.measured_ms.tolist(),
        "predicted_ms": timed.predicted_ms.tolist(),
    }
    value["machine"] = device_name()
    value["measured"] = datetime.now(UTC).isoformat(timespec="seconds")
    if latency_ms is not None:
        said = dict(zip(every, timed.law.predict_ms([(data.size, n) for n in every]), strict=True))
        phi = largest(every, lambda network: bool(said[network] <= latency_ms))
        value["largest_by_latency"] = {"latency_ms": latency_ms, "phi": phi}


def _train(
    value: dict[str, Any],
    file: Path,
    data: Citations,
    networks: list[GraphNetwork],
    seeds: int,
    epochs: int,
    output: Path | None,
) -> None:
    """Add the accuracies, and leave the trained ladder in `output`."""
    from ...model_zoo.scaling.graph_ladder import save_ladder
    from ...model_zoo.scaling.graph_trial import mean_and_half_width, train_ladder

    value |= {"seeds": seeds, "epochs": epochs}
    with show.progress() as tell:
        trained = train_ladder(data, networks, seeds, epochs, progress=tell)
    for row, some in zip(value["ladder"], trained, strict=True):
        row["accuracy"] = [one.accuracy for one in some]
    first, last = (value["ladder"][place]["accuracy"] for place in (0, -1))
    mean, half = mean_and_half_width([b - a for a, b in zip(first, last, strict=True)])
    value["gain"] = {"mean": mean, "half_width": half if seeds > 1 else None}
    if output is not None:
        save_ladder(output, file, networks, trained)


def _print(value: dict[str, Any], as_json: bool, report: Path | None) -> None:
    columns, rows = _table(value["ladder"])
    size = value["graph"]
    title = f"{size['nodes']} nodes, {size['edges']} edges, {size['features']} features"
    table = show.make_table(title, columns)
    for row in rows:
        table.add_row(*row)
    lines = _lines(value)

    def draw(page: Page) -> None:
        page.table(columns, rows)
        for line in lines:
            page.prose(line)
        _draw(page, value)

    emit(f"Graph networks: {title}", value, table, draw, as_json=as_json, report=report)
    if not as_json:
        for line in lines:
            typer.echo(line)


def _table(ladder: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: what the laws say, and what was found, as far as it was looked for."""
    columns = ["φ", "steps", "width", "features", "M multiply-adds", "MB"]
    rows = [
        [
            *(str(x) for x in (phi, row["steps"], row["width"], row["features"])),
            f"{row['multiply_adds'] / 1e6:.1f}",
            f"{row['memory_bytes'] / 1e6:.2f}",
        ]
        for phi, row in enumerate(ladder)
    ]
    if "measured_ms" in ladder[0]:
        columns += ["counted", "MB found", "ms by law", "ms found"]
        for cells, row in zip(rows, ladder, strict=True):
            cells.append(f"{row['counted_multiply_adds'] / 1e6:.1f}")
            cells.append(f"{row['measured_memory_bytes'] / 1e6:.2f}")
            cells += [f"{row['predicted_ms']:.2f}", f"{row['measured_ms']:.2f}"]
    if "accuracy" in ladder[0]:
        columns.append("accuracy")
        for cells, row in zip(rows, ladder, strict=True):
            cells.append(_accuracy(row["accuracy"]))
    return columns, rows


def _accuracy(values: list[float]) -> str:
    from ...model_zoo.scaling.graph_trial import mean_and_half_width

    mean, half = mean_and_half_width(values)
    return f"{mean:.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")


def _lines(value: dict[str, Any]) -> list[str]:
    """Return what was found, in words."""
    lines = []
    for key, unit in (("memory", "mb"), ("latency", "ms")):
        if found := value.get(f"largest_by_{key}"):
            limit = f"{found[f'{key}_{unit}']:g} {'MB' if unit == 'mb' else unit}"
            if found["phi"] is None:
                lines.append(f"no φ fits {limit}")
            else:
                more = " or more" if found["phi"] == MAX_PHI else ""
                lines.append(f"the largest that fits {limit}: φ = {found['phi']}{more}")
    if law := value.get("time_law"):
        lines.append(
            f"time by the law, {law['held_out']} networks it was not fitted to: "
            f"median error {law['median_error']:.1%}, largest {law['largest_error']:.1%}"
        )
    if (gain := value.get("gain")) and len(value["ladder"]) > 1:
        between = "" if gain["half_width"] is None else f" ± {gain['half_width']:.3f}"
        lines.append(
            f"accuracy of the largest less that of the smallest: {gain['mean']:+.3f}{between} "
            f"(95 %, paired by seed)"
        )
    return lines


def _draw(page: Page, value: dict[str, Any]) -> None:
    import plotly.graph_objects as go

    from ...model_zoo.scaling.graph_trial import mean_and_half_width

    if law := value.get("time_law"):
        ends = [min(law["measured_ms"]), max(law["measured_ms"])]
        points = go.Scatter(
            x=law["measured_ms"], y=law["predicted_ms"], mode="markers", name="held out"
        )
        layout = {
            "xaxis": {"type": "log", "title": "measured, ms"},
            "yaxis": {"type": "log", "title": "by the law, ms"},
        }
        page.heading("Time")
        page.figure(go.Figure([points, go.Scatter(x=ends, y=ends, name="equal")], layout))
    if "accuracy" in value["ladder"][0]:
        figures = [mean_and_half_width(row["accuracy"]) for row in value["ladder"]]
        bars = {"type": "data", "array": [half for _, half in figures]}
        points = go.Scatter(
            x=[row["measured_ms"] for row in value["ladder"]],
            y=[mean for mean, _ in figures],
            error_y=bars if len(value["ladder"][0]["accuracy"]) > 1 else None,
            text=[f"φ = {phi}" for phi in range(len(figures))],
            mode="lines+markers+text",
            textposition="top center",
        )
        layout = {"xaxis": {"title": "ms of one run"}, "yaxis": {"title": "accuracy (test nodes)"}}
        page.heading("Accuracy")
        page.figure(go.Figure([points], layout))


def _say_how_to_serve(output: Path) -> None:
    from ...model_zoo.scaling.graph_ladder import NAME

    typer.echo(f"serve it: cd {output} && adaphi profile --ladder {NAME} -o profile.json")
