"""`adaphi plan transfer`: which φ, and whether to fine-tune it or to probe it, for n samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
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
    from ...model_zoo.scaling.transfer import Choice, Score, TransferCell
    from ...report import Page

_COLUMNS = ["task", "samples", "predicted", "measured best", "error", "of the best"]
_COLUMNS += ["ways right", "or undecided"]


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
    blank = [""] * (len(_COLUMNS) - 3)
    rows += [[name, f"{n:g}", _name(cell), *blank] for name, n, cell in planned]
    words = [*_words(choices, found.cells), origin(found)]
    table = show.make_table("b · ρ(φ) + c(φ) / n, bounded by guessing", _COLUMNS)
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
        "near_best": _share(choice.near_best for choice in choices),
        "scores": {name: asdict(score) for name, score in _scores(choices).items()},
        "loss": sum(c.loss for c in choices) / len(choices),
        "laws": {
            name: {mode: asdict(fitted) for mode, fitted in laws.items()}
            for name, laws in law.fit_tasks(found.cells).items()
        },
        "planned": [
            {"task": name, "samples": n, "mode": cell.mode, "phi": cell.phi}
            for name, n, cell in planned
        ],
        "measured": {"machine": found.machine, "date": found.date, "command": found.command},
    }
    emit("Fine-tune or probe", value, table, draw, as_json=as_json, report=report)


def _measured(names: list[str] | None, data: Path | None, *, full: bool) -> Measured[TransferCell]:
    from ...model_zoo.scaling import transfer as law
    from ...model_zoo.scaling import transfer_trial as trial
    from ...model_zoo.scaling.measured import Measured

    if names and not full:
        raise InputError("--task is for --full, which trains on it")
    tasks = [trial.get_task(name) for name in names or ["digits"]] if full else []
    phis = range(len(trial.VARIANTS))
    return measured(
        Measured[law.TransferCell],
        law.DATA,
        data,
        " --task ".join(["adaphi plan transfer --full", *(names or ["digits"])]),
        lambda: [
            (task.name, mode, phi, per_class)
            for mode in law.MODES
            for task in tasks
            for per_class in trial.PER_CLASS
            for phi in phis
        ],
        trial.Trainer(tasks),
        full=full,
    )


def _planned(
    cells: list[TransferCell], others: Sequence[float]
) -> list[tuple[str, float, TransferCell]]:
    from ...model_zoo.scaling import transfer as law

    planned = []
    for name, laws in law.fit_tasks(cells).items():
        mine = [cell for cell in cells if cell.task == name]
        planned += [(name, n, law.choose(laws, mine, n)) for n in others]
    return planned


def _name(cell: TransferCell) -> str:
    return f"{cell.mode} φ{cell.phi}"


def _row(choice: Choice) -> list[str]:
    from ...model_zoo.scaling.transfer import Score

    score = Score.of(choice.ways)
    return [
        choice.task,
        str(choice.samples),
        _name(choice.predicted),
        _name(choice.best),
        f"{choice.predicted.error:.1%}",
        f"{choice.best.error:.1%}",
        f"{score.right} of {score.ways}",
        f"{score.not_wrong} of {score.ways}",
    ]


def _value(choice: Choice) -> dict[str, object]:
    return {
        "task": choice.task,
        "samples": choice.samples,
        "predicted": {"mode": choice.predicted.mode, "phi": choice.predicted.phi},
        "best": {"mode": choice.best.mode, "phi": choice.best.phi},
        "error": choice.predicted.error,
        "error_of_best": choice.best.error,
        "near_best": choice.near_best,
        "ways": [asdict(way) | {"right": way.right, "decided": way.decided} for way in choice.ways],
    }


def _share(right: Iterable[bool]) -> float:
    answers = list(right)
    return sum(answers) / len(answers)


def _scores(choices: Sequence[Choice]) -> dict[str, Score]:
    """Return how often the better way was predicted: on all tasks, and on each."""
    from ...model_zoo.scaling.transfer import Score

    ways = {"all tasks": [way for choice in choices for way in choice.ways]}
    for choice in choices:
        ways.setdefault(choice.task, []).extend(choice.ways)
    return {name: Score.of(mine) for name, mine in ways.items()}


def _words(choices: Sequence[Choice], cells: Sequence[TransferCell]) -> list[str]:
    from ...model_zoo.scaling import transfer as law

    ways = [way for choice in choices for way in choice.ways]
    fixed = {mode: law.Score.of(law.always(ways, mode)) for mode in law.MODES}
    exact = sum(choice.predicted is choice.best for choice in choices)
    near = sum(choice.near_best for choice in choices)
    lost = sum(choice.loss for choice in choices) / len(choices)
    always = {
        (mode, phi): law.loss_of_always(cells, mode, phi)
        for mode in law.MODES
        for phi in sorted({cell.phi for cell in cells})
    }
    (mode, phi), least = min(always.items(), key=lambda item: item[1])
    return [
        "Each number of samples is predicted by laws fitted to the others of its task.",
        "Probe or fine-tune, for a given φ. A winner is decided where a paired t-test over the seeds "
        "tells it from chance (5 %).",
        *(f"  {name}: {_sentence(score)}" for name, score in _scores(choices).items()),
        *(f"  who always says {mode}: {_sentence(score)}" for mode, score in fixed.items()),
        f"The best of all choices: {exact} of {len(choices)} right, {near} right or undecided.",
        f"The predicted choice costs {100 * lost:.1f} points of error more than the best; "
        f"always {mode} φ{phi}, the best fixed choice in hindsight, {100 * least:.1f}.",
    ]


def _sentence(score: Score) -> str:
    return (
        f"{score.right} of {score.ways} right ({score.right / score.ways:.0%}); of the {score.decided} "
        f"decided {score.right_of_decided}; right or undecided {score.not_wrong} "
        f"({score.not_wrong / score.ways:.0%})."
    )


def _draw(page: Page, cells: list[TransferCell]) -> None:
    import plotly.graph_objects as go
    from plotly.colors import qualitative

    from ...model_zoo.scaling import transfer as law

    for name, laws in law.fit_tasks(cells).items():
        mine = [cell for cell in cells if cell.task == name]
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
