"""Chains with structure: the same solutions as their arrays give, whatever the structure and the form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaphi.policies import Banded, Kronecker, SwitchingMDP, anderson, banded, kernels, mdp
from adaphi.policies.operators import Exogenous

FORMS = [False, True] if kernels.COMPILED else [False]


@pytest.fixture(scope="module", autouse=True)
def structure_at_any_size() -> Iterator[None]:
    """Small chains too are solved by their structure here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mdp, "_DENSE_STATES", 0)
        yield


def walk(states: int, reach: int, seed: int = 0) -> Banded:
    """Return a chain that moves up to `reach` states either way, towards the middle on average."""
    offsets = np.arange(-reach, reach + 1)
    level = np.linspace(-1, 1, states)[:, None]
    moves = np.exp(-0.5 * (offsets / reach + 0.3 * level) ** 2)
    moves *= np.random.default_rng(seed).uniform(0.5, 1.5, moves.shape)
    return banded_chain(moves, reach)


def banded_chain(weights: np.ndarray, lower: int) -> Banded:
    """Return the chain with these weights of moves, those past the ends left out."""
    states, width = weights.shape
    target = np.arange(states)[:, None] + np.arange(width) - lower
    weights = np.where((target >= 0) & (target < states), weights, 0.0)
    weights[weights.sum(axis=1) == 0, lower] = 1.0  # nowhere to go: stay
    return Banded(weights / weights.sum(axis=1, keepdims=True), lower)


def payoffs(states: int, variants: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return r(e, a), which prefers greater variants in greater states, and C."""
    random = np.random.default_rng(seed)
    fit = np.linspace(0, 1, states)[:, None] - np.linspace(0, 1, variants)
    reward = -(fit**2) + random.normal(0, 0.01, fit.shape)
    return reward, 0.1 * (1 - np.eye(variants))


@st.composite
def banded_chains(draw: st.DrawFn) -> Banded:
    """Draw any banded chain: sparse ones, one-sided ones, periodic ones, several closed classes."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    states = draw(st.integers(1, 14))
    if draw(st.booleans()):
        weights = random.exponential(size=(states, 3)) * [1, 0, 1]  # odd and even states in turn
        return banded_chain(weights, 1)
    lower, upper = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    weights = random.exponential(size=(states, lower + 1 + upper))
    weights *= random.uniform(size=weights.shape) < draw(st.sampled_from([0.4, 1.0]))
    return banded_chain(weights, lower)


@st.composite
def kronecker_chains(draw: st.DrawFn) -> Kronecker:
    """Draw any product: sparse factors, cycles among them."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    factors = []
    for size in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)):
        weights = random.exponential(size=(size, size)) * (random.uniform(size=(size, size)) < 0.6)
        weights[:, 0] += 0.05
        cycle = draw(st.booleans())
        factors.append(
            np.roll(np.eye(size), 1, axis=1)
            if cycle
            else weights / weights.sum(axis=1, keepdims=True)
        )
    return Kronecker(factors)


CHAINS = st.one_of(banded_chains(), kronecker_chains())


@given(CHAINS, st.integers(1, 4), st.integers(0, 10_000), st.sampled_from([None, 0.3, 0.95, 0.999]))
@settings(max_examples=200)
def test_solutions_equal_those_of_the_array(
    chain: Exogenous, variants: int, seed: int, discount: float | None
) -> None:
    """Value or gain, bounds and refusals are the array's, compiled and not.

    Cycles as factors may take sweeps for ever, and say so; their bounds hold all the same.
    """
    random = np.random.default_rng(seed)
    shape = (len(chain), variants, variants) if seed % 2 else (len(chain), variants)
    reward = random.uniform(-1, 1, shape).round([1, 8][seed % 3 > 0])  # one digit: many ties
    cost = [0.0, 0.1, 5.0][seed % 3] * random.uniform(size=(variants, variants))
    rest = (reward, cost * (1 - np.eye(variants)), discount)
    try:
        expected = SwitchingMDP(chain.dense(), *rest).solve()
    except ValueError:
        with pytest.raises(ValueError, match="two closed classes"):
            SwitchingMDP(chain, *rest)
        return
    for compiled in FORMS:
        solution = SwitchingMDP(chain, *rest).solve(compiled=compiled)
        assert solution.converged or isinstance(chain, Kronecker)
        optimum = expected.value if discount else np.array(expected.gain)
        scale = max(1.0, float(np.abs(optimum).max()))
        lower, upper = solution.bounds
        assert (lower <= optimum + 1e-8 * scale).all() and (upper >= optimum - 1e-8 * scale).all()
        if solution.converged:
            found = solution.value if discount else solution.gain
            np.testing.assert_allclose(found, optimum, atol=1e-8 * scale, rtol=0)


@given(CHAINS, st.integers(1, 3))
@settings(max_examples=100)
def test_products_equal_those_of_the_array(chain: Exogenous, columns: int) -> None:
    """P @ x is the array's, for one column and several, and so are the rows' sums."""
    array = chain.dense()
    x = np.random.default_rng(0).normal(size=(len(chain), columns))
    np.testing.assert_allclose(chain @ x, array @ x, atol=1e-12)
    np.testing.assert_allclose(chain @ x[:, 0], array @ x[:, 0], atol=1e-12)
    np.testing.assert_allclose(array.sum(axis=1), 1, atol=1e-12)
    if isinstance(chain, Banded):
        np.testing.assert_allclose(banded.product(chain.moves, chain.lower, x.T), array @ x)


@pytest.mark.parametrize("compiled", FORMS)
@pytest.mark.parametrize("discount", [0.99, None])
@pytest.mark.parametrize(
    "chain",
    [walk(700, 5), Kronecker([walk(9, 2).dense(), walk(10, 3).dense(), walk(7, 1).dense()])],
    ids=repr,
)
def test_larger_chains_agree_with_the_array(
    chain: Exogenous, discount: float | None, compiled: bool
) -> None:
    """Some hundreds of states: the same policy but for ties, and the same value."""
    reward, cost = payoffs(len(chain), 4)
    ours = SwitchingMDP(chain, reward, cost, discount).solve(compiled=compiled)
    theirs = SwitchingMDP(chain.dense(), reward, cost, discount).solve(compiled=compiled)
    assert ours.converged and theirs.converged
    np.testing.assert_array_equal(ours.policy, theirs.policy)
    np.testing.assert_allclose(ours.value, theirs.value, atol=1e-6)


@pytest.mark.parametrize("compiled", FORMS)
def test_a_walk_that_alternates_has_its_gain(compiled: bool) -> None:
    """From 0 up, from the end down, else either way alike: period 2, symmetric about the middle."""
    states = 401
    chain = banded_chain(np.tile([1.0, 0.0, 1.0], (states, 1)), 1)
    reward = np.linspace(0, 1, states)[:, None]
    solution = SwitchingMDP(chain, reward, [[0.0]], None).solve(compiled=compiled)
    assert solution.converged
    assert solution.gain == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("compiled", FORMS)
def test_rarely_visited_states_cost_no_digits(compiled: bool) -> None:
    """A chain with a drift of nine to one away from 0: the gain is the geometric distribution's."""
    states = 400
    weights = np.tile([0.1, 0.0, 0.9], (states, 1))
    weights[0], weights[-1] = [0, 0.1, 0.9], [0.1, 0.9, 0]
    reward = 1.0 * (np.arange(states) == states - 1)[:, None]
    solution = SwitchingMDP(Banded(weights, 1), reward, [[0.0]], None).solve(compiled=compiled)
    assert solution.gain == pytest.approx(8 / 9, abs=1e-9)  # (1 − 1/9) of the geometric series
    assert solution.converged


def test_long_points_are_accelerated_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The normal equations, for which no history is copied, settle in about as many steps."""
    chain = Kronecker([walk(9, 2).dense(), walk(10, 3).dense()])
    problem = SwitchingMDP(chain, *payoffs(90, 4), 0.99)
    short = problem.solve()
    monkeypatch.setattr(anderson, "_LONG", 0)
    long = problem.solve()
    assert long.converged
    assert long.iterations <= short.iterations + 5
    np.testing.assert_allclose(long.value, short.value, atol=1e-7)


def test_states_up_to_three_hundred_are_solved_as_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """The structure gains nothing there, and everything that an array can do works."""
    monkeypatch.setattr(mdp, "_DENSE_STATES", 300)
    chain = walk(30, 2)
    problem = SwitchingMDP(chain, *payoffs(30, 3), 0.9)
    np.testing.assert_array_equal(problem.transition, chain.dense())
    solution = problem.solve()
    np.testing.assert_allclose(problem.evaluate(solution.policy), solution.value, atol=1e-7)


def test_what_needs_an_array_is_refused() -> None:
    """A policy's own chain has (E M)² entries: its value and its occupancy are not for large chains."""
    problem = SwitchingMDP(walk(30, 2), *payoffs(30, 3), 0.9)
    policy = problem.solve().policy
    for refused in (problem.evaluate, problem.occupancy):
        with pytest.raises(ValueError, match=r"\(90\)² numbers; <Banded\(states=30"):
            refused(policy)


STAY = [[0.0, 1.0, 0.0]]
HALF = [[0.5, 0.5], [0.5, 0.5]]
SWAP = [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Banded([[0.5, 0.4], [1, 0]], 0), "moves row 0 sums to 0.9"),
        (lambda: Banded([[1.5, -0.5], [1, 0]], 0), r"moves\[0, 1\] is -0.5"),
        (lambda: Banded([[0.5, np.nan], [1, 0]], 0), r"moves\[0, 1\] is nan"),
        (lambda: Banded([[0.5, 0.5], [0.5, 0.5]], 0), "moves row 1 leads to state 2"),
        (lambda: Banded([[0.5, 0.5], [0.5, 0.5]], 1), "moves row 0 leads to state -1"),
        (lambda: Banded([[1.0]], 1), "lower is 1"),
        (lambda: Kronecker([]), "needs a factor"),
        (lambda: Kronecker([HALF, [[0.5, 0.4], [0, 1]]]), "factor 1 row 0 sums to 0.9"),
        (lambda: Kronecker([HALF, [[1, 0]]]), "factor 1 has shape"),
    ],
)
def test_a_broken_chain_names_what_is_wrong(make: Any, message: str) -> None:
    """Each error says which row or factor it is about."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (Banded(STAY * 4, 1), "transition has two closed classes, states 0 and 1"),
        (Kronecker([HALF, np.eye(2)]), "factor 1 has two closed classes, states 0 and 1"),
        (Kronecker([SWAP, HALF, SWAP]), "factors 0 and 2 keep in step, with the periods 2 and 2"),
    ],
    ids=repr,
)
def test_two_closed_classes_are_refused(chain: Exogenous, message: str) -> None:
    """An average that depends on the start is refused; a discount makes it a problem again."""
    reward, cost = payoffs(len(chain), 2)
    with pytest.raises(ValueError, match=message):
        SwitchingMDP(chain, reward, cost, None)
    assert SwitchingMDP(chain, reward, cost, 0.9).solve().converged
