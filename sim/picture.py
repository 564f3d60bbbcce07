"""Pictures (extra `report`): a replay with what was late, what a table chooses, what a trace is like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingExtraError
from ..policies.trace import Trace
from .describing import GAP, Description
from .replay import Replay

# Light to dark with φ, told apart by lightness alone where colours are not.
COLOURS = ("#c6dbef", "#6baed6", "#2171b5", "#08306b")
LATE = "#cb181d"
_LEVELS = ("#f0f0f0", "#ffffff")


def draw(outcome: Replay, path: str | Path) -> None:
    """Draw a replay to a PNG, SVG or PDF; raise `MissingExtraError` without matplotlib."""
    figure_type, patch_type = _matplotlib(path)
    time_s = outcome.trace.time_s[1:] - outcome.trace.time_s[0]
    budget_ms = outcome.trace.budget_ms[1:]
    need_ms = outcome.costs.need_ms[outcome.active, outcome.decisions]
    late = ~outcome.on_time
    figure = figure_type(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    edges = np.append(time_s, 2 * time_s[-1] - time_s[-2] if len(time_s) > 1 else time_s[-1] + 1)
    handles: list[Any] = []
    for phi in range(len(outcome.costs)):
        colour = COLOURS[min(phi, len(COLOURS) - 1)]
        height = np.where((outcome.decisions == phi) & ~late, need_ms, 0.0)
        axes.stairs(height, edges, fill=True, color=colour)
        handles.append(patch_type(color=colour, label=f"φ = {phi}"))
    axes.stairs(np.where(late, need_ms, 0.0), edges, fill=True, color=LATE)
    handles.append(patch_type(color=LATE, label=f"late ({int(late.sum())})"))
    handles += axes.plot(
        time_s, budget_ms, color="black", linewidth=1.0, drawstyle="steps-post", label="budget"
    )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.08 * max(float(np.percentile(budget_ms, 99)), float(need_ms.max())))
    axes.set_xlabel("time (s)")
    axes.set_ylabel("budget, and what the answer took (ms)")
    axes.set_title(
        f"{outcome.policy} on {outcome.trace.name}: {outcome.on_time_share:.1%} on time, "
        f"{round(outcome.switch_share * len(late))} switches, "
        f"mean quality {outcome.mean_quality:.4f}",
        loc="left",
        fontsize=10,
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    _save(figure, path)


def draw_table(
    edges: NDArray[np.float64], table: NDArray[np.uint8], unit: str, path: str | Path
) -> None:
    """Draw what a table (E, M) chooses over readings cut at `edges` (E−1,): a row an active variant."""
    figure_type, patch_type = _matplotlib(path)
    variants = table.shape[1]
    figure = figure_type(figsize=(10, 0.7 + 0.55 * variants), layout="constrained")
    axes = figure.subplots()
    right = 1.15 * float(edges[-1]) if len(edges) else 1.0
    bounds = [0.0, *edges.tolist(), right]
    for active in range(variants):
        for low, high, phi in zip(bounds, bounds[1:], table[:, active].tolist(), strict=False):
            colour = COLOURS[min(phi, len(COLOURS) - 1)]
            axes.barh(active, high - low, left=low, height=0.82, color=colour)
    axes.set_xlim(0, right)
    axes.set_yticks(range(variants), [f"φ = {m} active" for m in range(variants)])
    axes.set_xlabel(f"budget as last read ({unit})")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    handles = [
        patch_type(color=COLOURS[min(phi, len(COLOURS) - 1)], label=f"answer with φ = {phi}")
        for phi in range(variants)
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    _save(figure, path)


def draw_trace(trace: Trace, found: Description, path: str | Path) -> None:
    """Draw a trace with its gaps and levels, and the chain between them, to a PNG, SVG or PDF."""
    figure_type, patch_type = _matplotlib(path)
    figure = figure_type(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    time_s = trace.time_s - trace.time_s[0]
    for number, level in enumerate(found.levels):
        left.axhspan(level.low_ms, level.high_ms, color=_LEVELS[number % 2], linewidth=0)
    steps = np.diff(time_s)
    for start in np.flatnonzero(steps > GAP * found.step_s):
        left.axvspan(time_s[start], time_s[start + 1], color=LATE, alpha=0.25, linewidth=0)
    left.plot(time_s, trace.budget_ms, color="black", linewidth=0.8, drawstyle="steps-post")
    left.set_xlim(time_s[0], time_s[-1])
    left.set_ylim(0, 1.08 * float(np.percentile(trace.budget_ms, 99.5)) or 1.0)
    left.set_xlabel("time (s)")
    left.set_ylabel("budget (ms)")
    left.set_title(
        f"{found.trace}: {found.rows} rows, {found.gaps} gaps, median {found.p50_ms:.4g} ms, "
        f"volatility {found.volatility:.3g}",
        loc="left",
        fontsize=10,
    )
    _draw_chain(right, found)
    if found.gaps:
        left.legend(handles=[patch_type(color=LATE, alpha=0.25, label="gap")], frameon=False)
    for side in ("top", "right"):
        left.spines[side].set_visible(False)
    _save(figure, path)


def _draw_chain(axes: Any, found: Description) -> None:
    """Draw the chain between levels as a matrix: from the row's to the column's."""
    axes.imshow(found.transition, cmap="Blues", vmin=0, vmax=1, origin="lower")
    for (row, column), chance in np.ndenumerate(found.transition):
        colour = "white" if chance > 0.5 else "black"
        axes.text(column, row, f"{chance:.2f}", ha="center", va="center", color=colour, fontsize=8)
    places, names = range(len(found.levels)), [f"{level.low_ms:.3g}…" for level in found.levels]
    axes.set_yticks(places, [f"{name} ms" for name in names], fontsize=8)
    axes.set_xticks(places, names, fontsize=8)
    axes.set_title("from a level (row) to the next", loc="left", fontsize=10)


def _matplotlib(path: str | Path) -> tuple[Any, Any]:
    """Return matplotlib's Figure and Patch; raise where it is missing or `path` is no picture."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        raise MissingExtraError("drawing", "report") from None
    if Path(path).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: a picture ends in .png, .svg or .pdf")
    return Figure, Patch


def _save(figure: Any, path: str | Path) -> None:
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
