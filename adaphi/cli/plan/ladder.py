"""`adaphi plan ladder`: which variants to keep warm on a device, why, and the ladder as a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .. import show
from ..options import Json, Ladder, Threads, numbers
from .hardware import Anchored, basis, find_device, measure_here
from .output import Report, emit

if TYPE_CHECKING:
    from ...model_zoo.scaling.proposing import Candidate, Proposal
    from ...model_zoo.variants import Variant
    from ...report import Page

COLUMNS = ["", "sees px", "quality", "ms", "MB", "keep"]


def ladder(
    ladder: Ladder = "efficientnet-lite",
    quality: Annotated[
        str | None, typer.Option(help="Quality of each variant; needed for timm: ladders.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", help="Latency and memory as `adaphi profile` measured them."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="server-gpu, edge-cpu, npu, a file of --save, or here.")
    ] = "here",
    threads: Threads = 1,
    anchor: Anchored = True,
    latency_ms: Annotated[
        float, typer.Option(min=0.001, help="The latency that is allowed.")
    ] = 100.0,
    memory_mb: Annotated[
        float | None, typer.Option(min=0.001, help="For all that is kept. [the device's]")
    ] = None,
    cues: Annotated[
        str, typer.Option(help="What tells the pictures apart, if one does: shape or texture.")
    ] = "",
    blur_px: Annotated[
        float, typer.Option(min=0.0, help="Motion blur in the camera's pixels.")
    ] = 0.0,
    short_px: Annotated[
        float, typer.Option(min=1.0, help="The shorter side of the camera's pictures.")
    ] = 288.0,
    training: Annotated[
        bool, typer.Option("--training", help="The variants are still to be trained.")
    ] = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Labelled samples of each class to train on; 0: not asked.")
    ] = 0,
    untrained: Annotated[
        bool, typer.Option(help="Random weights in the file: the same cost, useless answers.")
    ] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write it.")] = Path(
        "ladder.toml"
    ),
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Propose which variants to keep warm, say why, and write them as a ladder.

    Of all sets that memory holds the one with the best mean quality over the budgets up to the limit is taken
    (docs/scaling/ladder.md). Without a profile the roofline of the device tells what each takes. Under motion
    blur a quality counts as far as the blur leaves it.

    \b
    Examples:
      adaphi plan ladder --latency-ms 60 --memory-mb 100 -o ladder.toml
      adaphi plan ladder --profile profile.json --latency-ms 40 --blur-px 8 --cues shape
      adaphi profile --ladder ladder.toml
    """
    from ...errors import InputError
    from ...model_zoo.ladder_file import write_ladder
    from ...model_zoo.ladders import get_ladder
    from ...model_zoo.scaling.advice import Task, advice, left_by_blur
    from ...model_zoo.scaling.counting import seen_side
    from ...model_zoo.scaling.proposing import propose

    if cues not in ("", "shape", "texture"):
        raise InputError(f"--cues {cues!r}: expected shape or texture")
    variants = get_ladder(
        ladder, quality=numbers(quality, "--quality"), untrained=untrained
    ).variants
    on_device = (device, threads, anchor)
    candidates, limit_bytes, where, times = (
        _told(variants, *on_device, quiet=as_json)
        if profile is None
        else _measured(variants, profile)
    )
    if memory_mb is not None:
        limit_bytes = min(limit_bytes, memory_mb * 1e6)
    seen = [seen_side(variant.network) for variant in variants]
    blur = blur_px / short_px
    blurred = [
        replace(one, quality=one.quality * left_by_blur(px, blur))
        for one, px in zip(candidates, seen, strict=True)
    ]
    proposal = propose(blurred, latency_ms, limit_bytes)
    kept = proposal.kept
    slowest_ms = candidates[kept[-1]].latency_ms
    task = Task([seen[k] for k in kept], slowest_ms, latency_ms, blur, cues, training, samples)
    why = [
        f"for {latency_ms:g} ms and {limit_bytes / 1e6:.0f} MB on {where}",
        f"times {times}",
        *proposal.reasons,
        *advice(task),
    ]
    notes = {variants[k].name: f"{candidates[k].latency_ms:.3g} ms expected" for k in kept}
    write_ladder(
        [replace(variants[k], phi=phi) for phi, k in enumerate(kept)], output, why=why, notes=notes
    )
    _show(blurred, seen, proposal, why, output, latency_ms, as_json=as_json, report=report)


class Costs(NamedTuple):
    """What variants cost, what memory there is (bytes), where that holds, and what the times are."""

    candidates: list[Candidate]
    memory_bytes: float
    where: str
    times: str


def _told(
    variants: Sequence[Variant], device: str, threads: int, anchor: bool, *, quiet: bool
) -> Costs:
    """Return what the roofline of a device says of the variants."""
    from ...model_zoo.scaling.counting import count_timm
    from ...model_zoo.scaling.hardware import predict_ladder
    from ...model_zoo.scaling.proposing import Candidate

    works, first = [count_timm(variant.network) for variant in variants], variants[0].network
    if device == "here":
        on = measure_here(threads, [first] if anchor else [], quiet=quiet)
    else:
        on = find_device(device)
    told, at = predict_ladder(first, works, on, anchor=anchor)
    candidates = [
        Candidate(v.name, v.quality, p.latency_ms, p.memory_bytes)
        for v, p in zip(variants, told, strict=True)
    ]
    return Costs(candidates, on.memory_bytes, on.name, basis(at))


def _measured(variants: Sequence[Variant], path: Path) -> Costs:
    """Return what a profile says of the variants; raise `InputError` where it lacks one."""
    from ...errors import InputError
    from ...model_zoo.profile import Profile
    from ...model_zoo.scaling.proposing import Candidate

    profile = Profile.load(path)
    typical = dict(zip((v.name for v in profile.variants), profile.typical_ms(), strict=True))
    memory = {v.name: v.memory_bytes or 0 for v in profile.variants}
    if missing := [v.name for v in variants if v.name not in typical]:
        raise InputError(
            f"{path} has no {missing[0]!r}", help="measure the whole ladder with `adaphi profile`"
        )
    candidates = [Candidate(v.name, v.quality, typical[v.name], memory[v.name]) for v in variants]
    return Costs(candidates, math.inf, profile.device, "as the profile has them")


def _show(
    candidates: Sequence[Candidate],
    seen: Sequence[float],
    proposal: Proposal,
    why: Sequence[str],
    output: Path,
    latency_ms: float,
    *,
    as_json: bool,
    report: Path | None,
) -> None:
    rows = [
        [
            one.name,
            f"{px:.0f}",
            f"{one.quality:.3f}",
            f"{one.latency_ms:.3g}",
            f"{one.memory_bytes / 1e6:.0f}",
            "→" if place in proposal.kept else "",
        ]
        for place, (one, px) in enumerate(zip(candidates, seen, strict=True))
    ]
    table = show.make_table(f"Keep warm {why[0]}", COLUMNS)
    for row in rows:
        table.add_row(*row)
    table.caption, table.caption_justify = "\n".join([*why[1:], f"written to {output}"]), "left"

    def draw(page: Page) -> None:
        page.table(COLUMNS, rows)
        _figure(page, candidates, proposal.kept, latency_ms)
        for line in why:
            page.prose(line)
        page.code(f"adaphi profile --ladder {output}")

    value = {
        "kept": [candidates[place].name for place in proposal.kept],
        "mean_quality": proposal.value,
        "why": list(why),
        "ladder": str(output),
    }
    emit("Which variants to keep warm", value, table, draw, as_json=as_json, report=report)


def _figure(
    page: Page, candidates: Sequence[Candidate], kept: Sequence[int], latency_ms: float
) -> None:
    """Draw quality over time: the kept are filled, and the steps of what budgets up to the limit afford."""
    import plotly.graph_objects as go

    ordered = [candidates[place] for place in kept]
    others = [one for place, one in enumerate(candidates) if place not in kept]
    steps = go.Scatter(
        x=[*(one.latency_ms for one in ordered), latency_ms],
        y=[*(one.quality for one in ordered), ordered[-1].quality],
        mode="lines",
        line={"shape": "hv", "color": "#1f77b4", "width": 1},
        name="the best that a budget affords",
    )
    points = [
        go.Scatter(
            x=[one.latency_ms for one in some],
            y=[one.quality for one in some],
            text=[one.name for one in some],
            mode="markers+text",
            textposition=f"{place} center",
            cliponaxis=False,
            marker={"size": 12, "symbol": symbol, "color": color},
            name=name,
        )
        for some, name, place, symbol, color in (
            (ordered, "kept", "top", "circle", "#1f77b4"),
            (others, "left out", "bottom", "circle-open", "#888"),
        )
        if some
    ]
    axis = {"title": "expected ms", "rangemode": "tozero"}
    figure = go.Figure([steps, *points], {"xaxis": axis, "yaxis": {"title": "quality"}})
    limit = f"limit {latency_ms:g} ms"
    figure.add_vline(
        x=latency_ms, line_dash="dot", annotation_text=limit, annotation_position="bottom right"
    )
    page.figure(figure)
