"""`adaphi plan hardware`: what a ladder takes on devices that it never saw, and what fits there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .. import show
from ..options import Json, Ladder, Threads
from .output import Report, emit

if TYPE_CHECKING:
    from ...model_zoo.scaling.hardware import Anchor, Device, Prediction
    from ...report import Page

Anchored: TypeAlias = Annotated[
    bool, typer.Option(help="Measure φ = 0, too, and scale the ladder to it: ratios are kept.")
]
COLUMNS = ["", "ms", "compute", "memory", "overhead", "binds", "needs MB", "of peak", "fits"]


@dataclass(frozen=True)
class Planned:
    """A ladder on one device; `chosen` is the largest φ within the limits, None if none is."""

    device: Device
    names: Sequence[str]
    predictions: Sequence[Prediction]
    anchor: Anchor | None
    chosen: int | None

    def value(self) -> dict[str, object]:
        """Return the figures."""
        variants = [
            {
                "phi": phi,
                "name": name,
                **{k: getattr(p, k) for k in (*p.__struct_fields__, "binds")},
            }
            for phi, (name, p) in enumerate(zip(self.names, self.predictions, strict=True))
        ]
        fields = ("measured_ms", "predicted_ms", "factor")
        return {
            "device": self.device.name,
            "source": self.device.source,
            "anchor": self.anchor and {k: getattr(self.anchor, k) for k in fields},
            "variants": variants,
            "chosen_phi": self.chosen,
        }

    def rows(self) -> list[list[str]]:
        """Return a line for each variant."""
        return [
            [
                f"{self.device.name}: φ{phi} {name}",
                *(f"{getattr(p, k):.3g}" for k in ("latency_ms", "compute_ms", "memory_ms", "overhead_ms")),
                p.binds,
                f"{p.memory_bytes / 1e6:.0f}",
                f"{p.efficiency:.1%}",
                "" if self.chosen is None or phi > self.chosen else "→" if phi == self.chosen else "yes",
            ]
            for phi, (name, p) in enumerate(zip(self.names, self.predictions, strict=True))
        ]  # fmt: skip


def hardware(
    ladder: Ladder = "efficientnet-lite",
    devices: Annotated[
        str, typer.Option("--devices", help="server-gpu, edge-cpu, npu, or files of --save.")
    ] = "server-gpu,edge-cpu,npu",
    here: Annotated[
        bool, typer.Option("--here", help="Measure this machine, too: half a minute.")
    ] = False,
    anchor: Anchored = True,
    threads: Threads = 1,
    save: Annotated[
        Path | None, typer.Option("--save", help="Keep what --here measured, for --devices.")
    ] = None,
    first_ms: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="What φ = 0 takes on the one device, if you know it: ratios are kept.",
        ),
    ] = None,
    latency_ms: Annotated[
        float, typer.Option(min=0.001, help="The latency that is allowed.")
    ] = 33.3,
    memory_mb: Annotated[
        float | None, typer.Option(min=0.001, help="The memory that is allowed. [the device's]")
    ] = None,
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Predict what a ladder takes on devices, which resource binds, and the largest φ that fits.

    Operations and bytes are counted layer by layer, no model runs. A data sheet is what nothing gets faster
    than; --here measures this machine instead, and φ = 0 on it, which the ladder is then scaled to
    (docs/scaling/hardware.md says how well that tells).

    \b
    Examples:
      adaphi plan hardware --latency-ms 10
      adaphi plan hardware --here --threads 2 --save here.json --report hardware.html
      adaphi plan hardware --devices here.json,npu --ladder timm:resnet18,resnet50
    """
    from ...errors import InputError
    from ...model_zoo.scaling.counting import count_timm
    from ...model_zoo.scaling.hardware import largest_fitting, predict_ladder, save_device

    if save is not None and not here:
        raise InputError("--save keeps what --here measures", help="add --here")
    chosen = [find_device(name.strip()) for name in devices.split(",") if name.strip()]
    if len(chosen) + here == 0:
        raise InputError("no device is named", help="see --devices, or add --here")
    if first_ms is not None and len(chosen) + here > 1:
        raise InputError("--first-ms belongs to one device", help="name that alone with --devices")
    names = ladder_names(ladder)
    works = [count_timm(name) for name in names]
    if here:
        first = names[:1] if anchor and first_ms is None else []
        chosen.append(measure_here(threads, first, quiet=as_json))
        if save is not None:
            save_device(chosen[-1], save)
    planned = []
    for device in chosen:
        told = predict_ladder(names[0], works, device, first_ms=first_ms, anchor=anchor)
        limit = min(device.memory_bytes, math.inf if memory_mb is None else memory_mb * 1e6)
        planned.append(Planned(device, names, *told, largest_fitting(told[0], latency_ms, limit)))
    _show(ladder, planned, latency_ms, as_json=as_json, report=report)


def find_device(name: str) -> Device:
    """Return a device by its name or its file; raise `InputError` where there is none."""
    from ...errors import InputError
    from ...model_zoo.scaling.hardware import DATA_SHEETS, load_device

    if name.endswith(".json"):
        return load_device(name)
    if name not in DATA_SHEETS:
        raise InputError(
            f"no device is called {name!r}",
            help=f"use {', '.join(DATA_SHEETS)} or a file of --save",
        )
    return DATA_SHEETS[name]


def measure_here(threads: int, networks: Sequence[str], *, quiet: bool) -> Device:
    """Return this machine, and what some networks take on it, measured, with a bar meanwhile."""
    from ...model_zoo.scaling.calibrating import calibrate

    with show.progress(quiet) as tell:
        return calibrate(threads, networks=networks, progress=tell)


def basis(anchor: Anchor | None) -> str:
    """Return in words what a ladder's latencies rest on."""
    if anchor is None:
        return "by the roofline alone"
    return (
        f"anchored at φ = 0: measured {anchor.measured_ms:.3g} ms, "
        f"predicted {anchor.predicted_ms:.3g} ms, factor {anchor.factor:.2f}"
    )


def ladder_names(ladder: str) -> list[str]:
    """Return the networks of a ladder; their qualities play no part."""
    from ...model_zoo.ladders import get_ladder, timm_models

    if ladder.startswith("timm:"):
        return timm_models(ladder)
    return list(dict.fromkeys(variant.network for variant in get_ladder(ladder).variants))


def scores(planned: Sequence[Planned]) -> dict[str, float]:
    """Return the portability of each variant alone, and of the ladder that takes what fits each device."""
    from ...model_zoo.scaling.hardware import portability

    def reached(plan: Planned, phi: int | None) -> float | None:
        fits = phi is not None and plan.chosen is not None and phi <= plan.chosen
        return plan.predictions[phi].efficiency if phi is not None and fits else None

    alone = {
        f"φ{phi}": portability(reached(plan, phi) for plan in planned)
        for phi in range(len(planned[0].names))
    }
    return {**alone, "ladder": portability(reached(plan, plan.chosen) for plan in planned)}


def _show(
    ladder: str,
    planned: Sequence[Planned],
    latency_ms: float,
    *,
    as_json: bool,
    report: Path | None,
) -> None:
    portable = scores(planned)
    title = f"{ladder} within {latency_ms:g} ms"
    table = show.make_table(title, COLUMNS)
    for plan in planned:
        for row in plan.rows():
            table.add_row(*row)
        table.add_section()
    bases = [f"{plan.device.name}: {basis(plan.anchor)}" for plan in planned]
    said = "performance portability over these devices: " + ", ".join(
        f"{name} {score:.2%}" for name, score in portable.items()
    )
    table.caption, table.caption_justify = "\n".join([*bases, said]), "left"

    def draw(page: Page) -> None:
        for plan in planned:
            page.heading(plan.device.name)
            page.prose(f"{plan.device.source}; {basis(plan.anchor)}")
            page.table(COLUMNS, plan.rows())
            _figure(page, plan, latency_ms)
        page.prose(said)

    value = {
        "ladder": ladder,
        "latency_ms": latency_ms,
        "devices": [plan.value() for plan in planned],
        "portability": portable,
    }
    emit(f"Hardware: {title}", value, table, draw, as_json=as_json, report=report)


def _figure(page: Page, plan: Planned, latency_ms: float) -> None:
    import plotly.graph_objects as go

    bars = [
        go.Bar(
            name=part, x=list(plan.names), y=[getattr(p, f"{part}_ms") for p in plan.predictions]
        )
        for part in ("compute", "memory", "overhead")
    ]
    figure = go.Figure(bars, {"barmode": "stack", "yaxis": {"title": "ms"}})
    figure.add_hline(y=latency_ms, line_dash="dot", annotation_text=f"{latency_ms:g} ms")
    page.figure(figure)
