"""Pictures (extra `report`): a replay with what was late, and a table with what it chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingExtraError
from .replay import Replay

# Light to dark with φ, told apart by lightness alone where colours are not.
COLOURS = ("#c6dbef", "#6baed6", "#2171b5", "#08306b")
LATE = "#cb181d"


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
