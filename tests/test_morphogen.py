"""Stripes of embryos and turning points of policies: what is a share of the size, and what is an amount."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError
from adaphi.sim import morphogen, turning
from adaphi.sim.morphogen import DECAY_UM, LENGTH_UM, SIGNALS, STRIPES, Embryos

lengths_um = st.floats(300, 900)
amplitudes = st.floats(0.8, 1.25)
PAIR_UM = np.array([LENGTH_UM, 1.25 * LENGTH_UM])


def sensed(signal: str, x_um: float, length_um: float, head: float, tail: float) -> float:
    """Return what a cell at `x_um` senses, from the concentrations there."""
    decay_um = DECAY_UM * (length_um / LENGTH_UM if signal == "proportional" else 1)
    from_head = head * math.exp(-x_um / decay_um)
    from_tail = tail * math.exp(-(length_um - x_um) / decay_um)
    if signal == "concentrations":
        return math.log(from_head / from_tail)
    if signal == "ratio":
        return -math.log(from_head) / math.log(from_tail)
    return from_head


@pytest.mark.parametrize("signal", SIGNALS)
@given(length_um=lengths_um, head=amplitudes, tail=amplitudes, stripe=st.integers(0, 6))
@settings(max_examples=30)
def test_a_stripe_lies_where_concentrations_meet_its_threshold(
    signal: str, length_um: float, head: float, tail: float, stripe: int
) -> None:
    """A root finder that knows the gradients alone comes to the same place."""
    optimize = pytest.importorskip("scipy.optimize")
    threshold = sensed(signal, STRIPES[stripe] * LENGTH_UM, LENGTH_UM, 1.0, 1.0)
    embryo = Embryos(np.array([length_um]), np.array([head]), np.array([tail]))
    from_um, to_um = (DECAY_UM * max(math.log(a), 0.0) + 1e-6 for a in (head, tail))
    logs_keep_signs = (from_um, length_um - to_um)
    bracket = logs_keep_signs if signal == "ratio" else (-600.0, 1500.0)
    root = optimize.brentq(
        lambda x_um: sensed(signal, x_um, length_um, head, tail) - threshold, *bracket
    )
    assert morphogen.positions_um(signal, embryo)[stripe, 0] == pytest.approx(root, abs=1e-6)


@given(st.lists(lengths_um, min_size=2, max_size=8))
def test_shares_hold_for_every_length_and_amounts_for_none_but_one(lengths: list[float]) -> None:
    """Stripe 3 lies at 45 % under λ ∝ L and under ratios; under a fixed λ at 225 µm."""
    embryos = Embryos.of(lengths)
    for signal in ("proportional", "ratio"):
        third_um = morphogen.positions_um(signal, embryos)[2]
        np.testing.assert_allclose(third_um / embryos.length_um, 0.45, rtol=1e-12)
    np.testing.assert_allclose(morphogen.positions_um("fixed", embryos)[2], 225.0)


@pytest.mark.parametrize("place", ["stripes", "policy"])
@given(factor=st.floats(0.2, 5.0))
@settings(max_examples=20)
def test_a_size_times_any_factor_moves_every_place_by_that_factor(
    place: str, factor: float
) -> None:
    """One test for both: length and stripes, time and the budgets at which a policy turns."""
    if place == "stripes":
        places = morphogen.positions_um("ratio", Embryos.of([LENGTH_UM, LENGTH_UM * factor]))
    else:
        places = turning.policy_places_ms("ratio", [10.0, 10.0 * factor])
    assert np.isfinite(places).all() and len(places) == {"stripes": 7, "policy": 2}[place]
    np.testing.assert_allclose(places[:, 1], factor * places[:, 0], rtol=1e-9)


def test_coefficients_are_those_of_the_closed_forms() -> None:
    """0 for amounts, 1 for shares, (L/2) ÷ x for concentrations of two gradients."""
    sizes = LENGTH_UM * np.array([1 - 1e-5, 1 + 1e-5])
    u = np.array(STRIPES)
    expected = {"fixed": 0 * u, "proportional": u / u, "concentrations": 0.5 / u, "ratio": u / u}
    for signal, coefficient in expected.items():
        places = morphogen.positions_um(signal, Embryos.of(sizes))
        found = morphogen.measure(places, sizes, places, sizes)
        np.testing.assert_allclose(found.coefficient, coefficient, atol=1e-6)


def test_the_published_bounds_tell_the_signals_apart() -> None:
    """Of a strain with lengths of 4 % and of two lines 25 % apart, shares alone keep 1 %.

    Concentrations keep it at stripe 3 within the strain, and lose it between lines at both ends.
    """
    strain = morphogen.strain_um(4000)
    assert np.std(strain) / LENGTH_UM == pytest.approx(0.04, rel=0.05)
    found = {}
    for signal in SIGNALS:
        places, pair = (
            morphogen.positions_um(signal, Embryos.of(lengths)) for lengths in (strain, PAIR_UM)
        )
        found[signal] = morphogen.measure(places, strain, pair, PAIR_UM)
    assert {s for s, one in found.items() if one.holds} == {"proportional", "ratio"}
    assert found["fixed"].spread[2] == pytest.approx(0.45 * 0.04, rel=0.05)
    assert found["concentrations"].spread[2] < 0.01 < found["concentrations"].apart[[0, 6]].min()


def test_amplitudes_that_vary_cost_shares_too() -> None:
    """To first order the spread is λ/L times that of ln a, or, with two ends, its part in each."""
    sizes = np.full(20_000, LENGTH_UM)
    embryos = Embryos.of(sizes, amplitude_sd=0.01)
    u, unit = np.array(STRIPES), 0.01 * DECAY_UM / LENGTH_UM
    for signal, spread in (("proportional", unit + 0 * u), ("ratio", unit * np.hypot(1 - u, u))):
        shares = morphogen.positions_um(signal, embryos) / sizes
        np.testing.assert_allclose(np.std(shares, axis=1), spread, rtol=0.03)


def test_what_is_no_embryo_and_no_signal_is_refused() -> None:
    with pytest.raises(InputError, match="length_um holds -1"):
        Embryos.of([500.0, -1.0])
    with pytest.raises(InputError, match="no signal is called 'linear'"):
        morphogen.positions_um("linear", Embryos.of([500.0]))


def test_the_command_says_which_signals_scale(tmp_path: Path) -> None:
    """Table, JSON and page tell the same; a length that is none is refused in one line."""
    pytest.importorskip("plotly")
    few = ["plan", "embryo", "--count", "20"]
    said = CliRunner().invoke(app, few, catch_exceptions=False)
    assert "56.2%" in said.output and "policy: ratio" in said.output
    page = tmp_path / "embryo.html"
    said = CliRunner().invoke(app, [*few, "--json", "--report", str(page)], catch_exceptions=False)
    rows = json.loads(said.output)["rows"]
    held = {(row["what"], row["signal"]) for row in rows if row["holds"]}
    assert held == {("stripes", "proportional"), ("stripes", "ratio"), ("policy", "ratio")}
    assert "Plotly.newPlot" in page.read_text()
    with pytest.raises(InputError, match="length_um holds nan"):
        CliRunner().invoke(app, [*few, "--lengths", "nan"], catch_exceptions=False)
