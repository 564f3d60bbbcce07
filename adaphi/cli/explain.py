"""`adaphi explain`: a policy in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import show
from .options import Json

if TYPE_CHECKING:
    from ..model_zoo.profile import Profile
    from ..policies.explain import Reason
    from ..policies.table import TablePolicy


def explain(
    policy: Annotated[Path, typer.Argument(help="A policy.npz.")],
    profile: Annotated[
        Path | None,
        typer.Option(help="The profile of a device: thresholds become milliseconds."),
    ] = None,
    reading_ms: Annotated[
        float | None, typer.Option(min=0, help="Explain the decision at this budget.")
    ] = None,
    active: Annotated[int, typer.Option(min=0, help="… with this variant active.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the table to this PNG or SVG (extra `report`).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say in plain words what a policy does.

    Its thresholds for each active variant, whether a larger budget ever gets a smaller variant, what
    it promises; with --reading-ms also why it decides as it does there.

    \b
    Examples:
      adaphi explain policy.npz --profile profile.json
      adaphi explain policy.npz --profile profile.json --reading-ms 45 --active 1
    """
    from ..model_zoo.profile import Profile
    from ..policies import explain as words
    from ..policies.table import TablePolicy

    table = TablePolicy.load(policy)
    given = Profile.load(profile) if profile is not None else None
    edges, unit = table.chain.edges, "× φ=0"
    if given is not None:
        table.bind(given)  # refuses another ladder
        edges, unit = table.chain_ms(given.costs(table.latency)).edges, "ms"
    variants = table.table.shape[1]
    if active >= variants:
        raise InputError(f"--active {active}: the policy has φ = 0 … {variants - 1}")
    parts = {m: words.spans(edges, table.table, m) for m in range(variants)}
    broken = words.not_monotone(table.table)
    if picture is not None:
        from ..sim.picture import draw_table

        draw_table(edges, table.table, unit, picture)
    reasons = None
    if reading_ms is not None:
        if given is None:
            raise InputError(
                "--reading-ms needs --profile", help="costs are the device's, not the policy's"
            )
        reasons = list(words.reasons(table, given, reading_ms, active))
    if as_json:
        show.print_json(
            {
                "unit": "ms" if given else "cost of φ=0",
                "thresholds": {
                    str(m): [[s.low, s.high if s.high < 1e300 else None, s.phi] for s in spans]
                    for m, spans in parts.items()
                },
                "monotone": broken is None,
                "reasons": [r._asdict() for r in reasons] if reasons else None,
            }
        )
        return
    for m, spans in parts.items():
        typer.echo(words.sentence(spans, m, unit))
    if broken is None:
        typer.echo("monotone: a larger budget never gets a smaller variant")
    else:
        place = f"{edges[broken[0] - 1]:.4g} {unit}"
        typer.echo(f"not monotone: at {place} with φ={broken[1]} active the choice falls")
    for line in show.promise_lines(table):
        typer.echo(line)
    if reasons is not None and given is not None and reading_ms is not None:
        _why(reasons, given, table, reading_ms, active)


def _why(
    reasons: list[Reason], profile: Profile, policy: TablePolicy, reading_ms: float, active: int
) -> None:
    columns = ["choice", "needs ms", "on time", "this step", "later", "worth"]
    table = show.make_table(f"at {reading_ms:g} ms with φ={active} active", columns)
    need = profile.costs(policy.latency).need_ms[active]
    for r in reasons:
        cells = [f"{need[r.phi]:.1f}", f"{r.on_time:.1%}", f"{r.payoff:.4f}", f"{r.later:+.4f}"]
        table.add_row(f"φ={r.phi}", *cells, "best" if r.total == 0 else f"{r.total:+.4f}")
    show.print_table(table)
