"""The request-level simulation: queueing theory's closed forms, and the two loops held to each other."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaphi.errors import InputError, TraceError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.model_zoo.quantiles import quantile
from adaphi.policies import Objective
from adaphi.sim import Trace, request_kernels
from adaphi.sim.requests import BUSY, OK, OUTCOMES, SHED, Served, World, serve
from adaphi.sim.service_times import Drift, draw
from adaphi.sim.workload import Workload

compiled = pytest.mark.skipif(
    not request_kernels.COMPILED, reason="the compiled loop needs the extra `fast`"
)
SERVICE_MS = 10.0
REQUESTS, REPLICATIONS = 60_000, 12


def single(p50_ms: float = SERVICE_MS) -> Profile:
    """Return a ladder of one variant."""
    only = VariantProfile(0, "only", 0.7, Latency(p50=p50_ms, p95=p50_ms))
    return Profile(ladder="one", variants=(only,), stall_ms=((0.0,),))


def replications(
    load: float, draw_ms: Any, max_requests: int = 100_000, deadline_ms: float = np.inf
) -> list[Served]:
    """Serve independent Poisson streams at this load, `draw_ms(rng, n)` being the service times."""
    outcomes = []
    for seed in range(REPLICATIONS):
        workload = Workload.poisson(load / SERVICE_MS * 1e3, REQUESTS, deadline_ms, seed=seed)
        service_ms = draw_ms(np.random.default_rng(1000 + seed), REQUESTS)[:, None]
        outcomes.append(
            serve(workload, single(), "static:0", max_requests=max_requests, service_ms=service_ms)
        )
    return outcomes


def agrees(values: list[float], truth: float) -> bool:
    """Say whether the replications' mean is within four standard errors of the truth."""
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    return bool(abs(mean - truth) <= 4 * error) and error < 0.05 * truth


LAWS = {
    "M/M/1": (lambda rng, n: rng.exponential(SERVICE_MS, n), 1.0),
    "M/D/1": (lambda rng, n: np.full(n, SERVICE_MS), 0.0),
    "M/G/1, gamma": (lambda rng, n: rng.gamma(4.0, SERVICE_MS / 4, n), 0.25),
    "M/G/1, two kinds": (
        lambda rng, n: np.where(rng.random(n) < 0.9, SERVICE_MS / 2, SERVICE_MS * 5.5),
        0.9 * 0.25 + 0.1 * 5.5**2 - 1,
    ),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_waits_follow_pollaczek_and_khinchine(law: str, load: float) -> None:
    """The mean wait is ρ (1 + c²) ÷ (2 (1 − ρ)) mean service times, c² the service's squared variation."""
    draw_ms, variation = LAWS[law]
    outcomes = replications(load, draw_ms)
    waits = [float(o.wait_ms[REQUESTS // 10 :].mean()) for o in outcomes]
    truth = SERVICE_MS * load * (1 + variation) / (2 * (1 - load))
    assert agrees(waits, truth), (np.mean(waits), truth)
    assert all((o.outcome == OK).all() for o in outcomes)


def test_the_wait_in_a_queue_without_memory_is_exponential() -> None:
    """M/M/1: P(wait > t) = ρ e^{−μ(1−ρ)t}, at several t."""
    load = 0.6
    outcomes = replications(load, LAWS["M/M/1"][0])
    for t_ms in (5.0, 20.0, 60.0):
        shares = [float((o.wait_ms[REQUESTS // 10 :] > t_ms).mean()) for o in outcomes]
        truth = load * math.exp(-(1 - load) * t_ms / SERVICE_MS)
        assert agrees(shares, truth), (t_ms, np.mean(shares), truth)


@pytest.mark.parametrize(("load", "places"), [(0.8, 3), (1.5, 2)])
def test_a_full_queue_refuses_as_often_as_theory_says(load: float, places: int) -> None:
    """M/M/1/K: a request finds all K = places + 1 taken with probability (1 − ρ) ρ^K ÷ (1 − ρ^{K+1})."""
    outcomes = replications(load, LAWS["M/M/1"][0], max_requests=places)
    system = places + 1
    truth = (1 - load) * load**system / (1 - load ** (system + 1))
    assert agrees([float((o.outcome == BUSY).mean()) for o in outcomes], truth)


@pytest.mark.parametrize("load", [0.5, 2.0])
def test_where_nobody_may_wait_erlangs_formula_holds(load: float) -> None:
    """One server, a deadline of just the run: a share ρ ÷ (1 + ρ) is lost (Erlang B with one place)."""
    outcomes = replications(load, LAWS["M/D/1"][0], deadline_ms=SERVICE_MS * (1 + 1e-9))
    lost = [float((o.outcome == SHED).mean()) for o in outcomes]
    assert agrees(lost, load / (1 + load)), np.mean(lost)


@pytest.mark.parametrize("seed", range(3))
def test_simpy_serves_alike(seed: int) -> None:
    """A resource of SimPy with priorities ends every run at the same time, deadlines and ranks mixed."""
    simpy = pytest.importorskip("simpy")
    rng = np.random.default_rng(seed)
    arrived = Workload.poisson(80, 2000, seed=seed).arrived_s
    workload = Workload(arrived, rng.uniform(1e6, 2e6, 2000), rng.integers(1, 9, 2000))
    service_ms = rng.exponential(SERVICE_MS, (2000, 1))
    environment, done_s = simpy.Environment(), np.empty(2000)
    worker = simpy.PriorityResource(environment)

    def request(number: int) -> Any:
        yield environment.timeout(arrived[number])
        deadline_s = arrived[number] + workload.deadline_ms[number] / 1e3
        with worker.request(priority=(workload.priority[number], deadline_s)) as turn:
            yield turn
            yield environment.timeout(service_ms[number, 0] / 1e3)
            done_s[number] = environment.now

    for number in range(2000):
        environment.process(request(number))
    environment.run()
    served = serve(workload, single(), "static:0", max_requests=2000, service_ms=service_ms)
    assert served.done_s == pytest.approx(done_s, rel=1e-12)


def test_what_arrives_leaves() -> None:
    """Little's law, exactly: the time that requests spend waiting is that of the queue's length."""
    workload = Workload.poisson(90, 5000, seed=3)
    service_ms = np.random.default_rng(3).exponential(SERVICE_MS, (5000, 1))
    served = serve(workload, single(), "static:0", max_requests=5000, service_ms=service_ms)
    events = np.concatenate([workload.arrived_s, served.began_s])
    steps = np.repeat([1, -1], len(workload))[np.argsort(events, kind="stable")]
    length_times_s = (np.cumsum(steps)[:-1] * np.diff(np.sort(events))).sum()
    assert length_times_s == pytest.approx(served.wait_ms.sum() / 1e3, rel=1e-9)


three = Profile(
    ladder="three",
    variants=tuple(
        VariantProfile(phi, f"v{phi}", quality, Latency(p50=ms, p95=1.2 * ms, p99=1.5 * ms))
        for phi, (ms, quality) in enumerate(((10.0, 0.70), (15.0, 0.76), (24.0, 0.80)))
    ),
    stall_ms=((0.0, 0.5, 1.0), (0.25, 0.0, 0.75), (0.5, 0.5, 0.0)),
)


@compiled
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    policy=st.sampled_from(["static:1", "greedy", "table"]),
    rate=st.sampled_from([10, 40, 90, 300]),
    places=st.sampled_from([1, 3, 64]),
    varied=st.booleans(),
    whole=st.booleans(),
)
def test_both_loops_serve_alike(
    seed: int, policy: str, rate: float, places: int, varied: bool, whole: bool
) -> None:
    """Random deadlines, ranks, slow-downs, budgets and caps: outcomes and times are the same bit for bit.

    Whole milliseconds bring ties: ends that meet arrivals, budgets that are just enough.
    """
    rng = np.random.default_rng(seed)
    requests = 400
    arrived = Workload.poisson(rate, requests, seed=seed).arrived_s
    deadline_ms = rng.choice([12.0, 25.0, 60.0, 400.0, np.inf], requests)
    service_ms = draw(three, requests, seed=seed)
    if whole:
        arrived, service_ms = np.round(arrived, 3), np.round(service_ms)
    workload = Workload(arrived, deadline_ms, rng.integers(0, 9, requests))
    time_s = np.arange(0.0, 60.0, 0.4)
    world = World(
        Trace(time_s, rng.choice([0.8, 1.0, 1.7, 4.0], len(time_s))),
        Trace(
            time_s + 0.1,
            rng.uniform(0, 60, len(time_s)),
            {"max_phi": rng.integers(0, 3, len(time_s)).astype(float)},
        ),
        front_ms=0.0 if whole else 0.7,
        rest_share=0.0 if whole else 0.1,
    )
    readable, fast = (
        serve(
            workload,
            three,
            None if policy == "table" else policy,
            world=world if varied else None,
            max_requests=places,
            service_ms=service_ms,
            compiled=which,
        )
        for which in (False, True)
    )
    for name in ("outcome", "phi", "began_s", "done_s"):
        assert np.array_equal(getattr(readable, name), getattr(fast, name), equal_nan=True), name
    assert readable.switches == fast.switches
    assert readable.summary() == fast.summary()


def test_nothing_starts_after_its_deadline_and_the_most_urgent_goes_first() -> None:
    """Runs do not overlap, expired requests never run, and no one waits behind a lower rank."""
    rng = np.random.default_rng(5)
    workload = Workload(
        Workload.poisson(120, 3000, seed=5).arrived_s,
        rng.choice([30.0, 80.0, 200.0], 3000),
        rng.integers(1, 4, 3000),
    )
    served = serve(workload, three, "greedy")
    ran = np.flatnonzero(served.phi >= 0)
    order = ran[np.argsort(served.began_s[ran])]
    assert (served.began_s[order][1:] >= served.done_s[order][:-1]).all()
    deadline_s = workload.arrived_s + workload.deadline_ms / 1e3
    assert (served.began_s[ran] < deadline_s[ran]).all()
    for earlier, later in pairwise(order):
        if workload.arrived_s[later] < served.began_s[earlier]:  # both waited then
            assert workload.priority[earlier] <= workload.priority[later]


def test_a_learning_policy_is_served_too(profile: Profile) -> None:
    """A policy with memory runs in the readable loop; asking for the compiled one is an error."""
    workload = Workload.regular(30, 300, 40.0)
    served = serve(workload, profile, "hysteresis", objective=Objective())
    assert served.on_time_share > 0.9
    with pytest.raises(InputError, match="no compiled loop"):
        serve(workload, profile, "hysteresis", compiled=True)


def test_drawn_times_have_the_profiles_quantiles() -> None:
    """A million draws: p50, p95 and p99 are the profile's; one figure alone is every run's time."""
    latency = Latency(mean=21.0, p50=20.0, p95=26.0, p99=31.0)
    times = quantile(latency)(np.random.default_rng(0).random(1_000_000))
    assert np.percentile(times, [50, 95, 99]) == pytest.approx([20, 26, 31], rel=5e-3)
    assert (quantile(Latency(mean=7.0))(np.array([0.1, 0.999])) == 7.0).all()
    luck = np.linspace(0, 1 - 1e-9, 1001)
    assert (np.diff(quantile(latency)(luck)) >= 0).all()


def test_recorded_counts_arrive_in_their_bins(tmp_path: Path) -> None:
    """Every request of a row comes within its bin; speed shortens time, thinning keeps a share."""
    path = tmp_path / "counts.csv"
    path.write_text("time_s,count\n0,3\n10,0\n20,500\n")
    workload = Workload.read_counts(path)
    counts, _ = np.histogram(workload.arrived_s, [0, 10, 20, 30])
    assert counts.tolist() == [3, 0, 500]
    assert Workload.read_counts(path, speed=10).arrived_s.max() < 3.0
    assert 200 < len(Workload.read_counts(path, thin=0.5)) < 300


def test_a_modulated_process_keeps_its_rates() -> None:
    """Two levels of equal length: the rate is the mean of both, and more even than neither."""
    workload = Workload.markov_modulated([10, 90], [2.0, 2.0], 4000, seed=1)
    assert len(workload) / 4000 == pytest.approx(50, rel=0.1)
    per_second = np.bincount(workload.arrived_s.astype(int))
    assert per_second.var() > 5 * per_second.mean()  # Poisson alone would have variance = mean


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Workload([0, 2, 1], 10), "request 2: arrived_s is before"),
        (lambda: Workload([0, math.nan], 10), "request 1: arrived_s is not a finite"),
        (lambda: Workload([0, 1], [5, -1]), "request 1: deadline_ms"),
        (lambda: Workload([], 10), "N ≥ 1"),
        (lambda: Workload([0, 1], [1, 2, 3]), "expected one number or"),
        (lambda: Workload.poisson(0, 10), "rate_per_s is 0"),
        (
            lambda: serve(
                Workload([0.0], 9), single(), "static:0", service_ms=np.full((1, 1), -2.0)
            ),
            "φ=0: -2",
        ),
        (
            lambda: serve(Workload([0.0], 9), single(), "static:0", service_ms=np.ones((1, 2))),
            "expected .1, 1.",
        ),
        (lambda: World(slowdown=Trace([0.0, 1.0], [1.0, 0.0])).steps(), "above 0"),
    ],
)
def test_what_cannot_be_served_is_refused_before_any_work(make: Any, complaint: str) -> None:
    """Arrivals out of order, times that are none: one line that says where."""
    with pytest.raises(InputError, match=complaint):
        make()


def test_counts_that_are_none_are_named(tmp_path: Path) -> None:
    """A negative count and a wrong header: the file, the line."""
    path = tmp_path / "counts.csv"
    path.write_text("time_s,count\n0,3\n10,-1\n")
    with pytest.raises(TraceError, match=r"counts.csv:3: count is -1"):
        Workload.read_counts(path)
    path.write_text("time_s,load\n0,3\n10,1\n")
    with pytest.raises(TraceError, match="expected time_s,count"):
        Workload.read_counts(path)


def test_the_same_seed_gives_the_same_figures() -> None:
    """And another seed others; every request has one outcome."""
    workload = Workload.poisson(60, 2000, 50.0, seed=0)
    again = [serve(workload, three, "greedy", seed=seed).summary() for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    shares = [again[0]["on_time_share"], *(again[0][f"{name}_share"] for name in OUTCOMES[1:])]
    assert sum(map(float, shares)) == pytest.approx(1.0)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_the_front_takes_is_time_but_no_slow_down(compiled: bool) -> None:
    """Each answer takes so much longer; a device whose runs take what was profiled is not slow for that."""
    workload = Workload.regular(5.0, 50, 30.0)
    service_ms = np.tile(np.array(three.typical_ms("p95")), (50, 1))
    plain, fronted = (
        serve(
            workload,
            three,
            "greedy",
            world=World(front_ms=front_ms),
            service_ms=service_ms,
            compiled=compiled,
        )
        for front_ms in (0.0, 5.0)
    )
    np.testing.assert_allclose(fronted.latency_ms, plain.latency_ms + 5.0, atol=1e-9)
    assert np.array_equal(fronted.phi, plain.phi)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_after_a_rest_takes_longer(compiled: bool) -> None:
    """By the whole share after a long one, by half of it after a half-life, by nothing within a queue."""
    together = np.repeat(np.arange(1.0, 41.0), 2)  # two at a time, the second waits for the first
    gaps = np.where(
        np.arange(80) // 2 % 2, 0.0, -0.95
    )  # every other pair 50 ms after the one before
    workload = Workload(np.sort(together + gaps), 500.0)
    service_ms = np.full((80, len(three)), 10.0)
    rests = World(rest_share=0.2, rest_half_life_ms=30.0)
    served = serve(
        workload, three, "static:0", world=rests, service_ms=service_ms, compiled=compiled
    )
    rest_ms = (served.began_s - np.append(0.0, served.done_s[:-1])) * 1e3
    expected_ms = 10.0 * (1.2 - 0.2 * 0.5 ** (rest_ms / 30.0))
    np.testing.assert_allclose((served.done_s - served.began_s) * 1e3, expected_ms, rtol=1e-9)
    assert rest_ms[1::2].max() < 1e-6 and len(set(rest_ms[2::2].round())) > 1


def test_good_and_bad_times_last_and_each_run_is_drawn_as_before() -> None:
    """With drift: the same quantiles, and ranks that are correlated as the autoregression says."""
    stats = pytest.importorskip("scipy.stats")
    only = VariantProfile(0, "only", 0.7, Latency(p50=10.0, p95=14.0))
    profile = Profile(ladder="one", variants=(only,), stall_ms=((0.0,),))
    share, runs, count = 0.45, 50.0, 40_000
    drift = Drift(share, runs)
    apart, lasting = (draw(profile, count, seed=3, drift=d) for d in (None, drift))
    again = draw(profile, count, seed=3, drift=drift)
    assert (lasting == again).all() and (lasting != apart).any()
    thinned = lasting[:: int(4 * runs)]  # nearly independent
    assert stats.kstest(thinned[:, 0], apart[:, 0]).pvalue > 1e-3
    score = stats.norm.ppf(stats.rankdata(lasting[:, 0]) / (count + 1))
    for lag in (1, 10, 50):
        expected = share * np.exp(-lag / runs)
        assert np.corrcoef(score[:-lag], score[lag:])[0, 1] == pytest.approx(expected, abs=0.05)
