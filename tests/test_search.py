"""Finding the rule: one maximum, which brute force finds too; and networks that are what they say."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError
from adaphi.model_zoo.scaling import PUBLISHED, CompoundScaling, search, search_data
from adaphi.model_zoo.scaling.lite import Lite, blocks, memory_bytes
from adaphi.model_zoo.scaling.search import (
    BUDGET,
    PHIS,
    PUBLISHED_TOP1,
    AccuracyLaw,
    CostLaw,
    Laws,
    Prices,
    beats,
    fit_accuracy,
    published_sizes,
    size,
)

pytest.importorskip("scipy")

GRID = [
    CompoundScaling(*np.exp(logs).tolist())
    for logs in product(
        np.linspace(0, np.log(BUDGET), 33), *[np.linspace(0, np.log(BUDGET) / 2, 33)] * 2
    )
    if np.dot(logs, (1, 2, 2)) <= np.log(BUDGET) + 1e-12
]
"""Rules within the budget, a 32nd of its logarithm apart; those that spend all of it are among them."""
exponents = st.lists(st.floats(0.2, 2.5), min_size=3, max_size=3).map(np.array)


def objectives(laws: Laws, prices: Prices) -> np.ndarray:
    """Return J of every rule of `GRID`, computed apart from `Laws`."""
    rules = np.array([(r.alpha, r.beta, r.gamma) for r in GRID])
    total = np.zeros(len(GRID))
    for phi in PHIS:
        sizes = rules**phi
        error = laws.accuracy.error * (1 - laws.accuracy.shares.sum())
        error = error + laws.accuracy.error * (sizes**-laws.accuracy.power @ laws.accuracy.shares)
        latency, memory = (
            np.prod(sizes**law.exponents, axis=1) for law in (laws.latency, laws.memory)
        )
        total += 100 - error - prices.latency * latency - prices.memory * memory
    return total / len(PHIS)


@given(exponents, exponents, st.floats(0, 2), st.floats(0, 2))
@settings(max_examples=15)
def test_the_rule_found_is_the_best_of_a_grid(
    time: np.ndarray, memory: np.ndarray, latency_price: float, memory_price: float
) -> None:
    """No rule of the grid is better; and the best of the grid is hardly worse."""
    laws = Laws(fit_accuracy(), CostLaw(time), CostLaw(memory))
    prices = Prices(latency_price, memory_price)
    rule = laws.find(prices)
    assert rule.operations(1) <= BUDGET * 1.001 and min(size(rule, 1)) >= 1
    found, best = laws.worth(rule).objective(prices), objectives(laws, prices).max()
    assert best - 0.002 <= found <= best + 0.05


def test_no_rule_of_the_grid_beats_the_front() -> None:
    """Nor do the front's own rules each other; its end is the most accurate rule of all."""
    laws = search_data.SearchData.load().laws()
    front = laws.front(points=4)
    accuracy = [worth.accuracy for _, worth in front]
    assert len(front) >= 4 and accuracy == sorted(accuracy)
    assert accuracy[-1] == pytest.approx(objectives(laws, Prices(0, 0)).max(), abs=0.01)
    worths = [laws.worth(rule) for rule in GRID[::7]]
    for _, worth in front:
        assert not any(beats(other, worth) for _, other in front)
        assert not any(
            other.accuracy > worth.accuracy + 0.005
            and other.latency < worth.latency
            and other.memory < worth.memory
            for other in worths
        )


def test_shorter_steps_are_the_best_along_the_rule() -> None:
    """Steps of a rule that spends too much are shortened; where nothing is dear they stay."""
    laws = search_data.SearchData.load().laws()
    assert laws.shortened(PUBLISHED, Prices(0, 0)).alpha == pytest.approx(1.2, abs=1e-3)
    prices = Prices(2, 1)
    best = laws.worth(laws.shortened(PUBLISHED, prices)).objective(prices)
    along = [
        CompoundScaling(1.2**power, 1.1**power, 1.15**power) for power in np.linspace(0, 1, 101)
    ]
    worth = [laws.worth(rule).objective(prices) for rule in along]
    assert max(worth) - 1e-3 < best and best > worth[-1] + 0.1
    assert laws.worth(laws.find(prices)).objective(prices) >= best - 1e-3


@given(exponents)
def test_a_power_law_is_found_again(true: np.ndarray) -> None:
    sizes = [run.size for run in search_data.SearchData.load().probes]
    costs = [float(np.prod(np.array(s) ** true)) for s in sizes]
    np.testing.assert_allclose(CostLaw.fit(sizes, costs).exponents, true, rtol=1e-9)


def test_probes_that_differ_in_depth_alone_settle_nothing() -> None:
    with pytest.raises(InputError, match="do not tell"):
        CostLaw.fit([(1.5, 1, 1), (2, 1, 1), (3, 1, 1)], [1.5, 2, 3])


def test_the_accuracy_law_says_what_was_published() -> None:
    """To 0.8 points for EfficientNet-Lite; and it saturates in each dimension alone, as table 7 does."""
    law = fit_accuracy()
    lite = np.array([row[0] == 2 for row in PUBLISHED_TOP1])
    missed = law(published_sizes()[lite]) - np.array(PUBLISHED_TOP1)[lite, 4]
    assert np.abs(missed).max() < 0.8 and np.sqrt((missed**2).mean()) < 0.5
    for alone, share in zip(np.eye(3), law.shares, strict=True):
        assert law([1 + 1e9 * alone])[0] - law([[1, 1, 1]])[0] == pytest.approx(law.error * share)
    one_alone = law([[4, 1, 1], [1, 2, 1], [1, 1, 2]])
    assert law([[1.625, 1.2, 1.3]])[0] > one_alone.max() + 1


def test_an_accuracy_law_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose accuracies a known law made give that law back, with any one of them left out."""
    true = AccuracyLaw(np.array([0.08, 0.15, 0.11]), 2.0, 26.0)
    made = true(published_sizes())
    rows = tuple((*row[:4], top1) for row, top1 in zip(PUBLISHED_TOP1, made, strict=True))
    monkeypatch.setattr(search, "PUBLISHED_TOP1", rows)
    for without in (None, 3, 9):
        law = fit_accuracy(without=without)
        np.testing.assert_allclose(law.shares, true.shares, rtol=1e-4)
        assert (law.power, law.error) == pytest.approx((2.0, 26.0), rel=1e-4)


@pytest.mark.parametrize("network", [Lite(1.0, 1.0, 64), Lite(1.34, 1.17, 64), Lite(1.2, 1.1, 96)])
def test_a_network_is_what_its_size_says(network: Lite) -> None:
    """timm built as many blocks of as many channels; and its memory is weights and the widest activation."""
    model = network.build()
    stages = list(model.blocks)
    built = [len(stage) for stage in stages]
    assert sum(built) == blocks(network.depth_multiplier)
    channels = [
        [m for m in stage.modules() if hasattr(m, "out_channels")][-1].out_channels
        for stage in stages
    ]
    assert tuple(channels) == network.channels
    weights = sum(p.numel() for p in model.parameters())
    expanded = 6 * network.channels[0] * (network.side // 2) ** 2  # into and out of its activation
    assert memory_bytes(network) == 4 * (weights + 2 * expanded)


def test_the_published_variants_come_out_of_it() -> None:
    """Lite 1 and 2 have the millions of weights that were published."""
    for depth, width, side, millions in ((1.1, 1.0, 240, 5.4), (1.2, 1.1, 260, 6.1)):
        model = Lite(depth, width, side).build()
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_the_nearest_network_is_near() -> None:
    """Sizes that can be built are built; a published step gives what timm makes of 1.2."""
    assert Lite.nearest((1.0, 1.0, 1.0)) == Lite(1.0, 1.0, 224)
    assert Lite.nearest((1.5, 1.0, 1.3)).size[::2] == pytest.approx((1.5, 1.3), abs=0.003)
    step = Lite.nearest(size(PUBLISHED, 1))
    assert blocks(step.depth_multiplier) == blocks(1.2) and step.side == 258


def test_measuring_gives_ratios_of_real_runs() -> None:
    """A network twice as deep and with nine times the pixels costs more than φ = 0, whatever else runs."""
    (run,) = search_data.run_all([Lite(2.0, 1.0, 672)], rounds=1)
    assert run.typical > 2 and run.memory > 2


def test_what_was_measured_beats_the_published_rule() -> None:
    """At two prices the found ladder is worth more, also by accuracies fitted without any one network."""
    data = search_data.SearchData.load()
    law = fit_accuracy()
    others = [fit_accuracy(without=k) for k in range(len(PUBLISHED_TOP1))]
    won = 0
    for ladders in data.ladders:
        rule = CompoundScaling(*ladders.rule)
        for runs, whose in ((ladders.found, rule), (ladders.published, PUBLISHED)):
            built = [Lite(r.depth_multiplier, r.width_multiplier, r.side) for r in runs]
            assert built == search_data.ladder(whose)
        one, other = (worth.objective(ladders.prices) for worth in ladders.worth(law))
        surely = min(np.median(ladders.gains(one)) for one in (law, *others)) > 0
        won += one > other and surely and (ladders.gains(law) > 0).mean() > 0.9
    assert won >= 2


def run(*arguments: str) -> str:
    """Return what `adaphi plan search` prints."""
    said = CliRunner().invoke(app, ["plan", "search", *arguments], catch_exceptions=False)
    assert said.exit_code == 0
    return said.output


def test_the_command_finds_a_rule(tmp_path: Path) -> None:
    """Table, JSON and page; other prices, another rule."""
    pytest.importorskip("plotly")
    page = tmp_path / "search.html"
    assert "shorter steps" in run("--report", str(page))
    assert "Plotly.newPlot" in page.read_text()
    free, dear = (
        json.loads(run("--json", "--latency-price", price, "--memory-price", "0"))["rows"][0]
        for price in ("0", "3")
    )
    assert free["latency"] > dear["latency"] and free["accuracy"] > dear["accuracy"]
    assert free["operations"] == pytest.approx(BUDGET, rel=1e-3)


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    """Each in one line that says what is wrong."""
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"command": 3}')
    short = tmp_path / "short.json"
    data = search_data.SearchData.load()
    data.ladders[0].found[1].latency.pop()
    data.save(short)
    for arguments, says in (
        (["--full"], "name a file with --data"),
        (["--latency-price", "-1"], "the price of latency is -1"),
        (["--budget", "0.5"], "the budget is 0.5"),
        (["--data", str(damaged)], "damaged.json"),
        (["--data", str(short)], "short.json: networks need as many"),
        (["--data", str(tmp_path / "none.json")], "cannot read"),
    ):
        with pytest.raises(InputError, match=says):
            run(*arguments)
