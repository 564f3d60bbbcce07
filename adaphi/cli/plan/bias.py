"""`adaphi plan bias`: whether variants name pictures by their shape or by their texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import show
from ..options import Json, Ladder, Threads, numbers
from .output import Report, emit

if TYPE_CHECKING:
    from ...model_zoo.scaling.bias import Bias, CueConflicts, Ints, Trend
    from ...model_zoo.scaling.classifier import Classifier
    from ...report import Page

WORDS = {"phi": "φ", "side": "resolution"}
COLUMNS = ["", "side px", "shape", "texture", "neither", "shape bias", "95 % interval"]


@dataclass(frozen=True)
class Seen:
    """What one variant made of the pictures at one resolution."""

    name: str
    phi: int
    side: int
    followed: Ints

    def row(self) -> dict[str, object]:
        """Return the figures."""
        bias = self.bias
        low, high = bias.interval()
        return {
            "name": self.name, "phi": self.phi, "side_px": self.side, **bias._asdict(),
            "shape_bias": bias.share, "low": low, "high": high,
        }  # fmt: skip

    @property
    def bias(self) -> Bias:
        """Return the counts."""
        from ...model_zoo.scaling.bias import Bias

        return Bias.of(self.followed)


def bias(
    images: Annotated[
        Path,
        typer.Option(
            "--images",
            help="A folder of cue-conflict pictures with labels.csv and class16_to_imagenet.csv.",
        ),
    ],
    ladder: Ladder = "efficientnet-lite",
    phi: Annotated[int, typer.Option(min=0, help="The variant shown at several sides.")] = 0,
    sides: Annotated[str, typer.Option(help="At which sides (px) it is shown.")] = (
        "128,160,192,224,288"
    ),
    threads: Threads = 1,
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Say whether variants go by shape or by texture, and whether that moves with φ or resolution.

    \b
    Examples:
      adaphi plan bias --images cue_conflict
      adaphi plan bias --images cue_conflict --phi 2 --sides 160,200,260,320 --report bias.html
    """
    from ...errors import InputError
    from ...model_zoo.ladders import get_ladder
    from ...model_zoo.scaling.bias import CueConflicts, trend

    cues = CueConflicts.read(images)
    variants = get_ladder(ladder).variants
    if phi >= len(variants):
        raise InputError(f"--phi {phi}: the ladder has φ = 0 … {len(variants) - 1}")
    wanted = [int(side) for side in numbers(sides, "--sides") or ()]
    if min(wanted) < 32 or len(set(wanted)) < 2:
        raise InputError(f"--sides {sides}: expected two or more different sides from 32 px")
    by_phi, by_side = _look(cues, ladder, phi, wanted, threads, as_json)
    trends = {
        "phi": trend([s.phi for s in by_phi], _stack(by_phi)),
        "side": trend([s.side for s in by_side], _stack(by_side)),
    }
    _show(by_phi, by_side, trends, len(cues.files), as_json=as_json, report=report)


def _look(
    cues: CueConflicts, ladder: str, phi: int, sides: Sequence[int], threads: int, quiet: bool
) -> tuple[list[Seen], list[Seen]]:
    """Return what each variant made of the pictures, and variant `phi` at each of the sides."""
    from ...model_zoo.ladders import get_ladder
    from ...model_zoo.scaling.classifier import Classifier

    by_phi, by_side = [], []
    variants = get_ladder(ladder).variants
    with show.progress(quiet) as tell:
        for variant in variants:
            classifier = Classifier(variant, threads=threads)
            here = {classifier.side, *(sides if variant.phi == phi else ())}
            seen = {
                side: Seen(variant.name, variant.phi, side, _answers(cues, classifier, side, tell))
                for side in sorted(here)
            }
            by_phi.append(seen[classifier.side])
            if variant.phi == phi:
                by_side = [seen[side] for side in sorted(set(sides))]
    return by_phi, by_side


def _answers(cues: CueConflicts, classifier: Classifier, side: int, tell: show.Progress) -> Ints:
    import numpy as np

    from ...model_zoo.images import as_image

    followed = []
    for number, file in enumerate(cues.files):
        followed.append(cues.followed(number, classifier.logits(as_image(file), side)))
        tell(number + 1, len(cues.files), f"{side} px")
    return np.array(followed)


def _stack(seen: Sequence[Seen]) -> Ints:
    import numpy as np

    return np.stack([s.followed for s in seen])


def _show(
    by_phi: Sequence[Seen],
    by_side: Sequence[Seen],
    trends: dict[str, Trend],
    pictures: int,
    *,
    as_json: bool,
    report: Path | None,
) -> None:
    """Print the table, or JSON, and write the page."""
    title = f"Texture or shape: {pictures} pictures whose cues disagree"
    table = show.make_table(title, COLUMNS)
    parts = {"phi": by_phi, "side": by_side}
    lines = {name: [_cells(s) for s in seen] for name, seen in parts.items()}
    for rows in lines.values():
        for row in rows:
            table.add_row(*row)
        table.add_section()
    said = [f"over {WORDS[name]}: {_sentence(found)}" for name, found in trends.items()]
    table.caption, table.caption_justify = "\n".join(said), "left"

    def draw(page: Page) -> None:
        for (name, seen), sentence in zip(parts.items(), said, strict=True):
            page.heading(f"Over {WORDS[name]}")
            page.table(COLUMNS, lines[name])
            page.prose(sentence)
            _figure(page, seen, name)

    value = {
        "pictures": pictures,
        **{f"by_{name}": [s.row() for s in seen] for name, seen in parts.items()},
        "trends": {n: {**t._asdict(), "verdict": t.verdict} for n, t in trends.items()},
    }
    emit(title, value, table, draw, as_json=as_json, report=report)


def _cells(seen: Seen) -> list[str]:
    low, high = seen.bias.interval()
    counts = [str(count) for count in seen.bias]
    return [
        f"φ{seen.phi} {seen.name}",
        str(seen.side),
        *counts,
        f"{seen.bias.share:.3f}",
        f"{low:.3f} to {high:.3f}",
    ]


def _sentence(found: Trend) -> str:
    return (
        f"Cochran-Armitage z = {found.z:+.2f}, p = {found.p:.2g}; paired by picture "
        f"z = {found.paired_z:+.2f}, p = {found.paired_p:.2g}: {found.verdict}"
    )


def _figure(page: Page, seen: Sequence[Seen], name: str) -> None:
    import plotly.graph_objects as go

    shares = [s.bias.share for s in seen]
    intervals = [s.bias.interval() for s in seen]
    error = {
        "array": [high - x for x, (_, high) in zip(shares, intervals, strict=True)],
        "arrayminus": [x - low for x, (low, _) in zip(shares, intervals, strict=True)],
        "symmetric": False,
    }
    x = [getattr(s, name) for s in seen]
    trace = go.Scatter(x=x, y=shares, error_y=error, mode="markers+lines")
    axis: dict[str, object] = {"title": {"phi": "φ", "side": "side px"}[name]}
    if name == "phi":
        axis["dtick"] = 1
    page.figure(go.Figure([trace], {"yaxis": {"title": "shape bias"}, "xaxis": axis}))
