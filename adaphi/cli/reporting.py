"""`--report`: what a command found, as one page (extra `report`)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from ..model_zoo.profile import Profile
    from ..policies.table import TablePolicy
    from ..sim.compare import Comparison
    from ..sim.counterfactual import Counterfactual
    from ..sim.replay import Replay


def _checked(path: Path | None) -> Path | None:
    """Refuse what is no page before any work."""
    if path is not None:
        from ..sim.report import check_page

        check_page(path)
    return path


Report: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--report",
        callback=_checked,
        help="Write a page (HTML) that explains it, in one file (extra `report`).",
    ),
]


def write(
    path: Path,
    comparison: Comparison,
    inputs: Sequence[Path],
    *,
    latency: str,
    table: TablePolicy | None = None,
    recorded: Counterfactual | None = None,
) -> None:
    """Write the page to `path`; `inputs` are the files that were read."""
    from ..sim.report import Study, write_report

    command = shlex.join(["adaphi", *sys.argv[1:]])
    write_report(Study(comparison, command, inputs, table, recorded, latency), path)


def beside_rules(outcome: Replay, profile: Profile, latency: str) -> Comparison:
    """Return a replay beside the rules that cost nothing to try, and the bound."""
    from ..sim.compare import Comparison
    from ..sim.replay import clairvoyant, replay

    names = [*(f"static:{phi}" for phi in range(len(profile))), "greedy", "hysteresis", "alert"]
    trace, objective = outcome.trace, outcome.objective
    rules = [
        replay(trace, profile, name, objective=objective, latency=latency)
        for name in names
        if name != outcome.policy
    ]
    bound = clairvoyant(trace, profile, objective=objective, latency=latency)
    return Comparison(tuple(rules), (outcome,), bound)
