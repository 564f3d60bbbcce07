"""`adaphi plan drone`: which φ is worth its time to a camera that moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ...errors import InputError
from .. import show
from ..options import Json, Ladder, Threads, numbers
from .output import Report, emit

if TYPE_CHECKING:
    from ...model_zoo.scaling.blurring import Blurred, Seen
    from ...model_zoo.scaling.drone import Best, BlurLaw, Fit, Planned
    from ...report import Page

SIDES_PX = (128, 160, 192, 224, 288)
"""At which the smallest variant is shown, beside the sides of the ladder."""


def drone(
    base_ms: Annotated[float, typer.Option(help="What an answer of φ = 0 takes.")] = 10.0,
    limit_ms: Annotated[float, typer.Option(help="What an answer may take.")] = 30.0,
    base_px: Annotated[
        float, typer.Option(help="What φ = 0 makes of a picture's shorter side.")
    ] = 256.0,
    alpha: Annotated[float, typer.Option(help="Depth of one φ to the next.")] = 1.2,
    beta: Annotated[float, typer.Option(help="Width of one φ to the next.")] = 1.1,
    gamma: Annotated[float, typer.Option(help="Resolution of one φ to the next.")] = 1.15,
    sizes: Annotated[int, typer.Option(min=1, max=20, help="How many φ, from 0.")] = 6,
    blur_px: Annotated[str, typer.Option(help="Motion blurs, in the camera's pixels.")] = (
        "0,2,4,8,16,32"
    ),
    short_px: Annotated[
        float, typer.Option(help="The shorter side of the camera's pictures.")
    ] = 288.0,
    speed: Annotated[float | None, typer.Option(help="In m/s, in place of --blur-px.")] = None,
    exposure_ms: Annotated[float, typer.Option(help="How long the shutter is open.")] = 5.0,
    distance_m: Annotated[float, typer.Option(help="How far away things are.")] = 10.0,
    focal_px: Annotated[float, typer.Option(help="The focal length, in pixels.")] = 300.0,
    images: Annotated[
        Path | None,
        typer.Option(help="Measure on the photographs of this folder with labels.csv, too."),
    ] = None,
    photographs: Annotated[int, typer.Option(min=2, help="How many of them at most.")] = 50,
    ladder: Ladder = "efficientnet-lite",
    threads: Threads = 1,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Keep the measurement in this file.")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="Use a measurement that was kept, in place of --images.")
    ] = None,
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Say which φ of a family is best within a latency limit, at each motion blur.

    With photographs it measures the ladder's variants, and the smallest at several resolutions, on motion
    blur, fits the law to them, and says where the law chose what was best. `adaphi solve --blur FILE` makes
    of a measurement a policy that goes by the blur of each request.

    \b
    Examples:
      adaphi plan drone --speed 12 --exposure-ms 8 --distance-m 6
      adaphi plan drone --images photographs -o blur.json --report drone.html
      adaphi plan drone --measured blur.json --limit-ms 50
    """
    import numpy as np

    from ...model_zoo.scaling import CompoundScaling
    from ...model_zoo.scaling import drone as laws

    blurs = [laws.blur_px(speed, exposure_ms, distance_m, focal_px)] if speed is not None else None
    blurs = list(numbers(blur_px, "--blur-px") or ()) if blurs is None else blurs
    if min(blurs) < 0 or not short_px > 0:
        raise InputError("a blur is 0 px or more, and a picture's side above 0")
    data = _measurement(images, measured, blurs, photographs, ladder, threads, output, as_json)
    found = laws.fit(data) if data is not None else laws.MEASURED
    shares = np.array(blurs) / short_px
    family = laws.plan(
        CompoundScaling(alpha, beta, gamma),
        found.law,
        base_ms=base_ms,
        base_px=base_px,
        shares=shares,
        sizes=sizes,
    )
    choices = [laws.largest_worth(family, limit_ms, k) for k in range(len(blurs))]
    _show(found, family, choices, blurs, limit_ms, data, as_json=as_json, report=report)


def _measurement(
    images: Path | None,
    measured: Path | None,
    blurs: Sequence[float],
    photographs: int,
    ladder: str,
    threads: int,
    output: Path | None,
    quiet: bool,
) -> Blurred | None:
    """Return what was measured now or before, None where neither was asked for."""
    from ...model_zoo.ladders import get_ladder
    from ...model_zoo.scaling.blurring import Blurred, measure

    if images is not None and measured is not None:
        raise InputError("--images and --measured exclude each other")
    if output is not None and images is None:
        raise InputError("-o keeps a measurement", help="give the photographs with --images")
    if measured is not None:
        return Blurred.load(measured)
    if images is None:
        return None
    if any(blur != int(blur) for blur in blurs):
        raise InputError("photographs are blurred by whole pixels", help="give --blur-px")
    with show.progress(quiet) as tell:
        data = measure(
            images,
            get_ladder(ladder).variants,
            [int(blur) for blur in blurs],
            SIDES_PX,
            most=photographs,
            threads=threads,
            command=f"adaphi plan drone --images DIR --photographs {photographs} -o FILE",
            tell=tell,
        )
    if output is not None:
        data.save(output)
    return data


class _Compared(NamedTuple):
    """Several sizes, and which of them was best at each blur."""

    name: str
    several: tuple[Seen, ...]
    best: list[Best]
    data: Blurred

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures, one row a blur; sizes go by the sides of their inputs."""
        from ...model_zoo.scaling.drone import share_right

        sides = [seen.side_px for seen in self.several]
        right = [share_right(seen).tolist() for seen in self.several]
        return [
            {
                "blur_px": blur,
                "right": {side: share[k] for side, share in zip(sides, right, strict=True)},
                "best_side_px": sides[found.measured],
                "not_surely_worse_px": [sides[i] for i in found.rivals],
                "law_side_px": sides[found.predicted],
                "agrees": found.agrees,
            }
            for k, (blur, found) in enumerate(zip(self.data.blur_px, self.best, strict=True))
        ]

    def columns(self) -> list[str]:
        """Return the table's columns."""
        sizes = [f"φ{seen.phi} at {seen.side_px}" for seen in self.several]
        return ["blur", *sizes, "best", "law", "agrees"]

    def lines(self) -> list[list[str]]:
        """Return the table's cells; "worse" marks who is surely worse than the best."""
        return [
            [
                f"{row['blur_px']} px",
                *(
                    f"{share:.3f}" + ("" if side in row["not_surely_worse_px"] else " worse")
                    for side, share in row["right"].items()
                ),
                str(row["best_side_px"]),
                str(row["law_side_px"]),
                "yes" if row["agrees"] else "no",
            ]
            for row in self.rows()
        ]

    def draw(self, page: Page, law: BlurLaw) -> None:
        """Add the table, and the law's lines through what was measured."""
        import plotly.graph_objects as go

        from ...model_zoo.scaling.drone import share_right

        page.heading(f"Measured: {self.name}, share right")
        page.table(self.columns(), self.lines())
        several = sorted(self.several, key=lambda seen: seen.seen_px)
        x = [seen.seen_px for seen in several]
        line_px = list(range(min(x), max(x) + 1))
        traces = []
        for k, (blur, share) in enumerate(zip(self.data.blur_px, self.data.shares, strict=True)):
            color = f"hsl({50 * k}, 70%, 40%)"
            y = [float(share_right(seen)[k]) for seen in several]
            points = {"x": x, "y": y, "mode": "markers", "marker": {"color": color}}
            by_law = {"x": line_px, "y": law.accuracy(line_px, share).tolist()}
            traces += [
                go.Scatter(name=f"{blur} px", **points),
                go.Scatter(name=f"{blur} px, law", line={"color": color}, **by_law),
            ]
        layout = {"xaxis": {"title": "shorter side as seen, px"}, "yaxis": {"title": "right"}}
        page.figure(go.Figure(traces, layout))


def _compared(data: Blurred, law: BlurLaw) -> list[_Compared]:
    """Return the ladder's variants, and the smallest at all sides, with who is best at each blur."""
    from ...model_zoo.scaling.drone import best_of

    smallest = tuple(sorted((s for s in data.seen if s.phi == 0), key=lambda s: s.side_px))
    sets = {"variants": data.ladder(), "resolutions of φ0": smallest}
    return [
        _Compared(name, some, best_of(some, law, data.shares), data) for name, some in sets.items()
    ]


def _show(
    found: Fit,
    family: Sequence[Planned],
    choices: Sequence[Planned | None],
    blurs: Sequence[float],
    limit_ms: float,
    data: Blurred | None,
    *,
    as_json: bool,
    report: Path | None,
) -> None:
    """Print the tables, or JSON, and write the page."""
    title = f"Right by the law; * best in {limit_ms:g} ms"
    columns = ["φ", "ms", "sees px", *(f"{blur:g} px" for blur in blurs)]
    lines = [
        [str(one.phi), f"{one.latency_ms:.1f}", f"{one.seen_px:.0f}", *_marked(one, choices)]
        for one in family
    ]
    table = show.make_table(title, columns)
    for line in lines:
        table.add_row(*line)
    parts = [] if data is None else _compared(data, found.law)
    value = {
        "law": asdict(found),
        "limit_ms": limit_ms,
        "family": [one._asdict() for one in family],
        "best": [
            {"blur_px": blur, "phi": None if one is None else one.phi}
            for blur, one in zip(blurs, choices, strict=True)
        ],
        "measured": {part.name: part.rows() for part in parts},
    }

    def draw(page: Page) -> None:
        page.prose("The share that is right by the law at each motion blur; * is the best in time.")
        page.table(columns, lines)
        for part in parts:
            part.draw(page, found.law)

    if not as_json:
        for part in parts:
            measured = show.make_table(f"Measured: {part.name}, share right", part.columns())
            for line in part.lines():
                measured.add_row(*line)
            show.print_table(measured)
    emit(title, value, table, draw, as_json=as_json, report=report)


def _marked(one: Planned, choices: Sequence[Planned | None]) -> list[str]:
    return [
        f"{'*' if choice is one else ''}{right:.3f}"
        for right, choice in zip(one.accuracy, choices, strict=True)
    ]
