"""The problems that benchmarks are run on, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adaphi.model_zoo import Profile
from adaphi.sim import Trace

ROOT = Path(__file__).parents[1]


def example_profile() -> Profile:
    """Return the measured profile that comes with the examples."""
    return Profile.load(ROOT / "examples" / "profile.json")


def wandering_trace(rows: int, seed: int = 0) -> Trace:
    """Return budgets that wander across the example ladder's thresholds (an AR(1) of the logarithm)."""
    random = np.random.default_rng(seed)
    costs = example_profile().costs()
    middle = float(np.exp(np.log(costs.latency_ms).mean()))
    noise = random.normal(0, 0.08, rows)
    level = np.empty(rows)
    here = 0.0
    for t in range(rows):
        here = 0.97 * here + noise[t]
        level[t] = here
    return Trace.from_budgets(middle * np.exp(level))
