"""Compiled loops against a few readable lines: ties, infinities, what is no number, odd lengths."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from adaphi.sim import kernels, optimum, twostep
from adaphi.sim.optimum import best_path
from adaphi.sim.packed import play

needs_numba = pytest.mark.skipif(
    not kernels.COMPILED, reason="numba (extra `fast`) is not installed"
)
AWKWARD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, -1.0, 1e308]


def near(cuts: np.ndarray, rows: int, random: np.random.Generator) -> np.ndarray:
    """Return values of which many are a cut, or as near to one as can be, and some are awkward."""
    beside = [np.nextafter(cuts, -np.inf), np.nextafter(cuts, np.inf)]
    return random.choice(np.concatenate([cuts, *beside, AWKWARD, random.uniform(0, 50, 40)]), rows)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 15, 16, 20, 21, 60])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_bin_is_how_many_cuts_are_reached(count: int, compiled: bool) -> None:
    """Every form finds the bins of one comparison a cut; what is no number reaches none."""
    if compiled and not kernels.COMPILED:
        pytest.skip("numba (extra `fast`) is not installed")
    random = np.random.default_rng(count)
    cuts = np.unique(random.integers(1, 99, count) / 2)
    cuts = np.append(cuts, np.nextafter(cuts[-1:], np.inf))  # two as close as can be
    for rows in (0, 1, 3, 511, 512, 513, 1030):
        values = near(cuts, rows, random)
        expected = [sum(value >= cut for cut in cuts.tolist()) for value in values.tolist()]
        assert kernels.find(values, cuts, compiled=compiled).tolist() == expected


def by_the_rules(
    budget: np.ndarray, edges: np.ndarray, table: np.ndarray, need: np.ndarray
) -> tuple[list[int], list[int], int]:
    """Return decisions, how many of each variant were on time, and the switches, row by row."""
    decisions, on_time, switches, active = [], [0] * len(need), 0, 0
    for reading, available in zip(budget[:-1].tolist(), budget[1:].tolist(), strict=True):
        chosen = int(table[sum(reading >= edge for edge in edges.tolist()), active])
        on_time[chosen] += available >= need[active, chosen]
        switches += chosen != active
        decisions.append(chosen)
        active = chosen
    return decisions, on_time, switches


@needs_numba
@pytest.mark.parametrize("variants", [1, 2, 3, 4])
def test_two_steps_at_a_time_are_two_steps(variants: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walked in pairs, odd ends and chunks included, a table decides and scores as row by row."""
    monkeypatch.setattr(twostep, "LEAST_STEPS", 0)
    random = np.random.default_rng(variants)
    played = []
    monkeypatch.setattr(
        twostep, "play_double", lambda *a, play=twostep.play_double: played.append(a) or play(*a)
    )
    for rows in (2, 3, 4, 5, 17, 512, 513, 514, 1025, 4099):
        levels = np.unique(random.integers(1, 99, 15) / 2)
        edges, thresholds = levels[::3], levels[1::2]
        need = random.choice(thresholds, (variants, variants))
        table = random.integers(0, variants, (len(edges) + 1, variants), dtype=np.uint8)
        budget = near(levels, rows, random)
        decisions, on_time, switches = play(budget, edges, table, need)
        expected = by_the_rules(budget, edges, table, need)
        assert (decisions.tolist(), on_time.tolist(), switches) == expected
    assert len(played) == 10


def exactly(
    budget: np.ndarray, need: np.ndarray, quality: np.ndarray, miss: float, switch: float
) -> tuple[list[int], Fraction]:
    """Return the best decisions and their total, in fractions; of equally good ones the lowest φ."""
    variants = range(len(quality))
    worth, choices = [Fraction(0)] * len(quality), []
    for available in budget[:0:-1].tolist():
        scores = [
            [
                (Fraction(quality[a]) if available >= need[m, a] else -Fraction(miss))
                - (m != a) * Fraction(switch)
                + worth[a]
                for a in variants
            ]
            for m in variants
        ]
        choices.append([row.index(max(row)) for row in scores])
        worth = [max(row) for row in scores]
    decisions, active = [], 0
    for choice in reversed(choices):
        active = choice[active]
        decisions.append(active)
    return decisions, worth[0]


def drawn(variants: int, seed: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return budgets, needs and qualities in a few round steps, so that many paths are equally good."""
    random = np.random.default_rng(seed)
    need = random.integers(1, 9, (variants, variants)).astype(float)
    budget = random.choice([*range(10), np.inf], rows).astype(float)
    budget[rows // 3 : 2 * rows // 3] = 0.5  # nothing is on time: what comes after is not forgotten
    return budget, need, np.sort(random.integers(40, 64, variants)) / 64


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("switch", [0.0, 1 / 64, 0.25, 1.0])
@pytest.mark.parametrize("variants", [1, 2, 3, 5, 8])
def test_the_clairvoyant_is_exact(variants: int, switch: float, compiled: bool) -> None:
    """Both forms find the path of exact arithmetic, which of equally good choices takes the lowest φ."""
    if compiled and not kernels.COMPILED:
        pytest.skip("numba (extra `fast`) is not installed")
    for seed, rows in enumerate((2, 3, 30, 331)):
        budget, need, quality = drawn(variants, seed, rows)
        found = best_path(budget, need, quality, 0.5, switch, compiled=compiled)
        assert found.tolist() == exactly(budget, need, quality, 0.5, switch)[0]


def total(
    decisions: np.ndarray, budget: np.ndarray, need: np.ndarray, quality: np.ndarray, switch: float
) -> Fraction:
    """Return the total score of decisions with a miss cost of 0.5, in fractions."""
    on_time, switches = kernels.tally(budget, need, decisions, compiled=False)
    earned = sum(n * Fraction(q) for n, q in zip(on_time.tolist(), quality.tolist(), strict=True))
    late = len(decisions) - int(on_time.sum())
    return earned - Fraction(0.5) * late - Fraction(switch) * switches


@pytest.mark.parametrize("compiled", [True, False])
def test_no_rounding_adds_up(compiled: bool) -> None:
    """Where two steps earn two switches but for 1e-12, no path beats the one found by 1e-14 in all."""
    if compiled and not kernels.COMPILED:
        pytest.skip("numba (extra `fast`) is not installed")
    for seed, little in enumerate((-1e-12, 1e-12)):
        random = np.random.default_rng(seed)
        budget, need = random.choice([3.0, 6.0], 1500), np.array([[2.0, 5.0], [2.0, 5.0]])
        quality = np.sort(random.uniform(0.6, 0.8, 2))
        switch = quality[1] - quality[0] + little
        found = best_path(budget, need, quality, 0.5, switch, compiled=compiled)
        best = exactly(budget, need, quality, 0.5, switch)[1]
        assert 0 <= best - total(found, budget, need, quality, switch) < 1e-14


@pytest.mark.parametrize("compiled", [True, False])
def test_too_many_states_cost_nothing_but_time(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the states do not fit, floats reach the same total."""
    if compiled and not kernels.COMPILED:
        pytest.skip("numba (extra `fast`) is not installed")
    monkeypatch.setattr(optimum, "_MOST_PAIRS", 30)
    for variants in (2, 3, 4):
        budget, need, quality = drawn(variants, variants, 200)
        found = best_path(budget, need, quality, 0.5, 0.25, compiled=compiled)
        best = exactly(budget, need, quality, 0.5, 0.25)[1]
        assert total(found, budget, need, quality, 0.25) == best
