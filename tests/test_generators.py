"""Traces made by a law follow it, and a description says what is in a trace."""

from __future__ import annotations

import csv
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError, TraceError
from adaphi.policies import fit_chain
from adaphi.sim import Trace, generating
from adaphi.sim.describing import describe
from adaphi.sim.heat import PI_DESK, PI_ORBIT, HeatModel, fit_heat, thermal

TRACES = Path(__file__).parents[2] / "shared" / "data" / "traces" / "budget"
needs_traces = pytest.mark.skipif(
    not TRACES.exists(), reason=f"the real traces are not at {TRACES}"
)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def wander(rows: int, seed: int = 0) -> Trace:
    """Return a trace that drifts and jumps."""
    random = np.random.default_rng(seed)
    steps = random.normal(0, 0.15, rows) + np.where(random.random(rows) < 0.02, -0.7, 0.0)
    level = np.empty(rows)
    now = 0.0
    for row, step in enumerate(steps):
        now = level[row] = 0.95 * now + step
    return Trace.from_budgets(40 * np.exp(level), step_s=0.5)


# -------------------------------------------------------------------------------- generators


def test_a_markov_trace_moves_as_the_chain_says() -> None:
    """Over 60,000 steps each transition is as frequent as the fitted chain says, within five standard errors;
    every budget is one of the trace's, and so is the step."""
    like = wander(3000)
    made = generating.markov(like, 60_000, levels=8, seed=5)
    chain = fit_chain([like.budget_ms], np.array([np.median(like.budget_ms)]), extra_bins=8)
    where = chain.bins(made.budget_ms)
    counts = np.zeros_like(chain.transition)
    np.add.at(counts, (where[:-1], where[1:]), 1.0)
    visits = counts.sum(axis=1, keepdims=True)
    chance = chain.transition
    error = np.sqrt(chance * (1 - chance) / visits)
    assert visits.min() > 1000
    assert (np.abs(counts / visits - chance) <= 5 * error + 2 / visits).all()
    assert np.isin(made.budget_ms, like.budget_ms).all()
    assert np.diff(made.time_s) == pytest.approx(0.5)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_trace_makes_a_constant_trace(value: float) -> None:
    """Where nothing ever moved, nothing moves."""
    made = generating.markov(Trace.from_budgets([value] * 50), 200)
    assert (made.budget_ms == value).all()


def test_regimes_are_kept_as_long_as_asked() -> None:
    """Mean stays are within five standard errors (geometric: sd = √(m² − m)), budgets are log-normal around
    their level, and each other level follows as often."""
    stays = (20.0, 50.0, 8.0)
    made = generating.regime(200_000, stay_s=stays, spread=0.2, memory=0.5, seed=1)
    which = made.columns["regime"].astype(int)
    turns = np.flatnonzero(np.diff(which)) + 1
    lengths, kinds = np.diff(turns), which[turns[:-1]]
    for level, mean in enumerate(stays):
        stretches = lengths[kinds == level]
        error = math.sqrt((mean**2 - mean) / len(stretches))
        assert abs(stretches.mean() - mean) < 5 * error
        around = np.log(made.budget_ms[which == level] / (20.0, 45.0, 80.0)[level])
        assert abs(around.mean()) < 0.01 and around.std() == pytest.approx(0.2, rel=0.03)
    after = np.bincount(kinds[1:][kinds[:-1] == 0], minlength=3)
    assert after[0] == 0 and abs(after[1] - after[2]) < 5 * math.sqrt(after.sum())


def test_days_have_the_swing_and_noise_asked_for() -> None:
    """Least squares finds the wave; what is left has the standard deviation and autocorrelation asked for."""
    made = generating.diurnal(20 * 1440, median_ms=30, swing=0.7, spread=0.2, memory=0.8, seed=2)
    angle = 2 * np.pi * made.time_s / 86400
    basis = np.column_stack([np.ones_like(angle), np.cos(angle), np.sin(angle)])
    found, *_ = np.linalg.lstsq(basis, np.log(made.budget_ms), rcond=None)
    np.testing.assert_allclose(found, [math.log(30), 0.7, 0.0], atol=0.02)
    left = np.log(made.budget_ms) - basis @ found
    assert left.std() == pytest.approx(0.2, rel=0.03)
    assert np.corrcoef(left[:-1], left[1:])[0, 1] == pytest.approx(0.8, abs=0.02)


def test_a_battery_loses_what_is_taken() -> None:
    """Energy is conserved row by row; the trace ends with it; the budget falls where it spares itself; the
    share of busy time is that of its means."""
    made = generating.battery(
        400_000, battery_wh=100, idle_s=90, busy_s=30, idle_w=1, busy_w=5, spread=0, seed=3
    )
    drain, left = made.columns["drain_w"], made.columns["energy_j"]
    np.testing.assert_allclose(left[0] - left, np.cumsum(drain) - drain[0], atol=1e-6)
    assert left[0] == 360_000 and 0 < left[-1] < 5 and len(made) < 400_000
    np.testing.assert_array_equal(made.budget_ms, np.where(left < 72_000, 30.0, 50.0))
    assert (drain == 5).mean() == pytest.approx(0.25, abs=0.015)


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    """Every generator, by its command: twice the same file; another seed makes another."""
    wander(300).write(tmp_path / "like.csv")
    for kind in ("markov", "regime", "diurnal", "thermal", "battery"):
        like = ["--like", tmp_path / "like.csv"] if kind == "markov" else []
        made = []
        for seed in (1, 1, 2):
            run(
                "trace",
                "generate",
                kind,
                *like,
                "--rows",
                2000,
                "--seed",
                seed,
                "-o",
                tmp_path / "t.csv",
            )
            made.append((tmp_path / "t.csv").read_bytes())
        assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: generating.markov(Trace.from_budgets([1.0]), 10),
        lambda: generating.markov(wander(10), 1),
        lambda: generating.regime(10, levels_ms=[5.0]),
        lambda: generating.regime(10, stay_s=0.5),
        lambda: generating.regime(10, levels_ms=[1.0, math.nan]),
        lambda: generating.diurnal(10, memory=1.0),
        lambda: generating.diurnal(10, day_s=0.0),
        lambda: generating.battery(10, battery_wh=math.inf),
        lambda: thermal(PI_DESK, 10, busy_s=0.1),
        lambda: generating.regime(10, spread=-0.1),
        lambda: fit_heat(np.arange(20.0), np.arange(20.0), np.ones(20)),
        lambda: fit_heat(np.zeros(20), np.arange(20.0), np.arange(20.0)),
        lambda: fit_heat(np.arange(20.0), np.full(20, np.nan), np.arange(20.0)),
        lambda: fit_heat(np.arange(20.0), np.arange(19.0), np.arange(20.0)),
        lambda: fit_heat(np.arange(20.0), np.arange(20.0), np.arange(20.0), np.zeros(20)),
    ],
)
def test_what_makes_no_trace_is_refused(wrong: Any) -> None:
    """One clear error, before anything is made."""
    with pytest.raises(InputError):
        wrong()


# -------------------------------------------------------------------------------- heat


def test_the_step_response_is_the_closed_form() -> None:
    """T(t) = T_∞ + (T₀ − T_∞) e^{−t/τ} under constant power, at even and uneven times alike."""
    model = HeatModel(200.0, 10.0, 20.0)
    time_s = np.cumsum(np.random.default_rng(0).exponential(7.0, 400))
    celsius = model.simulate(time_s, np.full(400, 5.0), 30.0)
    expected = 70.0 + (30.0 - 70.0) * np.exp(-(time_s - time_s[0]) / 200.0)
    np.testing.assert_allclose(celsius, expected, rtol=1e-12)


def test_a_device_that_is_always_busy_settles_where_throttling_holds_it() -> None:
    """Where T = T_s + R W (1 − k (T − limit)): (T_s + R W (1 + k limit)) / (1 + R W k)."""
    heat_celsius = PI_ORBIT.celsius_per_watt * 6.0
    k, limit = PI_ORBIT.clock_per_celsius, PI_ORBIT.limit_celsius
    settled = (PI_ORBIT.surroundings_celsius + heat_celsius * (1 + k * limit)) / (
        1 + heat_celsius * k
    )
    made = thermal(PI_ORBIT, 5000, busy_w=6.0, idle_s=1.0, busy_s=1e9)
    assert made.columns["celsius"][-1] == pytest.approx(settled, abs=1e-3)
    assert settled > limit
    np.testing.assert_array_equal(made.budget_ms, 50.0 * made.columns["clock"])
    assert made.columns["clock"][-1] == pytest.approx(1 - k * (settled - limit))


@given(
    st.floats(20, 900),
    st.floats(1, 30),
    st.floats(-20, 50),
    st.floats(0, 1),
    st.floats(0.05, 0.5),
)
@settings(max_examples=15)
def test_a_fit_finds_the_model_that_made_the_data(
    tau_s: float, per_watt: float, around: float, over: float, slope: float
) -> None:
    """From temperatures without noise, whatever the model: its parameters, and its throttling."""
    random = np.random.default_rng(0)
    time_s = np.cumsum(random.uniform(0.5, 4.0, 1500))
    watts = np.where(generating.alternate(1500, 60, 90, 1.0, random), 6.0, 2.0)
    celsius = HeatModel(tau_s, per_watt, around).simulate(time_s, watts, around)
    limit = float(np.percentile(celsius, 60 + 30 * over))
    model = HeatModel(tau_s, per_watt, around, limit, slope / np.ptp(celsius))
    clock = np.array([model.clock(t) for t in celsius])
    fit = fit_heat(time_s, celsius, watts, clock)
    found = fit.model
    assert found.time_constant_s == pytest.approx(tau_s, rel=1e-4)
    assert found.celsius_per_watt == pytest.approx(per_watt, rel=1e-4)
    assert found.surroundings_celsius == pytest.approx(around, abs=0.01)
    assert found.limit_celsius == pytest.approx(limit, abs=0.01 * np.ptp(celsius))
    assert found.clock_per_celsius == pytest.approx(model.clock_per_celsius, rel=0.05)
    assert fit.error_celsius < 0.01 and fit.clock_explained > 0.99


@needs_traces
def test_the_fit_to_a_real_board_is_what_is_shipped(tmp_path: Path) -> None:
    """The Pi in orbit, by the command: the parameters of `PI_ORBIT`, off by less than 2.5 °C."""
    columns = {}
    for name, what in (("celsius", "temp"), ("amperes", "current"), ("clock", "freq")):
        with (TRACES / f"edge_pi_orbit_{what}.csv").open() as file:
            rows = list(csv.DictReader(file))
        columns[name] = np.array([[float(r["time_s"]), float(r["value"])] for r in rows])
    time_s = columns["celsius"][:, 0]
    watts = 5e-3 * np.interp(time_s, *columns["amperes"].T)
    table = np.column_stack([time_s, columns["celsius"][:, 1], watts, columns["clock"][:, 1]])
    header = "time_s,celsius,watts,clock"
    np.savetxt(tmp_path / "pi.csv", table, delimiter=",", header=header, comments="")
    fit = fit_heat(*table.T)
    for name in ("time_constant_s", "celsius_per_watt", "surroundings_celsius", "limit_celsius"):
        assert getattr(fit.model, name) == pytest.approx(getattr(PI_ORBIT, name), rel=0.01)
    assert fit.model.clock_per_celsius == pytest.approx(PI_ORBIT.clock_per_celsius, rel=0.01)
    assert fit.error_celsius < 2.5 and fit.explained > 0.98
    said = run(
        "trace", "generate", "thermal", "--like", tmp_path / "pi.csv", "-o", tmp_path / "h.csv"
    )
    assert "time constant 263.1 s; the fit is off by 2.2 °C" in said


# -------------------------------------------------------------------------------- descriptions


@given(
    arrays(np.int64, st.integers(2, 200), elements=st.integers(0, 12)),
    st.integers(2, 6),
    st.integers(0, 99),
)
def test_a_description_counts_what_is_there(values: Any, levels: int, seed: int) -> None:
    """Shares, stays, gaps and volatility are those of a count by hand."""
    random = np.random.default_rng(seed)
    time_s = np.cumsum(random.choice([1.0, 1.0, 1.0, 10.0], len(values)))
    found = describe(Trace(time_s, values * 1.0), levels)
    steps = np.diff(time_s)
    assert found.gaps == (steps > 3 * np.median(steps)).sum()
    pairs = [(a, b) for a, b in pairwise(values) if a > 0 and b > 0]
    moved = [abs(math.log(b / a)) for a, b in pairs]
    assert found.volatility == pytest.approx(np.mean(moved) if moved else 0.0)
    top = len(found.levels) - 1
    assert sum(level.share for level in found.levels) == pytest.approx(1.0)
    for number, level in enumerate(found.levels):
        inside = (values >= level.low_ms) & ((values < level.high_ms) | (number == top))
        assert level.share == pytest.approx(inside.mean())
        if inside[:-1].any():
            assert level.stay == pytest.approx(inside[1:][inside[:-1]].mean(), abs=1e-6)
    assert len(found.words()) == len(found.levels)


def test_describe_prints_words_json_and_a_picture(tmp_path: Path) -> None:
    """The command says the same in words and as JSON; the picture is one; a single row is refused."""
    pytest.importorskip("matplotlib")
    Trace.from_budgets([20.0] * 30 + [40.0] * 10 + [20.0] * 60).write(tmp_path / "t.csv")
    words = run("trace", "describe", tmp_path / "t.csv", "--picture", tmp_path / "t.png")
    assert "20 to 30 ms: 90% of the rows; stays for 98.9% of steps (89 at a stretch)" in words
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(run("trace", "describe", tmp_path / "t.csv", "--json"))
    assert facts["rows"] == 100 and facts["gaps"] == 0
    assert facts["levels"][1]["stay"] == pytest.approx(0.9)
    with pytest.raises(TraceError, match="1 rows"):
        describe(Trace.from_budgets([1.0]))
