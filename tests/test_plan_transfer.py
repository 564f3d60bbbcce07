"""The law of few samples: what it is fitted to comes back, it names winners, and real trainings repeat."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError
from adaphi.model_zoo.scaling import measured, transfer
from adaphi.model_zoo.scaling.measured import Measured
from adaphi.model_zoo.scaling.transfer import Mode, Task, Trainer, TransferCell, TransferLaw

pytest.importorskip("scipy")
PROBE, TUNE = TransferLaw(1.2, 0.005, 0.6), TransferLaw(0.3, 0.001, 0.5)
REPRESENTATION, CAPACITY = (0.25, 0.2, 0.15), (3e6, 4e6, 6e6)


def cells(noise: float = 0.0) -> list[TransferCell]:
    """Return what would be measured where the law holds for both ways, on one task of ten classes."""
    draws = np.random.default_rng(0)
    found = []
    for mode, n, phi in itertools.product(transfer.MODES, (10, 40, 160, 640), range(3)):
        capacity = 12810 if mode == "probe" else int(CAPACITY[phi])
        cell = TransferCell("t", 10, mode, phi, n, capacity, REPRESENTATION[phi], ())
        error = (PROBE if mode == "probe" else TUNE).error(cell)
        errors = tuple(error + noise * draws.standard_normal(2))
        found.append(TransferCell("t", 10, mode, phi, n, capacity, REPRESENTATION[phi], errors))
    return found


@pytest.mark.parametrize(("mode", "law"), [("probe", PROBE), ("fine-tune", TUNE)])
def test_the_law_is_recovered_where_it_holds(mode: Mode, law: TransferLaw) -> None:
    fitted = TransferLaw.fit([cell for cell in cells() if cell.mode == mode])
    assert (fitted.b, fitted.q) == (pytest.approx(law.b, 0.01), pytest.approx(law.q, 0.01))
    assert fitted.g == pytest.approx(law.g, 0.1)  # it stands before a large number to the power q


def test_hardly_a_law_on_a_grid_fits_better() -> None:
    mine = [cell for cell in cells(noise=0.02) if cell.mode == "probe"]

    def squares(law: TransferLaw) -> float:
        return sum((law.error(cell) - cell.error) ** 2 for cell in mine)

    grid = itertools.product(
        np.linspace(0, 2, 21), np.geomspace(1e-5, 0.1, 41), np.linspace(0.05, 1.5, 30)
    )
    # The fit is to first order in the error, so it is not quite the least.
    assert squares(TransferLaw.fit(mine)) <= 1.2 * min(squares(TransferLaw(*at)) for at in grid)


def test_no_error_is_beyond_guessing_and_more_samples_never_harm() -> None:
    law, cell = TransferLaw(0.5, 0.01, 0.7), cells()[0]
    errors = [law.error(cell, n) for n in np.geomspace(1e-6, 1e6, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] <= cell.chance and errors[-1] == pytest.approx(0.5 * 0.25, rel=0.1)


def test_unseen_winners_are_named_where_the_law_holds_and_the_probe_wins_at_first() -> None:
    choices = transfer.cross_validate(cells())
    assert all(choice.predicted is choice.best for choice in choices)
    assert all(choice.ways_right == choice.phis == 3 and choice.loss == 0 for choice in choices)
    winners = [choice.best.mode for choice in choices]
    assert winners[0] == "probe" and winners[-1] == "fine-tune"


def test_always_choosing_the_best_costs_nothing_and_else_something() -> None:
    few = [cell for cell in cells() if cell.samples == 10]
    losses = {
        (mode, phi): transfer.loss_of_always(few, mode, phi)
        for mode in transfer.MODES
        for phi in range(3)
    }
    assert losses.pop(("probe", 2)) == 0 and min(losses.values()) > 0


def test_a_split_takes_so_many_of_each_class_and_leaves_the_rest() -> None:
    labels = np.repeat(np.arange(3), 7)
    task = Task("t", (np.zeros((4, 4, 3), np.uint8),) * 21, labels)
    known, unknown = task.split(2, seed=5)
    assert np.bincount(labels[known]).tolist() == [2, 2, 2]
    assert sorted([*known, *unknown]) == list(range(21))
    np.testing.assert_array_equal(known, task.split(2, seed=5)[0])
    with pytest.raises(InputError, match="no more than 7"):
        task.split(7, seed=0)


def test_what_is_shipped_is_whole_and_one_cell_of_it_repeats() -> None:
    pytest.importorskip("sklearn")
    found = measured.load(transfer.DATA, Measured[TransferCell])
    assert transfer.cross_validate(found.cells) and found.machine and found.date
    kept = next(cell for cell in found.cells if cell.key == ("digits", "probe", 0, 1))
    again = Trainer([transfer.get_task("digits")])(kept.key)
    assert (again.capacity, again.representation) == (kept.capacity, kept.representation)
    np.testing.assert_allclose(again.errors, kept.errors, atol=0.02)


def test_pictures_of_ones_own_are_told_apart_after_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr(transfer, "TUNE_SEEDS", 1)
    draws = np.random.default_rng(0)
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "kind"])
        for place in range(12):
            picture = draws.integers(0, 90, (40, 50, 3), np.uint8)
            picture[:, :, place % 3] += 160
            Image.fromarray(picture).save(tmp_path / f"{place}.png")
            table.writerow([f"{place}.png", "rgb"[place % 3]])
    task = transfer.get_task(f"{tmp_path / 'labels.csv'}:kind")
    assert (task.name, task.classes) == ("kind", 3)
    cell = Trainer([task])(("kind", "fine-tune", 0, 2))
    assert cell.samples == 6 and cell.error <= 1 / 6
    assert cell.capacity > 1e6


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("file,other\na.png,x\n", "needs rows, and columns"),
        ("file,kind\n", "needs rows, and columns"),
        ("file,kind\na.png,x\nb.png,x\n", "all pictures have the label 'x'"),
        ("file,kind\n\xff.png,x\n", "utf-8"),
    ],
)
def test_a_table_that_is_no_task_is_refused(tmp_path: Path, table: str, says: str) -> None:
    (tmp_path / "labels.csv").write_text(table, encoding="latin-1")
    with pytest.raises(InputError, match=says):
        transfer.get_task(f"{tmp_path / 'labels.csv'}:kind")


def run(*arguments: str) -> str:
    return CliRunner().invoke(app, ["plan", "transfer", *arguments], catch_exceptions=False).output


def test_the_command_prints_a_table_json_and_a_page(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    assert "Probe or fine-tune" in run()
    page = tmp_path / "transfer.html"
    said = json.loads(run("--samples", "500", "--json", "--report", str(page)))
    tasks = {choice["task"] for choice in said["choices"]}
    assert {plan["task"] for plan in said["planned"]} == tasks and 0 <= said["right"] <= 1
    assert page.read_text().count("Plotly.newPlot") == len(tasks)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--samples", "0"], "1 or more"),
        (["--samples", "x"], "expected numbers"),
        (["--task", "digits"], "--full"),
        (["--full", "--task", "nothing.csv:kind"], "No such file"),
        (["--full", "--task", "what"], "No such file"),
        (["--data", "nowhere.json"], "No such file"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(*arguments)
