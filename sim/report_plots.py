"""The plots of a report, each as a piece of HTML: needs plotly, so `report` alone imports it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from .compare import Comparison
from .picture import COLOURS, LATE
from .replay import Replay
from .scoring import half_width

SHOWN_STEPS = 3000
"""Of a longer trace the first so many are drawn."""
_INK, _SOFT, _LINE, _OURS, _RULE = "#17202b", "#5b6775", "#e3e8ee", "#e6862a", "#9fb3c8"
_FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'


def timeline(outcomes: Sequence[Replay]) -> str:
    """Return budget, answers by variant and late ones along time, one row an outcome."""
    titles = [
        f"{o.policy}: {o.on_time_share:.1%} on time, mean quality {o.mean_quality:.4f}"
        for o in outcomes
    ]
    figure = make_subplots(
        rows=len(outcomes), cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=titles
    )
    trace = outcomes[0].trace
    time_s = trace.time_s[1 : SHOWN_STEPS + 1] - trace.time_s[0]
    budget_ms = trace.budget_ms[1 : SHOWN_STEPS + 1]
    end = float(2 * time_s[-1] - time_s[-2]) if len(time_s) > 1 else float(time_s[-1]) + 1
    edges = _short(np.append(time_s, end))
    for row, outcome in enumerate(outcomes, 1):
        _answers(figure, row, outcome, edges, len(time_s))
        figure.add_scatter(
            x=edges, y=_short(np.append(budget_ms, budget_ms[-1])), name="budget", mode="lines",
            line={"color": _INK, "width": 1.2, "shape": "hv"}, legendgroup="budget",
            showlegend=row == 1, row=row, col=1,
            hovertemplate="budget %{y:.4g} ms<extra></extra>",
        )  # fmt: skip
        highest = max(float(np.percentile(budget_ms, 99)), float(outcome.costs.need_ms.max()))
        figure.update_yaxes(title_text="ms", range=[0, 1.12 * highest], row=row, col=1)
    figure.update_xaxes(title_text="time (s)", row=len(outcomes), col=1)
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    figure.update_layout(legend={"y": -0.36 / len(outcomes), "x": 0, "xanchor": "left"})
    return _html(figure, "timeline", 110 + 210 * len(outcomes))


def _answers(figure: Any, row: int, outcome: Replay, edges: list[float], steps: int) -> None:
    """Add what each answer took, a band for each variant, and the late ones."""
    need_ms = outcome.costs.need_ms[outcome.active, outcome.decisions][:steps]
    decisions, late = outcome.decisions[:steps], ~outcome.on_time[:steps]
    for phi in range(len(outcome.costs)):
        height = np.where(decisions == phi, need_ms, 0.0)
        figure.add_scatter(
            x=edges, y=_short(np.append(height, 0.0)), name=f"φ = {phi}", mode="lines",
            line={"width": 0, "shape": "hv"}, fill="tozeroy", fillcolor=colour(phi),
            legendgroup=f"phi{phi}", showlegend=row == 1, hoverinfo="skip", row=row, col=1,
        )  # fmt: skip
    middle = (np.array(edges[:-1]) + np.array(edges[1:])) / 2
    figure.add_scatter(
        x=_short(middle[late]), y=_short(need_ms[late]), name="late", mode="markers",
        marker={"color": LATE, "symbol": "x", "size": 6}, legendgroup="late", showlegend=row == 1,
        hovertemplate="late: took %{y:.4g} ms<extra></extra>", row=row, col=1,
    )  # fmt: skip


def bars(comparison: Comparison) -> str:
    """Return how far each policy is above or below the best rule, with its interval."""
    best = comparison.best_rule
    outcomes = [o for o in (*reversed(comparison.ranked), comparison.clairvoyant) if o is not best]
    gains = [o.mean_score - best.mean_score for o in outcomes]
    halves = [half_width(o.scores - best.scores) or 0.0 for o in outcomes]
    # What is far below would squeeze all that matters: such bars end at the border, their figure in words.
    headroom = max(gains[-1], 1e-6)
    least = -3 * headroom
    near = [gain >= least for gain in gains]
    shades = {o.policy: _OURS for o in comparison.tables} | {comparison.clairvoyant.policy: _SOFT}
    figure = go.Figure(
        go.Bar(
            x=[max(gain, least) for gain in gains], y=[o.policy for o in outcomes], orientation="h",
            text=["" if is_near else _signed(gain) for is_near, gain in zip(near, gains, strict=True)],
            textposition="inside", insidetextanchor="end", textangle=0,
            marker_color=[shades.get(o.policy, _RULE) for o in outcomes],
            marker_opacity=[1.0 if is_near else 0.45 for is_near in near],
            error_x={
                "array": [h if is_near else None for is_near, h in zip(near, halves, strict=True)],
                "type": "data", "color": _INK, "thickness": 1, "width": 3,
            },
            customdata=gains, hovertemplate="%{y}: %{customdata:+.4f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(
        title_text=f"score above the best rule ({best.policy}); faint bars go on beyond the border",
        range=[1.02 * max(least, min(*gains, 0.5 * least)), 1.1 * (headroom + halves[-1])],
        zerolinecolor=_INK,
    )
    figure.update_yaxes(automargin=True, ticksuffix="  ")
    return _html(figure, "bars", 90 + 28 * len(outcomes))


def frontier(comparison: Comparison) -> str:
    """Return quality against time: the variants alone, the rules, the tables, the clairvoyant."""
    figure = go.Figure()
    alone = [o for o in comparison.rules if o.policy.startswith("static:")]
    rules = [o for o in comparison.rules if o not in alone and not o.policy.startswith("random")]
    kinds: list[tuple[str, Sequence[Replay], str, str, int]] = [
        ("one version alone", alone, "lines+markers+text", _RULE, 10),
        ("other rules", rules, "markers", "#2171b5", 9),
        ("clairvoyant", [comparison.clairvoyant], "markers", _SOFT, 11),
    ]
    shades = ["#f3b877", _OURS][-len(comparison.tables) :]
    for table, shade in zip(comparison.tables, shades, strict=True):
        kinds.append((table.policy, [table], "markers", shade, 13))
    for name, outcomes, mode, shade, size in kinds:
        figure.add_scatter(
            x=list(map(_mean_ms, outcomes)),
            y=[o.mean_quality * o.on_time_share for o in outcomes],
            text=[o.policy.replace("static:", "φ = ") for o in outcomes],
            name=name, mode=mode, marker={"color": shade, "size": size},
            line={"color": shade, "dash": "dot"}, textposition="top center",
            hovertemplate="%{text}: %{x:.4g} ms, %{y:.4f}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title_text="mean time of an answer (ms)")
    figure.update_yaxes(title_text="quality an answer, late ones 0")
    figure.update_layout(legend={"y": 1.02, "yanchor": "bottom", "x": 0})
    return _html(figure, "frontier", 420)


def _mean_ms(outcome: Replay) -> float:
    return float(outcome.costs.need_ms[outcome.active, outcome.decisions].mean())


def _signed(figure: float) -> str:
    return f" {figure:+.4f} ".replace("-", "−")


def table_picture(edges_ms: NDArray[np.float64], table: NDArray[np.uint8]) -> str:
    """Return what a table (E, M) chooses over readings cut at `edges_ms` (E − 1,), a row an active one."""
    figure = go.Figure()
    right = 1.15 * float(edges_ms[-1]) if len(edges_ms) else 1.0
    for phi in range(table.shape[1]):
        pieces = [
            (f"φ = {active} active", low, high)
            for active in range(table.shape[1])
            for low, high in _runs(table[:, active] == phi, [0.0, *edges_ms.tolist(), right])
        ]
        figure.add_bar(
            y=[name for name, _, _ in pieces], base=_short([low for _, low, _ in pieces]),
            x=_short([high - low for _, low, high in pieces]), orientation="h",
            name=f"answer with φ = {phi}", marker={"color": colour(phi), "line": {"width": 0}},
            customdata=_short([high for _, _, high in pieces]),
            hovertemplate=f"φ = {phi} from %{{base:.4g}} to %{{customdata:.4g}} ms<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        barmode="overlay",
        bargap=0.25,
        showlegend=True,
        legend={"y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(title_text="budget as last read (ms)", range=[0, right])
    rows = [f"φ = {active} active" for active in range(table.shape[1])]
    figure.update_yaxes(categoryorder="array", categoryarray=rows, automargin=True, ticksuffix="  ")
    return _html(figure, "table", 110 + 46 * table.shape[1])


def colour(phi: int) -> str:
    """Return the colour of a variant."""
    return COLOURS[min(phi, len(COLOURS) - 1)]


def _runs(chosen: NDArray[np.bool_], bounds: Sequence[float]) -> list[tuple[float, float]]:
    """Return where bins in a row are chosen: from which budget to which."""
    turns = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
    return [(bounds[first], bounds[end]) for first, end in pairwise(turns.tolist())][::2]


def _short(values: Any) -> list[float]:
    """Return numbers of six digits: a page has many."""
    return [float(f"{value:.6g}") for value in np.asarray(values, dtype=np.float64).tolist()]


def _html(figure: Any, name: str, height: int) -> str:
    figure.update_layout(
        template="none", height=height, margin={"l": 64, "r": 16, "t": 32, "b": 48},
        font={"family": _FONT, "size": 13, "color": _INK}, paper_bgcolor="#fff", plot_bgcolor="#fff",
        legend_orientation="h",
        hoverlabel={"font": {"family": _FONT}},
    )  # fmt: skip
    figure.update_xaxes(gridcolor=_LINE, linecolor=_LINE, zerolinecolor=_LINE)
    figure.update_yaxes(gridcolor=_LINE, linecolor=_LINE, zerolinecolor=_LINE)
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name,
        config={"displaylogo": False, "responsive": True, "displayModeBar": False},
    )  # fmt: skip
    return text
