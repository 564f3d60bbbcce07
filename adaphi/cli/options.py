"""Options that several commands share, each written once."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ..errors import InputError
from ..policies.frame import Objective

ProfileFile: TypeAlias = Annotated[
    Path, typer.Option("--profile", help="What the ladder costs: a file of `adaphi profile`.")
]
Latency: TypeAlias = Annotated[
    str, typer.Option("--latency", help="The latency to plan with: mean, p50, p95 or p99.")
]
MissCost: TypeAlias = Annotated[
    float | None, typer.Option("--miss-cost", help="Price of a late answer, in quality. [0.5]")
]
SwitchCost: TypeAlias = Annotated[
    float | None, typer.Option("--switch-cost", help="Price of a switch, in quality. [0.01]")
]
Arrivals: TypeAlias = Annotated[
    str,
    typer.Option(
        "--arrivals", help="poisson:RATE or regular:RATE (a second), or a CSV with time_s,count."
    ),
]
Speed: TypeAlias = Annotated[
    float, typer.Option("--speed", help="Play recorded counts this many times faster.")
]
Thin: TypeAlias = Annotated[
    float, typer.Option("--thin", help="Keep this share of recorded requests, drawn at random.")
]
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Adapt: TypeAlias = Annotated[
    bool, typer.Option("--adapt", help="Let a table keep learning while it runs.")
]
Ladder: TypeAlias = Annotated[
    str,
    typer.Option(
        "--ladder",
        help="efficientnet-lite, efficientnet-lite-mixed, efficientnet, timm:NAME,NAME,… or a TOML file",
    ),
]
Backend: TypeAlias = Annotated[
    str,
    typer.Option("--backend", help="What runs the models: torch, onnx, openvino, cuda or auto."),
]
Threads: TypeAlias = Annotated[int, typer.Option("--threads", min=1, help="Threads of one run.")]
Address: TypeAlias = Annotated[
    str | None,
    typer.Option("--address", help="Where the daemon listens: ipc://PATH or tcp://HOST:PORT."),
]
ServerKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--server-key",
        envvar="ADAPHI_SERVER_KEY",
        help="Of a daemon elsewhere: its public key, or the file.",
    ),
]
KeyFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--key-file", envvar="ADAPHI_KEY_FILE", help="Of a daemon elsewhere: your own secret key."
    ),
]


BatteryWh: TypeAlias = Annotated[
    float | None, typer.Option("--battery-wh", help="What the battery holds at the start, in Wh.")
]


def seconds(text: str, option: str) -> float:
    """Return the seconds of a duration like 8h, 90m, 45s or a bare number of seconds."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _SECONDS else (text, "s")
    try:
        value = float(number) * _SECONDS[unit]
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{option} {text!r}: expected a duration like 8h, 90m or 45s")
    return value


def moment_s(text: str, option: str) -> float:
    """Return a moment in seconds since 1970: a number, or ISO 8601 (local if no zone is named)."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"{option} {text!r}: expected a moment like 2026-03-01T08:30 or seconds since 1970"
        ) from None


def make_objective(
    miss_cost: float | None,
    switch_cost: float | None,
    *,
    discount: str = "average",
    default: Objective | None = None,
) -> Objective:
    """Return the objective that options name; what is not named comes from `default`."""
    default = default or Objective()
    try:
        return Objective(
            default.miss_cost if miss_cost is None else miss_cost,
            default.switch_cost if switch_cost is None else switch_cost,
            None if discount == "average" else float(discount),
        )
    except ValueError as error:
        raise InputError(str(error), help="--discount is `average` or a number in (0, 1)") from None


def numbers(text: str | None, option: str) -> Sequence[float] | None:
    """Return the numbers of a comma-separated option."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}: expected numbers with commas between") from None


def writable(path: Path) -> Path:
    """Return where something is to be written; raise `InputError` before it is worked out in vain."""
    folder = path.parent
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"cannot write {path}: not allowed")
    return path
