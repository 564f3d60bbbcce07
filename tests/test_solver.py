"""The solver against enumeration of all policies, closed forms and an independent library."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from quantecon.markov import DiscreteDP

from adaphi.policies import SwitchingMDP


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


@pytest.mark.parametrize("seed", range(6))
def test_discounted_values_equal_quantecon(seed: int) -> None:
    """The discounted values are those of QuantEcon's DiscreteDP to 1e-8."""
    transition, reward, cost = problem(seed, 7, 3)
    r, q = flat(transition, reward, cost)
    theirs = DiscreteDP(r, q, 0.95).solve(method="policy_iteration")
    ours = SwitchingMDP(transition, reward, cost, 0.95).solve(tol=1e-10)
    assert ours.converged
    np.testing.assert_allclose(ours.value.ravel(), theirs.v, atol=1e-8, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_average_gain_equals_enumeration(seed: int) -> None:
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
    solution = SwitchingMDP(transition, reward, cost, None).solve(tol=1e-10)
    assert solution.gain == pytest.approx(max(gains), abs=1e-8)
    lower, upper = (float(np.mean(bound)) for bound in solution.bounds)
    assert lower - 1e-9 <= max(gains) <= upper + 1e-9


def test_one_state_is_a_geometric_series() -> None:
    """With one budget and one variant the value is r / (1 − γ), and the gain is r."""
    one = np.ones((1, 1))
    discounted = SwitchingMDP(one, 0.7 * one, 0 * one, 0.9).solve()
    assert float(discounted.value[0, 0]) == pytest.approx(7.0, abs=1e-8)
    assert SwitchingMDP(one, 0.7 * one, 0 * one, None).solve().gain == pytest.approx(0.7, abs=1e-9)
