"""`adaphi plan augment`: how strongly to augment each size of a family."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError
from .. import show
from ..options import Json, numbers
from .output import Report, emit
from .trials import Data, Full, measured, origin

if TYPE_CHECKING:
    from ...model_zoo.scaling.augment import AugmentCell, Curves, Fit, Verdict
    from ...model_zoo.scaling.measured import Measured
    from ...report import Page

_COLUMNS = [
    "φ",
    "weights",
    "best strength",
    "95 %",
    "predicted",
    "error at best",
    "at predicted",
    "at one for all",
]


def augment(
    fit: Annotated[str, typer.Option(help="The sizes to fit to; the others are predicted.")] = (
        "0,1,2,3"
    ),
    predict: Annotated[
        str | None, typer.Option(help="Other sizes to predict, in weights: 20000,1000000")
    ] = None,
    full: Full = False,
    data: Data = None,
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Fit the law of augmentation's strength to a few sizes, and predict it for the others (extra plan).

    \b
    Examples:
      adaphi plan augment
      adaphi plan augment --fit 0,2,4 --predict 20000,100000
      adaphi plan augment --full --data mine.json     (2.5 minutes of one processor)
    """
    from ...model_zoo.scaling import augment as law

    sizes, others = numbers(fit, "--fit") or [], numbers(predict, "--predict") or []
    if not all(size.is_integer() for size in sizes):
        raise InputError(f"--fit {fit!r}: expected places in the family, such as 0,1,2")
    if not all(0 < weights < float("inf") for weights in others):
        raise InputError(f"--predict {predict!r}: expected numbers of weights, above 0")
    found = _measured(data, full=full)
    curves = law.Curves.of(found.cells)
    verdict = law.judge(curves, [int(size) for size in sizes])
    rows = _rows(curves, verdict)
    predicted = [(weights, verdict.all.law.strength(weights)) for weights in others]
    rows += [["", f"{w:.6g}", "", "", f"{s:.3f}", "", "", ""] for w, s in predicted]
    words = [*_words(verdict), origin(found)]
    table = show.make_table("s(φ) = c · M(φ)^(−p)", _COLUMNS)
    for row in rows:
        table.add_row(*row)
    table.caption, table.caption_justify = "\n".join(words), "left"

    def draw(page: Page) -> None:
        for sentence in words:
            page.prose(sentence)
        page.table(_COLUMNS, rows)
        _draw(page, curves, verdict)

    value = _value(curves, verdict)
    value["predicted"] = [{"weights": w, "strength": s} for w, s in predicted]
    value["measured"] = {"machine": found.machine, "date": found.date, "command": found.command}
    emit("Augmentation strength", value, table, draw, as_json=as_json, report=report)


def _measured(data: Path | None, *, full: bool) -> Measured[AugmentCell]:
    from ...model_zoo.scaling import augment as law
    from ...model_zoo.scaling.measured import Measured

    return measured(
        Measured[law.AugmentCell],
        law.DATA,
        data,
        "adaphi plan augment --full",
        lambda: [(phi, s) for phi in law.SIZES for s in law.STRENGTHS],
        law.train,
        full=full,
    )


def _rows(curves: Curves, verdict: Verdict) -> list[list[str]]:
    predictions = {one.phi: one for one in verdict.held_out}
    rows = []
    for place, phi in enumerate(curves.phis):
        best = float(verdict.best[place])
        low, high = verdict.best_intervals[place]
        row = [str(phi), f"{curves.weights[place]:.0f}", f"{best:.3f}", f"{low:.3f} to {high:.3f}"]
        if (one := predictions.get(phi)) is None:
            row += ["fitted", f"{curves.error_at(place, best):.2%}", "", ""]
        else:
            errors = (one.error_at_best, one.error_at_predicted, one.error_at_constant)
            row += [f"{one.predicted:.3f}", *(f"{error:.2%}" for error in errors)]
        rows.append(row)
    return rows


def _words(verdict: Verdict) -> list[str]:
    few = ", ".join(map(str, verdict.few.phis))
    more = "stronger" if verdict.all.law.p < 0 else "weaker"
    meaning = (
        f"larger networks want {more} augmentation"
        if verdict.all.size_matters
        else ("one strength for all sizes is not refuted")
    )
    return [
        f"All sizes: {_law(verdict.all)}: {meaning}.",
        f"φ = {few} alone: {_law(verdict.few)}; "
        f"for the others it is off by a factor of {verdict.median_factor:.2f} (median).",
        f"What the others lose against their best: {100 * verdict.loss('predicted'):.2f} points of error "
        f"at the predicted strength, {100 * verdict.loss('constant'):.2f} at one strength for all.",
    ]


def _law(fit: Fit) -> str:
    low, high = fit.p_interval
    return f"p = {fit.law.p:.3f} [{low:.3f}, {high:.3f}], c = {fit.law.c:.3g}"


def _value(curves: Curves, verdict: Verdict) -> dict[str, object]:
    columns = zip(curves.phis, curves.weights, verdict.best, verdict.best_intervals, strict=True)
    return {
        "all": asdict(verdict.all) | {"size_matters": verdict.all.size_matters},
        "few": asdict(verdict.few) | {"size_matters": verdict.few.size_matters},
        "sizes": [
            {"phi": phi, "weights": int(w), "best": float(best), "interval": interval.tolist()}
            for phi, w, best, interval in columns
        ],
        "held_out": [asdict(one) for one in verdict.held_out],
        "median_factor": verdict.median_factor,
        "loss": verdict.loss("predicted"),
        "loss_of_one_for_all": verdict.loss("constant"),
    }


def _draw(page: Page, curves: Curves, verdict: Verdict) -> None:
    import plotly.graph_objects as go

    log = {"type": "log"}
    lines = [
        go.Scatter(x=curves.strengths.tolist(), y=(100 * errors).tolist(), name=f"φ = {phi}")
        for phi, errors in zip(curves.phis, curves.errors.mean(axis=2), strict=True)
    ]
    axes = {"xaxis": log | {"title": "strength"}, "yaxis": log | {"title": "error (%)"}}
    page.figure(go.Figure(lines, axes))
    weights, best = curves.weights.tolist(), verdict.best
    low, high = verdict.best_intervals.T
    spans = {
        "type": "data",
        "symmetric": False,
        "array": (high - best).tolist(),
        "arrayminus": (best - low).tolist(),
    }
    points = go.Scatter(x=weights, y=best.tolist(), error_y=spans, mode="markers", name="best")
    laws = [
        go.Scatter(x=weights, y=[fit.law.strength(w) for w in weights], mode="lines", name=name)
        for name, fit in (("all sizes", verdict.all), ("a few", verdict.few))
    ]
    axes = {"xaxis": log | {"title": "weights"}, "yaxis": log | {"title": "best strength"}}
    page.figure(go.Figure([points, *laws], axes))
