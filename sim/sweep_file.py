"""What a sweep tries, as one TOML file: every combination of ladders, prices, traces, seeds and policies.

    profiles = ["profile.json"]
    policies = ["static:0", "greedy", "hysteresis", "table", "refreshed", "mine.npz", "clairvoyant"]
    seeds = [0]

    [grid]
    miss_cost = [0.5, 1.0]
    switch_cost = [0.01]

    [traces]
    files = ["recordings/*.csv"]

One of three sections says what is played: `[traces]` replays recorded budgets, `[fleet]` gives each device a
day of its own, drawn from what was recorded, `[requests]` simulates the daemon request by request. Names of
files are from the TOML's folder and may have wildcards. A list may not name anything twice.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ..errors import ConfigError

MOST_HOURS = 24 * 366.0

Share = Annotated[float, Meta(gt=0, lt=1)]
Price = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0)]
Names = Annotated[list[str], Meta(min_length=1)]
Seeds = Annotated[list[Seed], Meta(min_length=1)]
Prices = Annotated[list[Price], Meta(min_length=1)]
Positives = Annotated[list[Positive], Meta(min_length=1)]


class Grid(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[grid]`: prices, and the latency figure that is planned with; every combination is played."""

    miss_cost: Prices = msgspec.field(default_factory=lambda: [0.5])
    switch_cost: Prices = msgspec.field(default_factory=lambda: [0.01])
    latency: Names = msgspec.field(default_factory=lambda: ["p95"])


class Traces(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[traces]`: replay recorded budgets; each file with each of `scales`, which multiplies its budgets."""

    files: Names
    scales: Positives = msgspec.field(default_factory=lambda: [1.0])


class Fleet(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[fleet]`: `devices` that run for `hours`, their budgets drawn from chains fitted to `files`.

    Files and scales are dealt out: device d has pair d modulo their number. A step is as long as that file's.
    """

    files: Names
    devices: Count
    hours: Annotated[float, Meta(gt=0, le=MOST_HOURS)] = 24.0
    scales: Positives = msgspec.field(default_factory=lambda: [1.0])


class Requests(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[requests]`: simulate the daemon; every one of `arrivals` with every deadline.

    Arrivals are written as for `adaphi requests`: poisson:RATE, regular:RATE, or a CSV of counts. So are all
    others; `slowdown` and `budget` are traces.
    """

    arrivals: Names
    deadline_ms: Positives
    number: Count = 100_000
    speed: Positive = 1.0
    thin: Annotated[float, Meta(gt=0, le=1)] = 1.0
    slowdown: str | None = None
    budget: str | None = None
    max_requests: Count = 64


class SweepFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that a sweep can be told; see the module's docstring and the sections above.

    `table` and `refreshed` learn from `train`, as it is, where it is given; else from the first `learn` of
    each trace, of which then only the rest is played, or drawn from.
    """

    profiles: Names
    policies: Names
    seeds: Seeds = msgspec.field(default_factory=lambda: [0])
    train: list[str] = []
    learn: Share = 0.5
    grid: Grid = msgspec.field(default_factory=Grid)
    traces: Traces | None = None
    fleet: Fleet | None = None
    requests: Requests | None = None


def load(path: str | Path) -> SweepFile:
    """Return what a file says, wildcards filled in; raise `ConfigError` with the file and the key's path."""
    path = Path(path)
    try:
        sweep = msgspec.convert(tomllib.loads(path.read_text()), SweepFile)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from None
    sections = [n for n in ("traces", "fleet", "requests") if getattr(sweep, n) is not None]
    if len(sections) != 1:
        raise ConfigError(
            f"{path}: {' and '.join(sections) or 'nothing'} to play - at `$`",
            help="a sweep has one section of [traces], [fleet] and [requests]",
        )
    try:
        return _filled_in(sweep, path.resolve().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", help=error.help) from None


def _filled_in(sweep: SweepFile, folder: Path) -> SweepFile:
    """Return the file with every list of names expanded, and checked for what is there twice."""
    section = sweep.traces or sweep.fleet
    if section is not None:
        name = "traces" if sweep.traces else "fleet"
        files = _matches(section.files, folder, f"$.{name}.files")
        _once(section.scales, f"$.{name}.scales")
        section = msgspec.structs.replace(section, files=files)
        sweep = msgspec.structs.replace(sweep, **{name: section})
    else:
        assert sweep.requests is not None
        _once(sweep.requests.arrivals, "$.requests.arrivals")
        _once(sweep.requests.deadline_ms, "$.requests.deadline_ms")
    for name in ("miss_cost", "switch_cost", "latency"):
        _once(getattr(sweep.grid, name), f"$.grid.{name}")
    _once(sweep.policies, "$.policies")
    _once(sweep.seeds, "$.seeds")
    return msgspec.structs.replace(
        sweep,
        profiles=_matches(sweep.profiles, folder, "$.profiles"),
        train=_matches(sweep.train, folder, "$.train"),
    )


def _matches(patterns: Sequence[str], folder: Path, where: str) -> list[str]:
    """Return the files that patterns name, in order; a name without wildcards stands for itself."""
    found: list[str] = []
    for place, pattern in enumerate(patterns):
        if not any(sign in pattern for sign in "*?["):
            found.append(pattern)
            continue
        root = Path(Path(pattern).anchor) if Path(pattern).is_absolute() else folder
        paths = sorted(root.glob(str(Path(pattern).relative_to(Path(pattern).anchor))))
        if not paths:
            raise ConfigError(f"no file matches {pattern!r} - at `{where}[{place}]`")
        found += [str(p.relative_to(folder)) if root == folder else str(p) for p in paths]
    _once(found, where)
    return found


def _once(values: Sequence[object], where: str) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ConfigError(f"{value!r} is there twice - at `{where}[{place}]`")
