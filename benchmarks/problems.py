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


def ar1(states: int) -> np.ndarray:
    """Return P (E, E) of a budget that moves as an AR(1) between −3 and 3 standard deviations."""
    level = np.linspace(-3, 3, states)
    density = np.exp(-0.5 * ((level[None, :] - 0.95 * level[:, None]) / 0.3) ** 2) + 1e-12
    return density / density.sum(axis=1, keepdims=True)


def walk(states: int, reach: int = 5) -> np.ndarray:
    """Return the moves (E, 2 reach + 1) of a budget that drifts to the middle, a few bins a step."""
    offsets = np.arange(-reach, reach + 1)
    drift = 0.05 * reach * np.linspace(-3, 3, states)[:, None]
    moves = np.exp(-0.5 * ((offsets + drift) / (0.4 * reach)) ** 2)
    target = np.arange(states)[:, None] + offsets
    moves[(target < 0) | (target >= states)] = 0.0
    return moves / moves.sum(axis=1, keepdims=True)


def rewards(level: np.ndarray, variants: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return r (E, M), which rises with the budget's level and the variant, and C (M, M)."""
    on_time = 1 / (1 + np.exp(-3 * (level[:, None] - np.linspace(-2, 2, variants)[None, :])))
    quality = np.linspace(0.7, 0.8, variants)
    noise = np.random.default_rng(seed).normal(0, 1e-3, on_time.shape)
    reward = quality * on_time - 0.5 * (1 - on_time) + noise
    return reward, 0.05 * (1 - np.eye(variants))
