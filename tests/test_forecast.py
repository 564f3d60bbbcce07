"""What the forecasts of a learning policy are made of."""

from __future__ import annotations

import numpy as np
import pytest

from adaphi.model_zoo import Profile
from adaphi.model_zoo.profile import Costs
from adaphi.policies.chain import fit_chain
from adaphi.policies.committee import Committee
from adaphi.policies.forecast import Forecast, Mixture, Residuals
from adaphi.policies.frame import Objective
from adaphi.policies.jit import COMPILED


def test_a_forecast_finds_the_probabilities_of_independent_budgets() -> None:
    """Budgets that do not depend on the past are forecast by how often they reach a threshold."""
    random = np.random.default_rng(0)
    forecast = Forecast(np.array([-1.0, 0.0, 1.0]), 1)
    said = []
    for x in random.normal(size=3000).tolist():
        said.append(forecast.predict(x, [[0.5, 0.5, 0.5]]))
        forecast.learn(x)
        assert sorted(said[-1], reverse=True) == said[-1]
    np.testing.assert_allclose(np.mean(said[1000:], axis=0), [0.841, 0.5, 0.159], atol=0.02)


def test_a_forecast_finds_a_pattern() -> None:
    """Budgets that alternate are foretold after a few dozen of them, at every threshold they cross."""
    forecast = Forecast(np.array([0.0]), 1)
    for step in range(100):
        (said,) = forecast.predict(1.0 if step % 2 else -1.0, [[0.5]])
        forecast.learn(-1.0 if step % 2 else 1.0)
    assert said < 0.1


def test_shares_of_residuals_are_counts() -> None:
    """Bisection in the sorted window finds what counting in the window finds."""
    random = np.random.default_rng(1)
    values = random.normal(size=200).round(1).tolist()
    residuals = Residuals(0.5, 30)
    base, window = values[0], []
    for step, value in enumerate(values):
        if step:
            window = [*window, value - base][-30:]
            base += 0.5 * (value - base)
        shares = residuals.reach(value, [-0.5, 0.3])
        for share, threshold in zip(shares, (-0.5, 0.3), strict=True):
            reached = sum(r >= threshold - base for r in window)
            belief = 0.9 if threshold <= base else 0.1
            assert share == pytest.approx((reached + 2 * belief) / (len(window) + 2))


def test_a_mixture_begins_with_the_mean_and_learns_whom_to_believe() -> None:
    """At first all signs count alike; then the one that is right."""
    random = np.random.default_rng(2)
    mixture = Mixture(1, 2)
    logits = np.array([[2.0], [-1.0]])
    assert mixture.predict(logits) == [pytest.approx(1 / (1 + np.exp(-0.5)))]
    for _ in range(500):
        right = float(random.choice([-2.0, 2.0]))
        mixture.predict(np.array([[right], [float(random.normal())]]))
        mixture.learn([float(random.uniform() < 1 / (1 + np.exp(-right)))])
    assert mixture.predict(logits) == [pytest.approx(1 / (1 + np.exp(-2.0)), abs=0.05)]


def test_a_prior_knows_that_high_budgets_fall() -> None:
    """Where budgets return to a middle, the prior of a high bin moves down and of a low one up."""
    random = np.random.default_rng(3)
    logs = np.zeros(2000)
    for t, noise in enumerate(random.normal(size=1999) * 0.3):
        logs[t + 1] = 0.3 * logs[t] + noise
    chain = fit_chain([np.exp(logs)], np.array([1.0]))
    places = np.arange(len(chain.prior))
    ahead = chain.prior @ places
    assert ahead[0] > 4 and ahead[-1] < len(places) - 5


@pytest.mark.parametrize("compiled", [True, False] if COMPILED else [False])
def test_preparing_changes_no_decision(profile: Profile, compiled: bool) -> None:
    """What is done between two decisions is what the next one would have done itself."""
    random = np.random.default_rng(1)
    budgets = (20 * np.exp(random.normal(0, 0.4, 400).cumsum() / 8)).tolist()
    lazy, eager = (
        Committee(profile.costs(), Objective(), [np.array(budgets[:50]) / 10], compiled=compiled)
        for _ in range(2)
    )
    for begun in range(2):
        active = 0
        for budget in budgets:
            for _ in range(int(random.integers(0, 3))):
                eager.prepare()
            chosen = lazy.decide(budget, active)
            assert eager.decide(budget, active) == chosen, begun
            active = chosen
        lazy.reset()
        eager.reset()


@pytest.mark.skipif(not COMPILED, reason="numba (extra `fast`) is not installed")
@pytest.mark.parametrize(("variants", "discount"), [(1, None), (2, 0.9), (3, None), (5, 0.99)])
def test_the_compiled_committee_decides_as_the_readable_one(
    variants: int, discount: float | None
) -> None:
    """Whatever is active: on wandering budgets, exact thresholds, nothing at all, and again after a reset."""
    random = np.random.default_rng(variants)
    stalls = random.uniform(0, 4, (variants, variants)) * (1 - np.eye(variants))
    costs = Costs(
        np.sort(random.uniform(8, 40, variants)),
        stalls,
        np.sort(random.uniform(0.6, 0.9, variants)),
    )
    wandering = 20 * np.exp(random.normal(0, 0.4, 500).cumsum() / 8)
    steady = 20 * np.exp(random.normal(0, 0.1, 200))
    exact = np.array([*costs.need_ms.ravel(), 0.0, 1e9])
    budgets = np.concatenate([wandering, steady, exact, steady, np.tile(exact, 5)])
    history = [wandering[:90] / costs.latency_ms[0], steady[:5] / costs.latency_ms[0]]
    objective = Objective(discount=discount)
    readable, compiled = (
        Committee(costs, objective, history, compiled=compiled) for compiled in (False, True)
    )
    for _ in range(2):
        for budget, active in zip(
            budgets.tolist(), random.integers(0, variants, len(budgets)).tolist(), strict=True
        ):
            assert readable.decide(budget, active) == compiled.decide(budget, active)
        readable.reset()
        compiled.reset()
