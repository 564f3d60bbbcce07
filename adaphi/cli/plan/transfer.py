"""`adaphi plan transfer`: which φ, and whether to fine-tune it or to probe it, for n samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import InputError
from .. import show
from ..options import Json, numbers
from .output import Report, emit
from .trials import Data, Full, measured, origin

if TYPE_CHECKING:
    from ...model_zoo.scaling.measured import Measured
    from ...model_zoo.scaling.transfer import Choice, TransferCell
    from ...report import Page

_COLUMNS = ["task", "samples", "predicted", "measured best", "error", "of the best", "ways right"]


def transfer(
    samples: Annotated[
        str | None, typer.Option(help="Predict the choice for other numbers of samples: 200,1000")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="With --full: digits, or LABELS.csv:COLUMN of your own pictures."),
    ] = None,
    full: Full = False,
    data: Data = None,
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Choose the variant, and fine-tuning or a linear probe, for few labelled samples (extra plan).

    \b
    Examples:
      adaphi plan transfer
      adaphi plan transfer --samples 200,1000
      adaphi plan transfer --full --data mine.json --task photos/labels.csv:kind    (minutes per task)
    """
    from ...model_zoo.scaling import transfer as law

    others = numbers(samples, "--samples") or []
    if not all(1 <= n < float("inf") for n in others):
        raise InputError(f"--samples {samples!r}: expected numbers of samples, 1 or more")
    found = _measured(task, data, full=full)
    choices = law.cross_validate(found.cells)
    rows = [_row(choice) for choice in choices]
    planned = _planned(found.cells, others)
    rows += [[name, f"{n:g}", _name(cell), "", "", "", ""] for name, n, cell in planned]
    words = [*_words(choices, found.cells), origin(found)]
    table = show.make_table("b · ρ(φ) + g · (C(φ) / n)^q", _COLUMNS)
    for row in rows:
        table.add_row(*row)
    table.caption, table.caption_justify = "\n".join(words), "left"

    def draw(page: Page) -> None:
        for sentence in words:
            page.prose(sentence)
        page.table(_COLUMNS, rows)
        page.prose("Points are measured; lines are the laws, fitted to all of a task.")
        _draw(page, found.cells)

    value = {
        "choices": [_value(choice) for choice in choices],
        "right": _share(choice.predicted is choice.best for choice in choices),
        "ways_right": sum(c.ways_right for c in choices) / sum(c.phis for c in choices),
        "loss": sum(c.loss for c in choices) / len(choices),
        "planned": [
            {"task": name, "samples": n, "mode": cell.mode, "phi": cell.phi}
            for name, n, cell in planned
        ],
        "measured": {"machine": found.machine, "date": found.date, "command": found.command},
    }
    emit("Fine-tune or probe", value, table, draw, as_json=as_json, report=report)


def _measured(names: list[str] | None, data: Path | None, *, full: bool) -> Measured[TransferCell]:
    from ...model_zoo.scaling import transfer as law
    from ...model_zoo.scaling.measured import Measured

    if names and not full:
        raise InputError("--task is for --full, which trains on it")
    tasks = [law.get_task(name) for name in names or ["digits"]] if full else []
    phis = range(len(law.VARIANTS))
    return measured(
        Measured[law.TransferCell],
        law.DATA,
        data,
        " --task ".join(["adaphi plan transfer --full", *(names or ["digits"])]),
        lambda: [
            (task.name, mode, phi, per_class)
            for mode in law.MODES
            for task in tasks
            for per_class in law.PER_CLASS
            for phi in phis
        ],
        law.Trainer(tasks),
        full=full,
    )


def _planned(
    cells: list[TransferCell], others: Sequence[float]
) -> list[tuple[str, float, TransferCell]]:
    from ...model_zoo.scaling import transfer as law

    planned = []
    for name in dict.fromkeys(cell.task for cell in cells):
        mine = [cell for cell in cells if cell.task == name]
        planned += [(name, n, law.choose(law.fit_task(mine), mine, n)) for n in others]
    return planned


def _name(cell: TransferCell) -> str:
    return f"{cell.mode} φ{cell.phi}"


def _row(choice: Choice) -> list[str]:
    return [
        choice.task,
        str(choice.samples),
        _name(choice.predicted),
        _name(choice.best),
        f"{choice.predicted.error:.1%}",
        f"{choice.best.error:.1%}",
        f"{choice.ways_right} of {choice.phis}",
    ]


def _value(choice: Choice) -> dict[str, object]:
    return {
        "task": choice.task,
        "samples": choice.samples,
        "predicted": {"mode": choice.predicted.mode, "phi": choice.predicted.phi},
        "best": {"mode": choice.best.mode, "phi": choice.best.phi},
        "error": choice.predicted.error,
        "error_of_best": choice.best.error,
        "ways_right": choice.ways_right,
    }


def _share(right: Iterable[bool]) -> float:
    answers = list(right)
    return sum(answers) / len(answers)


def _words(choices: list[Choice], cells: list[TransferCell]) -> list[str]:
    from ...model_zoo.scaling import transfer as law

    exact = sum(choice.predicted is choice.best for choice in choices)
    ways, of = sum(c.ways_right for c in choices), sum(c.phis for c in choices)
    loss = sum(choice.loss for choice in choices) / len(choices)
    always = {
        (mode, phi): law.loss_of_always(cells, mode, phi)
        for mode in law.MODES
        for phi in sorted({cell.phi for cell in cells})
    }
    (mode, phi), least = min(always.items(), key=lambda item: item[1])
    return [
        "Each number of samples is predicted by laws fitted to the others of its task.",
        f"Probe or fine-tune, for a given φ: {ways} of {of} right ({ways / of:.0%}). "
        f"The best of all choices: {exact} of {len(choices)} right.",
        f"The predicted choice costs {100 * loss:.1f} points of error more than the best; "
        f"always {mode} φ{phi}, the best fixed choice in hindsight, {100 * least:.1f}.",
    ]


def _draw(page: Page, cells: list[TransferCell]) -> None:
    import plotly.graph_objects as go
    from plotly.colors import qualitative

    from ...model_zoo.scaling import transfer as law

    for name in dict.fromkeys(cell.task for cell in cells):
        mine = [cell for cell in cells if cell.task == name]
        laws = law.fit_task(mine)
        traces = []
        for mode, phi in dict.fromkeys((cell.mode, cell.phi) for cell in mine):
            series = [cell for cell in mine if (cell.mode, cell.phi) == (mode, phi)]
            color = qualitative.Plotly[phi % len(qualitative.Plotly)]
            shown: dict[str, Any] = {
                "x": [cell.samples for cell in series],
                "marker": {"color": color},
            }
            shown |= {"legendgroup": f"{mode} {phi}", "name": _name(series[0])}
            is_probe = mode == "probe"
            line = {"dash": "solid" if is_probe else "dash", "color": color}
            shown["marker"]["symbol"] = "circle" if is_probe else "x"
            fitted = [100 * laws[mode].error(cell) for cell in series]
            errors = [100 * cell.error for cell in series]
            traces.append(go.Scatter(y=errors, mode="markers", **shown))
            traces.append(go.Scatter(y=fitted, mode="lines", line=line, showlegend=False, **shown))
        page.heading(name)
        axes = {"xaxis": {"type": "log", "title": "samples"}, "yaxis": {"title": "error (%)"}}
        page.figure(go.Figure(traces, axes))
