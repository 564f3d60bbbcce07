"""Whatever is wrong with a problem or a series: an error that names the place, or a sensible result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaphi.errors import TraceError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import Objective, SwitchingMDP, TablePolicy, fit_chain
from adaphi.sim import Trace, compare

PROFILE = Profile(
    ladder="three",
    variants=tuple(
        VariantProfile(phi, f"v{phi}", quality, Latency(p95=ms))
        for phi, (ms, quality) in enumerate([(10.0, 0.70), (15.0, 0.76), (24.0, 0.80)])
    ),
    stall_ms=((0.0,) * 3,) * 3,
)
COSTS = PROFILE.costs()


def sound(states: int, variants: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "transition": random.dirichlet(np.ones(states), size=states),
        "reward": random.uniform(-1, 1, (states, variants, variants)),
        "switch_cost": random.uniform(0, 1, (variants, variants)) * (1 - np.eye(variants)),
        "discount": random.choice([None, 0.9]),
    }


@given(st.data(), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=200)
def test_a_number_that_is_wrong_is_named_with_its_place(
    data: st.DataObject, states: int, variants: int, seed: int
) -> None:
    """NaN or infinity anywhere, a negative probability or cost: the message holds array, place and value."""
    problem = sound(states, variants, seed)
    SwitchingMDP(**problem)
    name = data.draw(st.sampled_from(["transition", "reward", "switch_cost"]))
    array = problem[name]
    place = tuple(data.draw(st.integers(0, size - 1)) for size in array.shape)
    wrong = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, -0.25]))
    if name == "reward" and wrong == -0.25:
        return  # a reward may be negative
    array[place] = wrong
    with pytest.raises(ValueError) as raised:
        SwitchingMDP(**problem)
    assert f"{name}[{', '.join(map(str, place))}] is {wrong}" in str(raised.value)


@given(st.integers(1, 6), st.integers(1, 4), st.data())
@settings(max_examples=100)
def test_a_row_that_is_no_distribution_is_named(
    states: int, variants: int, data: st.DataObject
) -> None:
    """A row whose probabilities do not add up to 1 is called by its number."""
    problem = sound(states, variants, 0)
    row = data.draw(st.integers(0, states - 1))
    problem["transition"][row] *= data.draw(st.sampled_from([0.0, 0.5, 0.999, 1.001, 3.0]))
    with pytest.raises(ValueError, match=f"transition row {row} sums to"):
        SwitchingMDP(**problem)


@given(st.integers(1, 4), st.integers(1, 4), st.data())
@settings(max_examples=100)
def test_shapes_that_do_not_fit_are_told(states: int, variants: int, data: st.DataObject) -> None:
    """One axis too long in any array: the message says which array, what it is, what was expected."""
    problem = sound(states, variants, 0)
    name = data.draw(st.sampled_from(["transition", "reward", "switch_cost"]))
    axis = data.draw(st.integers(0, problem[name].ndim - 1))
    problem[name] = np.concatenate([problem[name], problem[name].take([0], axis)], axis)
    with pytest.raises(ValueError, match=r"has shape .*; expected"):
        SwitchingMDP(**problem)


@given(st.one_of(st.floats(max_value=0.0), st.floats(min_value=1.0), st.just(float("nan"))))
def test_a_discount_outside_0_and_1_is_refused(discount: float) -> None:
    """The number is in the message, whether a problem or an objective is asked for."""
    for make in (
        lambda: SwitchingMDP([[1.0]], [[1.0]], [[0.0]], discount),
        lambda: Objective(discount=discount),
    ):
        with pytest.raises(ValueError, match="discount is"):
            make()


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=12))
@settings(max_examples=300)
def test_any_series_gives_a_chain_or_an_error(series: list[float]) -> None:
    """Two finite budgets ≥ 0 or more: a chain of distributions, solved and certified. Else: one sentence."""
    budgets = np.array(series, dtype=float)
    if len(budgets) < 2:
        with pytest.raises(ValueError):
            fit_chain([budgets], COSTS.thresholds_ms)
        return
    if not np.isfinite(budgets).all() or (budgets < 0).any():
        with pytest.raises(ValueError, match="series 0 needs"):
            fit_chain([budgets], COSTS.thresholds_ms)
        return
    chain = fit_chain([budgets], COSTS.thresholds_ms)
    assert np.isfinite(chain.transition).all()
    np.testing.assert_allclose(chain.transition.sum(axis=1), 1.0)
    policy = TablePolicy.solve(PROFILE, [budgets])
    assert policy.certificate.converged
    assert 0 <= policy.certificate.on_time_share <= 1 + 1e-9


@pytest.mark.parametrize("budget_ms", [0.0, 5.0, 12.0, 100.0])
@pytest.mark.parametrize("rows", [2, 3, 50])
def test_constant_and_tiny_traces_are_learned_from(budget_ms: float, rows: int) -> None:
    """What never moves, or is two rows long, is legal: every policy is scored, and where the budget is enough
    the best variant that fits is what the table answers with."""
    learned = Trace.from_budgets(np.full(rows, budget_ms))
    scored = Trace.from_budgets(np.full(40, budget_ms))
    result = compare(learned, scored, PROFILE)
    bound = result.clairvoyant.mean_score
    for outcome in (*result.rules, *result.tables):
        assert np.isfinite(outcome.mean_score) and outcome.mean_score <= bound + 1e-12
    if rows == 50 and budget_ms >= 12:
        table = result.tables[0]
        assert table.decisions[-1] == (2 if budget_ms >= 24 else 0)


def test_a_trace_too_short_to_learn_from_is_named() -> None:
    """One row is no movement: the message names the trace and says how many rows there are."""
    one = Trace.from_budgets([5.0], name="short")
    two = Trace.from_budgets([5.0, 6.0])
    with pytest.raises(TraceError, match="short: learning needs at least two rows, found 1"):
        compare(one, two, PROFILE)
    with pytest.raises(TraceError, match="short: a replay needs at least two rows, found 1"):
        compare(two, one, PROFILE)
