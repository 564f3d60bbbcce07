"""`adaphi plan ladder`: which variants to keep warm on a device, why, and the ladder as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import show
from ..options import Json, Ladder, Threads, numbers
from .hardware import find_device, measure_here
from .output import Report, emit

if TYPE_CHECKING:
    from ...model_zoo.scaling.proposing import Candidate, Proposal
    from ...model_zoo.variants import Variant
    from ...report import Page

COLUMNS = ["", "side px", "quality", "ms", "MB", "keep"]


@dataclass(frozen=True)
class Task:
    """What is known of the job beyond the limits; each law that has something to say adds a line."""

    sides: Sequence[int]
    cues: str = ""


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
    latency_ms: Annotated[
        float, typer.Option(min=0.001, help="The latency that is allowed.")
    ] = 100.0,
    memory_mb: Annotated[
        float | None, typer.Option(min=0.001, help="For all that is kept. [the device's]")
    ] = None,
    cues: Annotated[
        str, typer.Option(help="What tells the pictures apart, if one does: shape or texture.")
    ] = "",
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
    (docs/scaling/ladder.md). Without a profile the roofline of the device tells what each takes.

    \b
    Examples:
      adaphi plan ladder --latency-ms 60 --memory-mb 100 -o ladder.toml
      adaphi plan ladder --profile profile.json --latency-ms 40 --cues shape
      adaphi profile --ladder ladder.toml
    """
    from ...errors import InputError
    from ...model_zoo.ladder_file import write_ladder
    from ...model_zoo.ladders import get_ladder
    from ...model_zoo.scaling.counting import input_shape
    from ...model_zoo.scaling.proposing import propose

    if cues not in ("", "shape", "texture"):
        raise InputError(f"--cues {cues!r}: expected shape or texture")
    variants = get_ladder(
        ladder, quality=numbers(quality, "--quality"), untrained=untrained
    ).variants
    candidates, limit_bytes, where = _costs(variants, profile, device, threads, quiet=as_json)
    if memory_mb is not None:
        limit_bytes = min(limit_bytes, memory_mb * 1e6)
    proposal = propose(candidates, latency_ms, limit_bytes)
    sides = [input_shape(variant.network)[-1] for variant in variants]
    why = [
        f"for {latency_ms:g} ms and {limit_bytes / 1e6:.0f} MB on {where}",
        *proposal.reasons,
        *advice(Task([sides[k] for k in proposal.kept], cues)),
    ]
    kept = [replace(variants[place], phi=phi) for phi, place in enumerate(proposal.kept)]
    notes = {
        variants[k].name: f"{sides[k]} px, {candidates[k].latency_ms:.3g} ms" for k in proposal.kept
    }
    write_ladder(kept, output, why=why, notes=notes)
    _show(candidates, sides, proposal, why, output, as_json=as_json, report=report)


def _costs(
    variants: Sequence[Variant], profile: Path | None, device: str, threads: int, *, quiet: bool
) -> tuple[list[Candidate], float, str]:
    """Return what each variant costs, what memory there is (bytes), and where that holds."""
    import math

    from ...model_zoo.scaling.proposing import Candidate

    if profile is not None:
        candidates, where = _measured(variants, profile)
        return candidates, math.inf, where
    from ...model_zoo.scaling.counting import count_timm
    from ...model_zoo.scaling.hardware import predict

    on = measure_here(threads, quiet=quiet) if device == "here" else find_device(device)
    told = [predict(count_timm(variant.network), on) for variant in variants]
    candidates = [
        Candidate(v.name, v.quality, p.latency_ms, p.memory_bytes)
        for v, p in zip(variants, told, strict=True)
    ]
    return candidates, on.memory_bytes, on.name


def _measured(variants: Sequence[Variant], path: Path) -> tuple[list[Candidate], str]:
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
    return [
        Candidate(v.name, v.quality, typical[v.name], memory[v.name]) for v in variants
    ], profile.device


def advice(task: Task) -> list[str]:
    """Return what the laws of scaling have to say of a task, a line each."""
    return [line for law in LAWS if (line := law(task))]


def _texture_or_shape(task: Task) -> str:
    """Say what docs/scaling/bias.md found: resolution moves the shape bias, φ does not."""
    if not task.cues:
        return ""
    if task.cues == "texture":
        return "texture needs pixels: one network named by texture twice as often at 288 px as at 128 px"
    return (
        "φ does not make a network go by shape, fewer pixels do (shape bias 0.46 at 128 px, 0.19 at 288), "
        "but fewer pictures are then named at all"
    )


LAWS: tuple[Callable[[Task], str], ...] = (_texture_or_shape,)
"""One function for each law: a line of advice, or "" where it has nothing to say of this task."""


def _show(
    candidates: Sequence[Candidate],
    sides: Sequence[int],
    proposal: Proposal,
    why: Sequence[str],
    output: Path,
    *,
    as_json: bool,
    report: Path | None,
) -> None:
    rows = [
        [
            one.name,
            str(side),
            f"{one.quality:.3f}",
            f"{one.latency_ms:.3g}",
            f"{one.memory_bytes / 1e6:.0f}",
            "→" if place in proposal.kept else "",
        ]
        for place, (one, side) in enumerate(zip(candidates, sides, strict=True))
    ]
    table = show.make_table(f"Keep warm {why[0]}", COLUMNS)
    for row in rows:
        table.add_row(*row)
    table.caption, table.caption_justify = "\n".join([*why[1:], f"written to {output}"]), "left"

    def draw(page: Page) -> None:
        page.table(COLUMNS, rows)
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
