"""The law of augmentation's strength: what it is fitted to comes back, and real trainings repeat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError
from adaphi.model_zoo.scaling import augment, measured
from adaphi.model_zoo.scaling.augment import AugmentCell, AugmentLaw, Curves
from adaphi.model_zoo.scaling.measured import Measured

pytest.importorskip("scipy")
WEIGHTS = (500, 1000, 3000, 9000, 40000)
STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8)


def family(c: float, p: float, noise: float = 0.0, seeds: int = 4) -> list[AugmentCell]:
    """Return what a family would measure whose error is a cubic of ln s about c · M^(−p)."""
    draws = np.random.default_rng(0)
    cells = []
    for phi, weights in enumerate(WEIGHTS):
        for s in STRENGTHS:
            off = np.log(s / (c * weights**-p))
            error = 0.05 * np.exp(0.3 * off**2 + 0.05 * off**3)
            errors = error * np.exp(noise * draws.standard_normal(seeds))
            cells.append(AugmentCell(phi, weights, s, tuple(errors)))
    return cells


@given(st.floats(0.01, 10), st.floats(-1, 1))
def test_a_power_law_is_recovered_whatever_counts_most(c: float, p: float) -> None:
    weights = np.array([100.0, 700.0, 90000.0])
    law = AugmentLaw.fit(weights, c * weights**-p, np.array([0.1, 3.0, 0.4]))
    assert law.c == pytest.approx(c) and law.p == pytest.approx(p, abs=1e-9)
    assert law.strength(5e6) == pytest.approx(c * 5e6**-p)


@pytest.mark.parametrize("p", [-0.2, 0.0, 0.15])
def test_the_small_predict_the_large_where_the_law_holds(p: float) -> None:
    verdict = augment.judge(Curves.of(family(0.2 * 1000**p, p)), [0, 1, 2])
    assert verdict.few.law.p == pytest.approx(p, abs=0.01)
    assert verdict.median_factor < 1.03
    assert verdict.loss("predicted") == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("c", "p"), [(0.05, -0.2), (0.2, 0.0)])
def test_the_interval_holds_the_truth_when_seeds_differ(c: float, p: float) -> None:
    fit = augment.judge(Curves.of(family(c, p, noise=0.05)), [0, 1, 2]).all
    low, high = fit.p_interval
    assert low < p < high and 0 < high - low < 0.3
    assert fit.size_matters == (p != 0)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(1).normal(size=(3, 7))
    errors = augment.jackknife(lambda chosen: x[:, chosen].mean(axis=1), 7)
    np.testing.assert_allclose(errors, x.std(axis=1, ddof=1) / np.sqrt(7))


def test_no_strength_changes_nothing_and_a_quarter_turn_is_within_strength_one() -> None:
    import torch

    pictures = torch.rand(5, 1, 8, 8) * 2 - 1
    still = augment.augmented(pictures, 0.0, torch.Generator())
    torch.testing.assert_close(still, pictures, atol=1e-5, rtol=0)
    moved = augment.augmented(pictures, 1.0, torch.Generator().manual_seed(0))
    assert moved.min() >= -1 - 1e-5 and moved.max() <= 1 + 1e-5 and not moved.equal(pictures)


def test_what_is_shipped_is_whole_and_one_training_of_it_repeats() -> None:
    pytest.importorskip("sklearn")
    found = measured.load(augment.DATA, Measured[AugmentCell])
    by_key = {cell.key: cell for cell in found.cells}
    assert set(by_key) == {(phi, s) for phi in augment.SIZES for s in augment.STRENGTHS}
    assert found.machine and found.date and found.command
    again = augment.train((0, 0.1), seeds=1)
    kept = by_key[0, 0.1]
    assert again.weights == kept.weights
    # The same to the last digit on one machine; elsewhere sums are rounded in another order.
    assert again.errors[0] == pytest.approx(kept.errors[0], abs=0.02)


def test_an_experiment_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    path, kind = tmp_path / "cells.json", Measured[AugmentCell]
    made: list[int] = []

    def measure(key: tuple[int, float]) -> AugmentCell:
        if len(made) == 2:
            made.append(-1)
            raise KeyboardInterrupt
        made.append(key[0])
        return AugmentCell(key[0], 10, key[1], (0.5,))

    keys = [(phi, 0.1) for phi in range(4)]
    with pytest.raises(KeyboardInterrupt):
        measured.fill(path, kind, "command", keys, measure)
    assert [cell.phi for cell in measured.load(path, kind).cells] == [0, 1]
    found = measured.fill(path, kind, "command", keys, measure)
    assert [cell.phi for cell in found.cells] == [0, 1, 2, 3] and made == [0, 1, -1, 2, 3]
    assert [path] == list(tmp_path.iterdir())


def test_a_grid_with_holes_is_refused() -> None:
    with pytest.raises(InputError, match="lack strengths"):
        Curves.of(family(0.05, -0.2)[1:])


def run(*arguments: str) -> str:
    return CliRunner().invoke(app, ["plan", "augment", *arguments], catch_exceptions=False).output


def test_the_command_prints_a_table_json_and_a_page(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    assert "All sizes: p = " in run()
    page = tmp_path / "augment.html"
    said = json.loads(run("--fit", "0,2,4", "--predict", "1e6", "--json", "--report", str(page)))
    assert said["few"]["phis"] == [0, 2, 4] and len(said["held_out"]) == len(said["sizes"]) - 3
    law = said["all"]["law"]
    assert said["predicted"][0]["strength"] == pytest.approx(law["c"] * 1e6 ** -law["p"])
    assert page.read_text().count("Plotly.newPlot") == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fit", "0"], "cannot fit to φ"),
        (["--fit", "0,1,99"], "cannot fit to φ"),
        (["--fit", "0.5,1"], "expected places"),
        (["--fit", "a"], "expected numbers"),
        (["--predict", "-3"], "above 0"),
        (["--data", "nowhere.json"], "No such file"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(*arguments)


def test_a_file_of_something_else_is_refused_by_the_place_in_it(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    cell = '{"phi":0,"weights":1,"strength":0.1,"errors":[1.5]}'
    path.write_text(f'{{"command":"c","machine":"m","date":"d","cells":[{cell}]}}')
    with pytest.raises(InputError, match=r"cells\.json.*\$\.cells\[0\]\.errors\[0\]"):
        run("--data", str(path))
