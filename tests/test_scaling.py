"""The vocabulary of scaling: powers that multiply, and rules that are no rules."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError
from adaphi.model_zoo.scaling import PUBLISHED, CompoundScaling

factors = st.floats(0.5, 2.0)
sizes = st.floats(-4, 8)


@given(factors, factors, factors, sizes, sizes)
def test_steps_multiply(alpha: float, beta: float, gamma: float, one: float, two: float) -> None:
    law = CompoundScaling(alpha, beta, gamma)
    for cost in (
        law.depth,
        law.width,
        law.resolution,
        law.operations,
        law.weights,
        law.activations,
    ):
        assert math.isclose(cost(one + two), cost(one) * cost(two), rel_tol=1e-9)
        assert cost(0) == 1


def test_the_published_rule_doubles_about() -> None:
    assert PUBLISHED.operations(1) == pytest.approx(1.2 * 1.1**2 * 1.15**2)
    assert 1.9 < PUBLISHED.operations(1) < 2.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="beta is"):
        CompoundScaling(1.2, value, 1.15)


def test_the_command_prints_a_table_json_and_a_page(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    said = CliRunner().invoke(app, ["plan", "rule", "--sizes", "3"], catch_exceptions=False)
    assert "1.92" in said.output
    page = tmp_path / "rule.html"
    said = CliRunner().invoke(
        app, ["plan", "rule", "--json", "--report", str(page)], catch_exceptions=False
    )
    assert json.loads(said.output)["operations"][1] == pytest.approx(1.9205, abs=1e-3)
    text = page.read_text()
    assert "Plotly.newPlot" in text and "<script src" not in text and "<link" not in text
