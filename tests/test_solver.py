"""The solver against enumeration of all policies, closed forms and an independent library."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantecon.markov import DiscreteDP

from adaphi.policies import SwitchingMDP, kernels


def problem(seed: int, states: int, variants: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    transition = random.dirichlet(np.ones(states), size=states)
    reward = random.uniform(-1, 1, (states, variants, variants))
    cost = random.uniform(0, 0.3, (variants, variants)) * (1 - np.eye(variants))
    return transition, reward, cost


def flat(transition: np.ndarray, reward: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, ...]:
    """Write the problem as an ordinary one: state (e, m), action a."""
    states, variants, _ = reward.shape
    r = (reward - cost[None]).reshape(states * variants, variants)
    q = np.zeros((states, variants, variants, states, variants))
    for a in range(variants):
        q[:, :, a, :, a] = transition[:, None, :]
    return r, q.reshape(states * variants, variants, states * variants)


BOTH = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(not kernels.COMPILED, reason="numba is missing")),
]


@pytest.mark.parametrize("compiled", BOTH)
@pytest.mark.parametrize("seed", range(6))
def test_discounted_values_equal_quantecon(seed: int, compiled: bool) -> None:
    """The discounted values are those of QuantEcon's DiscreteDP to 1e-8."""
    transition, reward, cost = problem(seed, 7, 3)
    r, q = flat(transition, reward, cost)
    theirs = DiscreteDP(r, q, 0.95).solve(method="policy_iteration")
    ours = SwitchingMDP(transition, reward, cost, 0.95).solve(tol=1e-10, compiled=compiled)
    assert ours.converged
    np.testing.assert_allclose(ours.value.ravel(), theirs.v, atol=1e-8, rtol=0)


@pytest.mark.parametrize("compiled", BOTH)
@pytest.mark.parametrize("seed", range(4))
def test_average_gain_equals_enumeration(seed: int, compiled: bool) -> None:
    """The gain is the best over every one of the policies, each evaluated exactly."""
    transition, reward, cost = problem(100 + seed, 3, 2)
    r, q = flat(transition, reward, cost)
    size = len(r)
    gains = []
    for choice in product(range(2), repeat=size):
        p = q[np.arange(size), choice]
        system = np.vstack([p.T - np.eye(size), np.ones(size)])
        stationary = np.linalg.lstsq(system, np.r_[np.zeros(size), 1.0], rcond=None)[0]
        gains.append(float(stationary @ r[np.arange(size), choice]))
    solution = SwitchingMDP(transition, reward, cost, None).solve(tol=1e-10, compiled=compiled)
    assert solution.gain == pytest.approx(max(gains), abs=1e-8)
    lower, upper = (float(np.mean(bound)) for bound in solution.bounds)
    assert lower - 1e-9 <= max(gains) <= upper + 1e-9


def test_one_state_is_a_geometric_series() -> None:
    """With one budget and one variant the value is r / (1 − γ), and the gain is r."""
    one = np.ones((1, 1))
    discounted = SwitchingMDP(one, 0.7 * one, 0 * one, 0.9).solve()
    assert float(discounted.value[0, 0]) == pytest.approx(7.0, abs=1e-8)
    assert SwitchingMDP(one, 0.7 * one, 0 * one, None).solve().gain == pytest.approx(0.7, abs=1e-9)


@st.composite
def problems(draw: st.DrawFn) -> SwitchingMDP:
    """Draw any small problem: sparse and periodic chains, no costs and huge ones, ties."""
    states, variants = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    kind = draw(st.sampled_from(["dense", "sparse", "cycle", "one"]))
    if kind == "cycle":
        transition = np.roll(np.eye(states), 1, axis=1)
    elif kind == "one":
        transition = np.tile(np.eye(states)[0], (states, 1))
    else:
        weights = random.exponential(size=(states, states))
        if kind == "sparse":
            weights *= random.uniform(size=weights.shape) < 0.4
        weights[:, 0] += 0.05  # every state leads to state 0: one closed class
        transition = weights / weights.sum(axis=1, keepdims=True)
    digits = draw(st.sampled_from([0, 1, 8]))  # few digits: many ties
    shape = (states, variants, variants) if draw(st.booleans()) else (states, variants)
    reward = random.uniform(-1, 1, shape).round(digits)
    cost = draw(st.sampled_from([0.0, 0.1, 50.0])) * random.uniform(size=(variants, variants))
    discount = draw(st.sampled_from([None, 0.3, 0.95, 0.9999]))
    return SwitchingMDP(transition, reward, cost * (1 - np.eye(variants)), discount)


@given(problems())
@settings(max_examples=300)
def test_every_problem_is_solved_and_certified(problem: SwitchingMDP) -> None:
    """Both forms converge; the bounds enclose the other form's optimum, and the policy attains its own."""
    solutions = [problem.solve(compiled=c) for c in (False, kernels.COMPILED)]
    assert all(s.converged for s in solutions)
    one, two = solutions
    if problem.discount is None:
        assert one.gain == pytest.approx(two.gain, abs=1e-8)
        occupancy = problem.occupancy(two.policy)
        earned = np.take_along_axis(problem.payoff, two.policy[:, :, None], axis=2)[:, :, 0]
        assert float((occupancy * earned).sum()) == pytest.approx(two.gain, abs=1e-7)
        return
    scale = max(1.0, float(np.abs(one.value).max()))
    np.testing.assert_allclose(one.value, two.value, atol=1e-8 * scale, rtol=0)
    for s in solutions:
        attained = problem.evaluate(s.policy)
        assert (attained >= s.bounds[0] - 1e-6 * scale).all()
        assert (attained <= s.bounds[1] + 1e-8 * scale).all()


@pytest.mark.skipif(not kernels.COMPILED, reason="numba is missing")
@pytest.mark.parametrize("discount", [None, 0.99])
def test_large_problems_are_solved_without_elimination(discount: float | None) -> None:
    """Above 300 states sweeps and GMRES give what elimination gives."""
    transition, reward, cost = problem(0, 340, 3)
    mdp = SwitchingMDP(transition, reward, cost, discount)
    one, two = (mdp.solve(compiled=c) for c in (False, True))
    assert one.converged and two.converged
    np.testing.assert_array_equal(one.policy, two.policy)
    np.testing.assert_allclose(one.value, two.value, atol=1e-7)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"transition": [[0.5, 0.4], [0, 1]]}, "transition row 0 sums to 0.9"),
        ({"transition": [[1.5, -0.5], [0, 1]]}, r"transition\[0, 1\] is -0.5"),
        ({"transition": [[1, 0], [0, 1]]}, "two closed classes, states 0 and 1"),
        ({"transition": [[1, 0]]}, "shape"),
        ({"reward": [[0, np.nan], [0, 0]]}, r"reward\[0, 1\] is nan"),
        ({"reward": [[0, 1]]}, "shape"),
        ({"switch_cost": [[0, -1], [0, 0]]}, r"switch_cost\[0, 1\] is -1"),
        ({"switch_cost": [[0]]}, "shape"),
        ({"discount": 1.0}, "discount is 1.0"),
        ({"discount": -0.1}, "discount is -0.1"),
    ],
)
def test_a_broken_problem_names_what_is_wrong(broken: dict[str, Any], message: str) -> None:
    """Each error says which row, state or number it is about."""
    sound = {"transition": [[0.5, 0.5], [0, 1]], "reward": [[0, 1], [1, 0]]}
    sound |= {"switch_cost": [[0, 1], [1, 0]], "discount": None}  # type: ignore[dict-item]
    SwitchingMDP(**sound)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        SwitchingMDP(**(sound | broken))
