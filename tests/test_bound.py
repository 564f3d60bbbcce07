"""What benchmarks/bound.py stands on: rules that decide as ours do, worlds whose optimum is the optimum."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from adaphi.model_zoo import Profile
from adaphi.policies import Objective
from adaphi.policies.rules import Alert, Hysteresis
from adaphi.sim import Trace
from adaphi.sim.replay import decide_stepwise

ROOT = Path(__file__).parents[1]
OBJECTIVE = Objective()


@pytest.fixture
def quickrules(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return benchmarks/quickrules.py, which is no part of an installed package."""
    monkeypatch.syspath_prepend(ROOT)
    return import_module("benchmarks.quickrules")


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return benchmarks/bound.py."""
    monkeypatch.syspath_prepend(ROOT)
    return import_module("benchmarks.bound")


@pytest.mark.parametrize("seed", range(5))
def test_quick_rules_decide_as_the_rules(
    quickrules: ModuleType, profile: Profile, seed: int
) -> None:
    """Decision for decision, whatever the guard, patience and smoothing."""
    random = np.random.default_rng(seed)
    costs = profile.costs()
    trace = Trace.from_budgets(
        18 * np.exp(0.5 * np.sin(0.3 * random.standard_normal(500).cumsum()))
    )
    for guard, patience, smoothing in ((1.1, 3, 1.0), (1.0, 1, 0.5), (1.4, 10, 0.25)):
        slow = decide_stepwise(trace, Hysteresis(costs, guard, patience, smoothing), costs)
        quick = quickrules.hysteresis(trace.readings_ms, costs, guard, patience, smoothing)
        assert (slow == quick).all() and len(set(quick)) > 1
    slow = decide_stepwise(trace, Alert(costs, OBJECTIVE), costs)
    assert (slow == quickrules.alert(trace.readings_ms, costs, OBJECTIVE)).all()


@pytest.mark.parametrize("world", ["level", "level and direction"])
def test_who_knows_the_law_loses_to_no_rule_on_average(bound: ModuleType, world: str) -> None:
    """Over many draws of a world its optimum scores at least what each rule scores, up to chance."""
    random = np.random.default_rng(1)
    budget = 50 * np.exp(0.4 * np.sin(0.1 * random.standard_normal(400).cumsum()))
    job = bound.Job(world, "made up", budget, seed=0, draws=60, learned=0)
    cells = [cell for draw in bound.evaluate(job) for cell in draw]
    rules = set(cells[0].scores) - {"law", "law with a stop", "clairvoyant"}
    assert len(rules) == 8
    for problem in {(c.ladder, c.stall_ms) for c in cells}:
        mine = [c.scores for c in cells if (c.ladder, c.stall_ms) == problem]
        for rule in rules:
            gain = np.array([s["law"] - s[rule] for s in mine])
            assert gain.mean() >= -2 * gain.std() / np.sqrt(len(gain)) - 1e-9, (problem, rule)
        assert all(s["clairvoyant"] >= max(s.values()) - 1e-9 for s in mine)


def test_a_world_moves_as_the_trace_it_was_made_of(bound: ModuleType) -> None:
    """A long draw reaches each threshold as often as the trace does."""
    random = np.random.default_rng(2)
    budget = 50 * np.exp(0.4 * np.sin(0.3 * random.standard_normal(3000).cumsum()))
    for make in bound.WORLDS.values():
        _, drawn = make(budget).draw(20_000, np.random.default_rng(0))
        for threshold in (30, 42, 55, 70):
            assert abs((drawn >= threshold).mean() - (budget >= threshold).mean()) < 0.08
