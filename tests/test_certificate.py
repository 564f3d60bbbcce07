"""What a table promises: figures against a long replay, intervals against the truth they are drawn from."""

from __future__ import annotations

import dataclasses

import numpy as np

from adaphi.model_zoo import Profile
from adaphi.policies import Objective, TablePolicy, fit_chain, frame_mdp
from adaphi.policies.certificate import certify
from adaphi.policies.chain import Chain
from adaphi.sim import Trace, replay


def recorded(rows: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    level = np.zeros(rows)
    for t in range(1, rows):
        level[t] = 0.95 * level[t - 1] + random.normal(0, 0.12)
    return np.asarray(17 * np.exp(level))


def test_the_figures_are_those_of_a_long_replay(profile: Profile) -> None:
    """On 200,000 budgets that move as the chain says, what is promised is what happens."""
    policy = TablePolicy.solve(profile, [recorded(3000, 0)])
    long = Trace.from_budgets(policy.chain_ms(profile.costs()).sample(200_000, 1))
    outcome, promise = replay(long, profile, policy), policy.certificate
    assert abs(outcome.on_time_share - promise.on_time_share) < 0.005
    assert abs(outcome.switch_share - promise.switch_share) < 0.005
    assert abs(outcome.mean_quality - promise.mean_quality) < 0.001


def test_intervals_hold_the_truth_as_often_as_they_say(profile: Profile) -> None:
    """Chains counted again and again from one truth: at least 85 % of the intervals hold the true figure."""
    costs = profile.costs()
    truth = fit_chain([recorded(20_000, 0)], costs.thresholds_ms, extra_bins=8)
    trials, held = 60, np.zeros(3)
    for seed in range(trials):
        where = truth.bins(truth.sample(1500, seed))
        counts = np.zeros_like(truth.counts)
        np.add.at(counts, (where[:-1], where[1:]), 1.0)
        counted = Chain(truth.edges, counts, truth.prior, 5.0)
        solution = frame_mdp(costs, counted, Objective()).solve()
        promise, real = (certify(costs, chain, solution) for chain in (counted, truth))
        for place, (interval, figure) in enumerate(
            [
                (promise.on_time_interval, real.on_time_share),
                (promise.switch_interval, real.switch_share),
                (promise.quality_interval, real.mean_quality),
            ]
        ):
            assert interval is not None and interval[0] <= interval[1]
            held[place] += interval[0] <= figure <= interval[1]
    assert (held / trials >= 0.85).all(), held / trials


def test_change_makes_a_promise_less_sure(profile: Profile) -> None:
    """As many budgets, with the same steps, but calm first and tight last: the share on time is less sure."""
    calm = np.tile([14.0, 30.0], 600)
    changed = np.concatenate([np.full(600, 30.0), np.tile([9.0, 14.0], 300)])
    lengths = []
    for budgets in (calm, changed):
        low, high = TablePolicy.solve(profile, [budgets]).certificate.on_time_interval or (0, 0)
        lengths.append(high - low)
    assert lengths[1] > lengths[0]


def test_more_rows_are_surer(profile: Profile) -> None:
    """Ten times as many rows make every interval shorter, on average over five recordings."""

    def lengths(rows: int, seed: int) -> list[float]:
        promise = TablePolicy.solve(profile, [recorded(rows, seed)]).certificate
        intervals = (promise.on_time_interval, promise.switch_interval, promise.quality_interval)
        return [high - low for low, high in (i or (0.0, 0.0) for i in intervals)]

    few, many = (np.mean([lengths(rows, s) for s in range(5)], axis=0) for rows in (500, 5000))
    assert (many < 0.7 * few).all()


def test_a_file_keeps_the_certificate(profile: Profile) -> None:
    """Intervals survive the file as they are, and a file without them still loads."""
    policy = TablePolicy.solve(profile)
    again = TablePolicy.from_bytes(policy.to_bytes())
    assert again.certificate == policy.certificate
    bare = dataclasses.replace(
        policy.certificate, on_time_interval=None, switch_interval=None, quality_interval=None
    )
    older = dataclasses.replace(policy, certificate=bare)
    assert TablePolicy.from_bytes(older.to_bytes()).certificate == bare
