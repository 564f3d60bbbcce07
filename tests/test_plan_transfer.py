"""The law of few samples: what it is fitted to comes back, it names winners, and real trainings repeat."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError
from adaphi.model_zoo.scaling import measured, transfer, transfer_trial
from adaphi.model_zoo.scaling.measured import Measured
from adaphi.model_zoo.scaling.transfer import Mode, Score, TransferCell, TransferLaw, Way
from adaphi.model_zoo.scaling.transfer_trial import Task, Trainer

pytest.importorskip("scipy")
PROBE = TransferLaw(1.2, {0: 8.0, 1: 8.2, 2: 8.4})
TUNE = TransferLaw(0.3, {0: 20.0, 1: 22.0, 2: 24.0})
REPRESENTATION = (0.25, 0.2, 0.15)


def cells(noise: float = 0.0) -> list[TransferCell]:
    """Return what would be measured where the law holds for both ways, on one task of ten classes."""
    draws = np.random.default_rng(0)
    found = []
    for mode, n, phi in itertools.product(transfer.MODES, (10, 40, 160, 640), range(3)):
        cell = TransferCell("t", 10, mode, phi, n, 1000, REPRESENTATION[phi], ())
        error = (PROBE if mode == "probe" else TUNE).error(cell)
        errors = tuple(error + noise * draws.standard_normal(2))
        found.append(replace(cell, errors=errors))
    return found


@pytest.mark.parametrize(("mode", "law"), [("probe", PROBE), ("fine-tune", TUNE)])
def test_the_law_is_recovered_where_it_holds(mode: Mode, law: TransferLaw) -> None:
    fitted = TransferLaw.fit([cell for cell in cells() if cell.mode == mode])
    assert fitted.b == pytest.approx(law.b) and fitted.capacities == pytest.approx(law.capacities)


def test_hardly_a_law_fits_better() -> None:
    from scipy.optimize import least_squares

    mine = [cell for cell in cells(noise=0.02) if cell.mode == "probe"]

    def off(numbers: Sequence[float]) -> list[float]:
        law = TransferLaw(numbers[0], dict(enumerate(numbers[1:])))
        return [law.error(cell) - cell.error for cell in mine]

    fitted = TransferLaw.fit(mine)
    least = least_squares(off, [1.0, 9.0, 9.0, 9.0], bounds=(0, np.inf))
    # The fit is to first order in the error, so it is not quite the least.
    found = np.square(off([fitted.b, *fitted.capacities.values()])).sum()
    assert found <= 1.2 * 2 * least.cost


def test_no_error_is_beyond_guessing_and_more_samples_never_harm() -> None:
    law, cell = TransferLaw(0.5, {0: 2.0}), cells()[0]
    errors = [law.error(cell, n) for n in np.geomspace(1e-6, 1e6, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] <= cell.chance and errors[-1] == pytest.approx(
        1 / (1 / 0.9 + 1 / (0.5 * 0.25)), rel=1e-3
    )


def test_unseen_winners_are_named_where_the_law_holds_and_the_probe_wins_at_first() -> None:
    choices = transfer.cross_validate(cells())
    assert all(choice.predicted is choice.best for choice in choices)
    assert all(choice.near_best and choice.loss == 0 for choice in choices)
    assert all(
        [way.right and way.decided for way in choice.ways] == [True] * 3 for choice in choices
    )
    winners = [choice.best.mode for choice in choices]
    assert winners[0] == "probe" and winners[-1] == "fine-tune"


def pair(probe: Sequence[float], tuned: Sequence[float]) -> Way:
    """Return what is said of these errors, a seed each."""
    one, other = (
        TransferCell("t", 10, mode, 0, 10, 1000, 0.2, tuple(errors))
        for mode, errors in (("probe", probe), ("fine-tune", tuned))
    )
    return Way.of({"probe": PROBE, "fine-tune": TUNE}, one, other)


@given(st.integers(2, 12), st.integers(0, 1000))
def test_a_winner_is_decided_where_scipys_paired_test_says_so(seeds: int, draw: int) -> None:
    from scipy.stats import ttest_rel

    probe, tuned = np.random.default_rng(draw).uniform(0.2, 0.4, (2, seeds))
    assert pair(probe, tuned).decided == (ttest_rel(probe, tuned).pvalue < 0.05)


def test_chance_alone_decides_one_winner_in_twenty() -> None:
    draws = np.random.default_rng(0)
    ways = [pair(*draws.normal(0.3, 0.03, (2, 6))) for _ in range(600)]
    assert 14 <= sum(way.decided for way in ways) <= 48  # 30, and 3.4 standard deviations about it


def test_one_seed_decides_nothing_and_other_seeds_are_not_compared() -> None:
    assert not pair([0.1], [0.9]).decided
    uneven = [*cells()[:-1], replace(cells()[-1], errors=(0.3,))]
    with pytest.raises(InputError, match="more seeds"):
        transfer.cross_validate(uneven)


def test_a_score_counts_right_wrong_and_undecided_apart() -> None:
    right, lucky = Way(0, "probe", 0.1, 0.05), Way(0, "probe", 0.1, 0.2)
    wrong, unlucky = Way(0, "fine-tune", 0.1, 0.05), Way(0, "fine-tune", 0.1, 0.2)
    score = Score.of([right, lucky, wrong, unlucky])
    assert score == Score(ways=4, right=2, decided=2, right_of_decided=1) and score.not_wrong == 3
    assert Score.of(transfer.always([right, lucky, wrong, unlucky], "probe")).right == 4


def test_a_choice_is_near_the_best_until_seed_after_seed_says_otherwise() -> None:
    best = replace(cells()[0], errors=(0.20, 0.30, 0.25))
    for errors, near in (((0.21, 0.29, 0.27), True), ((0.22, 0.32, 0.27), False)):
        choice = transfer.Choice("t", 10, replace(best, errors=errors), best, ())
        assert choice.near_best == near and choice.loss > 0


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
    again = Trainer([transfer_trial.get_task("digits")])(kept.key)
    assert (again.capacity, again.representation) == (kept.capacity, kept.representation)
    np.testing.assert_allclose(again.errors, kept.errors, atol=0.02)


def test_pictures_of_ones_own_are_told_apart_after_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr(transfer_trial, "SEEDS", 1)
    monkeypatch.setattr(transfer_trial, "LEAST_STEPS", 16)
    draws = np.random.default_rng(0)
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "kind"])
        for place in range(12):
            picture = draws.integers(0, 90, (40, 50, 3), np.uint8)
            picture[:, :, place % 3] += 160
            Image.fromarray(picture).save(tmp_path / f"{place}.png")
            table.writerow([f"{place}.png", "rgb"[place % 3]])
    task = transfer_trial.get_task(f"{tmp_path / 'labels.csv'}:kind")
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
        transfer_trial.get_task(f"{tmp_path / 'labels.csv'}:kind")


def run(*arguments: str) -> str:
    return CliRunner().invoke(app, ["plan", "transfer", *arguments], catch_exceptions=False).output


def test_the_command_prints_a_table_json_and_a_page(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    assert "Probe or fine-tune" in run()
    page = tmp_path / "transfer.html"
    said = json.loads(run("--samples", "500", "--json", "--report", str(page)))
    tasks = {choice["task"] for choice in said["choices"]}
    assert {plan["task"] for plan in said["planned"]} == tasks and 0 <= said["right"] <= 1
    ways = [way for choice in said["choices"] for way in choice["ways"]]
    right, decided = ([way for way in ways if way[word]] for word in ("right", "decided"))
    assert said["scores"]["all tasks"] == {
        "ways": len(ways),
        "right": len(right),
        "decided": len(decided),
        "right_of_decided": sum(way in right for way in decided),
    }
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
