"""`adaphi plan embryo`: stripes of embryos beside the turning points of a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import show
from ..options import Json, numbers
from .output import Report, emit

if TYPE_CHECKING:
    from ...report import Page
    from ...sim.morphogen import Floats, Invariance

_THIRD = 2  # the place of stripe 3
_PROSE = (
    "A stripe forms where a signal equals its threshold; thresholds are those of an embryo of 500 µm. A "
    "signal that counts in micrometres keeps its place and loses its share of the length (coefficient 0); "
    "one that compares keeps the share (coefficient 1). A policy's thresholds are measured in the same way, "
    "on devices that are as many times slower as the embryos are longer. The stripes' places are synthetic."
)


def embryo(
    lengths: Annotated[
        str, typer.Option(help="Where stripe 3 is shown: lengths in µm, with commas.")
    ] = "400,500,625",
    count: Annotated[int, typer.Option(min=10, max=10_000, help="Embryos of the strain.")] = 1000,
    length_sd: Annotated[
        float, typer.Option(min=0.005, max=0.1, help="S.d. of their lengths, as a share.")
    ] = 0.04,
    amplitude_sd: Annotated[
        float, typer.Option(min=0.0, max=0.1, help="S.d. of the gradients' amplitudes, as a share.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of lengths and amplitudes.")] = 0,
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Say which signals put stripes at the same share of every embryo's length, and which do not.

    Published: a stripe keeps its share of the length to 1 % of it, in a strain whose lengths vary by 4 %
    and between lines whose lengths differ by 25 %. The last two rows measure the budgets at which a policy
    turns to the next variant in the same way.

    \b
    Examples:
      adaphi plan embryo
      adaphi plan embryo --amplitude-sd 0.09 --report embryo.html
    """
    import numpy as np

    from ...sim import morphogen, turning

    shown = np.array(numbers(lengths, "--lengths"))
    strain = morphogen.strain_um(count, length_sd=length_sd, seed=seed)
    pair = morphogen.LENGTH_UM * np.array([1.0, 1 + morphogen.BETWEEN_LENGTH])

    def stripes(signal: str, lengths_um: Floats) -> Floats:
        noise_sd = amplitude_sd if lengths_um is strain else 0.0
        embryos = morphogen.Embryos.of(lengths_um, amplitude_sd=noise_sd, seed=seed)
        return morphogen.positions_um(signal, embryos)

    def turns(signal: str, lengths_um: Floats) -> Floats:
        unit = morphogen.LENGTH_UM / turning.LATENCY_MS[0]
        return unit * turning.policy_places_ms(signal, lengths_um / unit)

    rows: list[dict[str, object]] = []
    for what, place, signals in (
        ("stripes", stripes, tuple(morphogen.SIGNALS)),
        ("policy", turns, ("fixed", "ratio")),
    ):
        for signal in signals:
            found = morphogen.measure(place(signal, strain), strain, place(signal, pair), pair)
            third = (place(signal, shown)[_THIRD if what == "stripes" else 0] / shown).tolist()
            rows.append(_row(what, signal, third, found))
    columns = ["signal", *(f"at {um:g} µm" for um in shown)]
    columns += ["d ln x / d ln L", "spread", "lines apart", "within 1 %"]
    lines = [_cells(row) for row in rows]
    table = show.make_table("Stripe 3, and where a policy leaves φ = 0, as a share", columns)
    for line in lines:
        table.add_row(*line)

    def draw(page: Page) -> None:
        page.prose(_PROSE)
        page.table(columns, lines)
        page.figure(_figure(morphogen.LENGTH_UM, stripes))

    value = {"lengths_um": shown.tolist(), "rows": rows}
    emit("Why ratios: stripes and policies", value, table, draw, as_json=as_json, report=report)


def _row(what: str, signal: str, shares: list[float], found: Invariance) -> dict[str, object]:
    return {
        "what": what,
        "signal": signal,
        "shares": shares,
        "coefficient": found.coefficient.tolist(),
        "spread": found.spread.tolist(),
        "lines_apart": found.apart.tolist(),
        "holds": found.holds,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    extremes = min(row["coefficient"]), max(row["coefficient"])
    low, high = (f"{round(x, 2) + 0.0:.2f}" for x in extremes)  # + 0.0: no −0.00
    return [
        f"{row['what']}: {row['signal']}",
        *(f"{share:.1%}" for share in row["shares"]),
        low if low == high else f"{low} … {high}",
        f"{max(row['spread']):.1%}",
        f"{max(row['lines_apart']):.1%}",
        "yes" if row["holds"] else "no",
    ]


def _figure(reference_um: float, stripes: Callable[[str, Floats], Floats]) -> object:
    """Return the shares of all stripes over the length, a panel for each signal."""
    import numpy as np
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from ...sim.morphogen import SIGNALS

    lengths_um = np.linspace(0.75 * reference_um, 1.25 * reference_um, 51)
    figure = make_subplots(1, len(SIGNALS), subplot_titles=list(SIGNALS), shared_yaxes=True)
    for column, signal in enumerate(SIGNALS, 1):
        for k, place_um in enumerate(stripes(signal, lengths_um)):
            colour = "#cb181d" if k == _THIRD else "#6baed6"
            line = go.Scatter(
                x=lengths_um, y=place_um / lengths_um, name=f"stripe {k + 1}", line_color=colour
            )
            figure.add_trace(line, 1, column)
        figure.update_xaxes(title="length, µm", row=1, col=column)
    figure.update_yaxes(title="share of the length", row=1, col=1, tickformat=".0%")
    figure.update_layout(showlegend=False)
    return figure
