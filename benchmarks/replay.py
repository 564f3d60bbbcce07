"""Replays and the clairvoyant, in million steps a second of one core's time."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from time import thread_time

import numpy as np

from adaphi.policies import Objective, TablePolicy
from adaphi.sim import kernels, replay
from adaphi.sim.optimum import best_path
from adaphi.sim.packed import find_bins, play, play_bins
from adaphi.sim.replay import clairvoyant

from . import harness
from .harness import Row
from .problems import example_profile, wandering_trace

seconds = partial(harness.seconds, repeat=15, clock=thread_time)


def run(quick: bool = False) -> list[Row]:
    """Return the figures; the peers are the plain loop over lists, and numpy step by step."""
    profile, rows = example_profile(), 20_000 if quick else 1_000_000
    trace = wandering_trace(rows)
    policy = TablePolicy.solve(profile, [trace.budget_ms[:4000]])
    lookup, costs, objective = policy.bind(profile), profile.costs(), Objective()
    budget, need = trace.budget_ms, costs.need_ms

    def from_floats(compiled: bool) -> None:
        play(budget, lookup.edges_ms, lookup.table, need, compiled=compiled)

    bins = find_bins(budget, lookup.edges_ms, need)

    def from_bins(compiled: bool) -> None:
        play_bins(bins, lookup.edges_ms, lookup.table, need, compiled=compiled)

    def plain() -> None:
        """Replay the first rows by the rules of the contract, over lists."""
        decide, active, score = lookup.decide, 0, 0.0
        needs, quality = need.tolist(), costs.quality.tolist()
        rows_ = budget[: rows // 20].tolist()
        for reading, available in pairwise(rows_):
            chosen = decide(reading, active)
            score += quality[chosen] if needs[active][chosen] <= available else -0.5
            score -= 0.01 * (chosen != active)
            active = chosen

    def best(compiled: bool) -> None:
        best_path(
            budget,
            need,
            costs.quality,
            objective.miss_cost,
            objective.switch_cost,
            compiled=compiled,
        )

    def dear(switch: float) -> None:
        best_path(budget, need, costs.quality, objective.miss_cost, switch)

    def best_of_eight() -> None:
        """Choose among eight variants, each switch with a stall of its own."""
        stall = np.random.default_rng(0).uniform(0, 1, (8, 8)) * (1 - np.eye(8))
        latency, quality = np.geomspace(8, 40, 8), np.linspace(0.6, 0.8, 8)
        best_path(budget, latency + stall, quality, objective.miss_cost, objective.switch_cost)

    def best_by_steps() -> None:
        """Back up the first rows one numpy step after the other."""
        value, penalty = np.zeros(len(costs)), 0.01 * (1 - np.eye(len(costs)))
        for available in budget[rows // 20 : 0 : -1]:
            paid = np.where(need <= available, costs.quality, -0.5) - penalty
            value = (paid + value).max(axis=1)

    million = rows / 1e6
    loop, numpy_, binned, whole = seconds(
        plain,
        lambda: from_floats(False),
        lambda: from_bins(False),
        lambda: replay(trace, profile, policy),
    )
    read = seconds(budget.max)[0]
    steps, chunks = seconds(best_by_steps, lambda: best(False), repeat=3)
    loop_rate, steps_rate = million / 20 / loop, million / 20 / steps
    by_loop, by_steps = ("loop over lists", loop_rate), ("numpy by steps", steps_rate)
    figures = [
        ("replay from readings, numpy", million / numpy_, *by_loop, "≥ 50"),
        ("replay from bins, numpy", million / binned, *by_loop, "≥ 50"),
        ("clairvoyant, numpy", million / chunks, *by_steps, "≥ 10"),
    ]
    if kernels.COMPILED:
        floats, bytes_, sure = seconds(
            lambda: from_floats(True), lambda: from_bins(True), lambda: best(True)
        )
        bound, half, two, eight = seconds(
            lambda: clairvoyant(trace, profile), lambda: dear(0.5), lambda: dear(2.0), best_of_eight
        )
        figures += [
            ("replay from readings, compiled", million / floats, *by_loop, "≥ 1000"),
            ("replay from bins, compiled", million / bytes_, *by_loop, "≥ 1000"),
            ("clairvoyant, compiled", million / sure, *by_steps, "≥ 200"),
            ("sim.clairvoyant, whole call", million / bound, *by_steps, ""),
            ("clairvoyant, compiled, a switch costs 0.5", million / half, *by_steps, ""),
            ("clairvoyant, compiled, a switch costs 2", million / two, *by_steps, ""),
            ("clairvoyant, compiled, eight variants", million / eight, *by_steps, ""),
        ]
    figures += [
        ("sim.replay, whole call", million / whole, *by_loop, ""),
        ("budgets only read, their maximum", million / read, *by_loop, ""),
    ]
    return [Row(what, rate, "M steps/s", "more", *rest) for what, rate, *rest in figures]
