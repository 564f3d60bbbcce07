"""The queue's problem and its policies: closed forms, another solver, the simulation, the published hole."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import linprog

from adaphi.controller.scheduler import ArrivalRate, Limits, Request, Scheduler, Start
from adaphi.controller.step import Controller, Reading
from adaphi.errors import InputError, PolicyError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import files
from adaphi.policies.queue import QueueCosts, QueueMDP, next_oldest
from adaphi.policies.queue_table import QueuePlan, QueueTable
from adaphi.policies.queued import Queued, QueuePolicy
from adaphi.policies.ramsis import MOST_WAITING, SLACK_BINS, Ramsis
from adaphi.policies.table import TablePolicy
from adaphi.sim import Trace
from adaphi.sim.requests import World, serve
from adaphi.sim.workload import Workload

Floats = NDArray[np.float64]
RUN_MS = 10.0


def one(run_ms: float = RUN_MS) -> QueueCosts:
    """Return a single variant that always takes as long, worth 1."""
    return QueueCosts(np.array([[run_ms]]), np.zeros((1, 1)), np.ones(1))


def lost(costs: QueueCosts, rate: float, deadline_ms: float, waiting: int, bins: int) -> float:
    """Return the share of requests without an answer on time: all that a gain in ones leaves."""
    mdp = QueueMDP(
        costs, deadline_ms=deadline_ms, worlds=[[1.0, rate]], max_waiting=waiting, slack_bins=bins,
        miss_cost=0.0, switch_cost=0.0,
    )  # fmt: skip
    solution = mdp.solve()
    assert solution.converged
    return 1 - solution.gain / rate


@pytest.mark.parametrize(
    ("rate", "deadline_ms"), [(50, 10), (50, 30), (80, 60), (120, 55), (200, 40)]
)
def test_impatience_in_a_queue_of_constant_runs(rate: float, deadline_ms: float) -> None:
    """M/D/1 whose requests leave unless served in time: lost are (1−ρ)(1−W) ÷ (1−ρ(1−W)), above ρ = 1, too.

    W is Erlang's distribution of the wait at the longest wait there is; at W(0) it is Erlang's B.
    """
    per_ms, longest_ms = rate / 1e3, deadline_ms - RUN_MS
    load = per_ms * RUN_MS
    begun = [longest_ms - k * RUN_MS for k in range(int(longest_ms // RUN_MS) + 1)]
    terms = [
        (-per_ms * x) ** k / math.factorial(k) * math.exp(per_ms * x) for k, x in enumerate(begun)
    ]
    late = 1 - (1 - load) * sum(terms)
    truth = (1 - load) * late / (1 - load * late)
    assert lost(one(), rate, deadline_ms, 16, 200) == pytest.approx(truth, abs=1e-3)


@pytest.mark.parametrize(("rate", "waiting"), [(60, 2), (90, 4), (150, 3)])
def test_a_full_queue_of_constant_runs(rate: float, waiting: int) -> None:
    """M/D/1/K: nobody is late but some find no place: 1 − 1 ÷ (π₀ + ρ), π the queue that a run leaves."""
    load = rate * RUN_MS / 1e3
    places = waiting + 1
    moves = np.zeros((places, places))  # how many are left behind, from one run's end to the next
    for left in range(places):
        for came in range(200):
            moves[left, min(max(left, 1) - 1 + came, places - 1)] += stats.poisson.pmf(came, load)
    values, vectors = np.linalg.eig(moves.T)
    stationary = np.real(vectors[:, np.argmax(values.real)])
    empty = stationary[0] / stationary.sum()
    assert lost(one(), rate, 500.0, waiting, 100) == pytest.approx(1 - 1 / (empty + load), abs=1e-4)


def test_the_next_to_be_the_oldest() -> None:
    """Of n − 1 who came uniformly since the oldest, the b-th: its mean slack is s + w b ÷ n on any grid."""
    maps = next_oldest(6, 20, 2)
    grid = np.linspace(0, 1, 21)
    assert (maps[:3] == 0).all()
    for n in range(3, 7):
        assert maps[n].min() > -1e-9
        assert maps[n].sum(axis=1) == pytest.approx(1)
        assert maps[n] @ grid == pytest.approx(grid + (1 - grid) * 2 / n)
        assert abs(np.tril(maps[n], -1)).max() < 1e-9  # a younger one has more slack


two = QueueCosts(
    np.array([[10.0], [18.0]]), np.array([[0.0, 3.0], [2.0, 0.0]]), np.array([0.7, 0.9]), growth=0.5
)
WORLDS = [[1.0, 30.0], [1.6, 60.0]]
MOVES = np.array([[0.8, 0.2], [0.3, 0.7]])


def by_hand(costs: QueueCosts, steps: int, most: int, deadline: float) -> float:
    """Return the best gain a second of a tiny instance as a linear program, built state by state with scipy.

    min g such that g τ + h(x) ≥ r + Σ p h for every state and decision; a request that is refused at once is
    a decision that takes no time.
    """
    grid = np.linspace(0, deadline, steps + 1)
    states = [
        (e, n, s, m)
        for e in range(2)
        for n in range(most + 1)
        for s in (range(steps + 1) if n else [steps])
        for m in range(2)
    ]
    place = {state: i for i, state in enumerate(states)}

    def reachable(n: int) -> Any:
        return range(steps + 1) if n else [steps]

    rows, limits = [], []

    @cache
    def spread(a: int, b: int, low: float, width: float, after: float = 0.0) -> Floats:
        """Integrate the hats over low + width · U, U ~ Beta(a, b), on the grid; less `after`, once more."""
        u = stats.beta(a, b).ppf((np.arange(20_000) + 0.5) / 20_000)
        chances = hats(np.maximum(low + width * u, 0.0)).mean(axis=0)
        return np.asarray(chances @ hats(np.maximum(grid - after, 0.0)) if after else chances)

    def hats(values: Floats) -> Floats:
        return np.maximum(1 - abs(values[:, None] - grid) * steps / deadline, 0)

    def add(state: Any, time: float, pay: float, nexts: list[tuple[Any, float]]) -> None:
        row = np.zeros(len(states) + 1)
        row[-1] -= time
        row[place[state]] -= 1
        for target, chance in nexts:
            row[place[target]] += chance
        rows.append(row)
        limits.append(-pay)

    for e, n, s, m in states:
        slow, rate = WORLDS[e][0], WORLDS[e][1] / 1e3
        if n == 0:
            add((e, n, s, m), 1 / rate, 0, [((f, 1, steps, m), MOVES[e, f]) for f in range(2)])
            continue
        age = deadline - grid[s]
        if grid[s] < slow * 10.0 - 1e-9:
            law = spread(1, n - 1, grid[s], age) if n > 1 else np.eye(steps + 1)[-1]
            add((e, n, s, m), 0, -0.4, [((e, n - 1, t, m), law[t]) for t in reachable(n - 1)])
            continue
        for a, b in itertools.product(range(2), range(1, min(n, 2) + 1)):
            d = slow * (costs.run_ms[a, 0] * (1 + costs.growth * (b - 1)) + costs.stall_ms[m, a])
            on_time = (d <= grid + 1e-9).astype(float)
            good = on_time[s] + (spread(1, n - 1, grid[s], age) @ on_time if b == 2 else 0.0)
            came, left = stats.poisson(rate * d).pmf(np.arange(40)), n - b
            over = np.maximum(left + np.arange(40) - most, 0) @ came
            pay = costs.quality[a] * good - 0.4 * (b - good + over) - 0.05 * (a != m)
            nexts = []
            for k in range(40):
                if left:
                    law = spread(b, left, grid[s], age, d)
                elif k:
                    law = spread(1, min(k, most), deadline - d, d)
                else:
                    law = np.eye(steps + 1)[-1]
                now = min(left + k, most)
                nexts += [
                    ((f, now, t, a), law[t] * came[k] * MOVES[e, f])
                    for f in range(2)
                    for t in reachable(now)
                ]
            add((e, n, s, m), d, pay, nexts)
    goal = np.zeros(len(states) + 1)
    goal[-1] = 1
    solved = linprog(goal, np.array(rows), np.array(limits), bounds=(None, None))
    assert solved.status == 0
    return float(solved.fun) * 1e3


def test_another_solver_finds_the_same_gain() -> None:
    """Two worlds, two variants, batches, stalls, prices: the bounds hold a linear program's optimum."""
    gain = by_hand(two, 4, 3, 60.0)
    mdp = QueueMDP(
        two, deadline_ms=60.0, worlds=WORLDS, transition=MOVES, max_waiting=3, slack_bins=4,
        batches=(1, 2), miss_cost=0.4, switch_cost=0.05,
    )  # fmt: skip
    solution = mdp.solve(1e-7)
    assert solution.converged
    assert solution.bounds[0] - 2e-3 <= gain <= solution.bounds[1] + 2e-3
    assert solution.bounds[1] - solution.bounds[0] < 1e-5 * gain
    own = mdp.evaluate(solution.policy, 1e-7)
    assert own.gain == pytest.approx(solution.gain, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 0.37, 1000.0])
def test_only_ratios_of_time_matter(scale: float) -> None:
    """All milliseconds times c, all rates over c: the same decisions, a gain of one c-th."""
    small = {"max_waiting": 5, "slack_bins": 20, "batches": (1, 3)}
    mdp = QueueMDP(two, deadline_ms=90.0, worlds=[[1.2, 40.0]], **small)
    slower = replace(two, run_ms=scale * two.run_ms, stall_ms=scale * two.stall_ms)
    other = QueueMDP(slower, deadline_ms=scale * 90.0, worlds=[[1.2, 40.0 / scale]], **small)
    first, second = mdp.solve(), other.solve()
    assert np.array_equal(first.policy, second.policy)
    assert second.gain * scale == pytest.approx(first.gain, rel=1e-9)


def test_a_slow_down_is_a_shorter_deadline_and_a_higher_rate() -> None:
    """Factor ξ with deadline D and rate λ decides as factor 1 with D/ξ and λξ."""
    small = {"max_waiting": 5, "slack_bins": 20}
    slow = QueueMDP(two, deadline_ms=90.0, worlds=[[1.5, 40.0]], **small).solve()
    same = QueueMDP(two, deadline_ms=60.0, worlds=[[1.0, 60.0]], **small).solve()
    assert np.array_equal(slow.policy, same.policy)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"worlds": [[1.0, 0.0]]}, "rate above 0"),
        ({"worlds": WORLDS}, "2 worlds, a transition of 1"),
        ({"worlds": WORLDS, "transition": np.eye(2)}, "class"),
        ({"worlds": [[1.0, 9.0]], "deadline_ms": -1.0}, "deadline_ms is -1"),
        ({"worlds": [[1.0, 9.0]], "batches": (2,)}, "1 among them"),
    ],
)
def test_what_is_no_problem_is_refused(given: dict[str, Any], complaint: str) -> None:
    """One line that names the part."""
    with pytest.raises(ValueError, match=complaint):
        QueueMDP(two, **{"deadline_ms": 90.0, **given})


# ---------------------------------------------------------------------------- policies

LADDER = ((0.730, 24.0), (0.777, 47.0), (0.806, 78.0))


def ladder(scale: float = 1.0) -> Profile:
    """Return three variants whose runs vary."""
    return Profile(
        ladder="varied",
        variants=tuple(
            VariantProfile(
                phi, f"v{phi}", quality, Latency(*(scale * ms * x for x in (1.05, 1.0, 1.35, 1.6)))
            )
            for phi, (quality, ms) in enumerate(LADDER)
        ),
        stall_ms=((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)),
    )


@pytest.fixture(scope="module")
def plan() -> QueuePlan:
    return QueuePlan.solve(
        ladder(), deadline_ms=150.0, rates_per_s=[10.0], slowdowns=(1.0, 1.5, 2.0), slack_bins=50
    )


def test_a_plan_comes_back_from_its_file(plan: QueuePlan, tmp_path: Path) -> None:
    """Bit for bit, by the reader of all policy files; a changed byte, another ladder or use: refused."""
    path = tmp_path / "queue.npz"
    plan.save(path)
    again = files.load(path)
    assert isinstance(again, QueuePlan)
    assert again.to_bytes() == plan.to_bytes()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with pytest.raises(PolicyError):
        files.from_bytes(bytes(content))
    with pytest.raises(PolicyError, match="plans a queue"):
        TablePolicy.load(path)
    other = Profile(ladder="x", variants=ladder().variants[:1], stall_ms=((0.0,),))
    with pytest.raises(PolicyError, match="adaphi solve"):
        plan.bind(other)


def test_a_slower_device_is_a_slow_down(plan: QueuePlan) -> None:
    """Bound to a device half as fast, a plan decides as on its own at twice the slow-down."""
    here, there = plan.bind(ladder()), plan.bind(ladder(2.0))
    for slack in np.linspace(0, 160, 33):
        for waiting in (1, 3, 9, 40):
            for rate in (1.0, 9.0, 500.0):
                twice = here.plan(Queued(slack, waiting, rate, 2.0), 1)
                assert there.plan(Queued(slack, waiting, rate, 1.0), 1) == twice


def test_what_a_plan_promises_comes_true_in_the_simulation() -> None:
    """The on-time share that the certificate's problem gives is the simulated one, within four errors and
    the half percent that the daemon's own refusals and the filter of the slow-down make.
    """
    profile, rate = ladder(), 14.0
    plan = QueuePlan.solve(profile, deadline_ms=150.0, rates_per_s=[rate], slowdowns=(0.99, 1.0))
    from adaphi.policies.queue_table import queue_costs

    near = int(np.searchsorted(plan.rates_per_s, rate * (1 - 1e-9)))
    parts = {"deadline_ms": 150.0, "worlds": [[1.0, rate]], "max_waiting": plan.table.shape[2] - 1}
    on_time = QueueMDP(
        replace(queue_costs(profile), quality=np.ones(3)), **parts, miss_cost=0.0, switch_cost=0.0
    )
    policy = plan.table[1, near].astype(np.int64)[None]
    policy[policy == 255] = -1
    promised = on_time.evaluate(policy).gain / rate

    class Fixed(QueueTable):
        def plan(self, queued: Queued, active: int) -> tuple[int, int]:
            return super().plan(queued._replace(rate_per_s=rate * (1 - 1e-9), slowdown=1.0), active)

    workload = Workload.poisson(rate, 20_000, 150.0, seed=4)
    served = serve(workload, profile, Fixed(plan), world=World(told=True))
    error = math.sqrt(promised * (1 - promised) / len(workload))
    assert served.on_time_share == pytest.approx(promised, abs=4 * error + 0.005)


def test_ramsis_moves_as_arrivals_do() -> None:
    """Its chances of queue and slack after a run are those of drawn Poisson arrivals."""
    rule = Ramsis(ladder().costs(), 150.0, 0.6)
    moves, overflow = rule._moves(30.0)
    assert moves.sum(axis=(2, 3)) + overflow == pytest.approx(1)
    rng, n = np.random.default_rng(0), 3
    takes = LADDER[1][1] * 1.35 * (1 + 0.6 * (n - 1)) / 150.0
    drawn = np.zeros((MOST_WAITING, SLACK_BINS + 1))
    for _ in range(20_000):
        count = rng.poisson(30.0 * 0.15 * takes)
        first = rng.random(count).min() * takes if count else None
        slack = 1.0 if first is None else max(0.0, 1 - takes + first)
        drawn[max(count, 1) - 1, int(slack * SLACK_BINS)] += 1 / 20_000
    assert abs(drawn.sum(axis=1) - moves[1, n - 1].sum(axis=1)).max() < 0.015
    assert abs(np.cumsum(drawn.sum(axis=0)) - np.cumsum(moves[1, n - 1].sum(axis=0))).max() < 0.015


def test_ramsis_takes_only_what_fits_else_the_fastest() -> None:
    """And of its loads the smallest that is not below the rate; a deadline that is none is refused."""
    rule = Ramsis(ladder().costs(), 150.0, 0.6)
    table = rule.solve(10.0)
    latency = np.array([ms for _, ms in LADDER]) * 1.35
    for n in (1, 2, 5, 32):
        need = latency * (1 + 0.6 * (n - 1))
        for slack in range(SLACK_BINS + 1):
            chosen = int(table[n - 1, slack])
            fits = need <= slack * 1.5 + 1e-9
            assert fits[chosen] if fits.any() else chosen == 0
    assert rule.plan(Queued(150.0, 1, 9.5), 0) == (int(rule.solve(10.0)[0, 100]), 1)
    assert rule.plan(Queued(40.0, 7, 10.0), 0) == (int(table[6, 26]), 7)
    with pytest.raises(InputError, match="deadline above 0"):
        Ramsis(ladder().costs(), 0.0)


class Regenerated(QueuePolicy):
    """Ramsis solved anew for the factor that it is told."""

    name, window_s = "regenerated", Ramsis.window_s

    def __init__(self) -> None:
        self.rules: dict[float, Ramsis] = {}

    def plan(self, queued: Queued, active: int) -> tuple[int, int]:
        """Return what the rule for this factor decides."""
        costs = ladder(queued.slowdown).costs()
        rule = self.rules.setdefault(queued.slowdown, Ramsis(costs, 150.0))
        return rule.plan(queued, active)


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_the_hole_of_planning_blind_to_the_slow_down(plan: QueuePlan, factor: float) -> None:
    """Runs longer than profiled: late with ramsis, hardly with the plan, as little as if solved for it."""
    workload = Workload.poisson(10.0, 4000, 150.0, seed=1)
    slow = Trace([0.0, 1.0], [factor, factor])

    def late(policy: QueuePolicy, told: bool = False) -> float:
        world = World(slow, told=told)
        return 1 - serve(workload, ladder(), policy, world=world, max_batch=32).on_time_share

    ours, theirs = late(plan.bind(ladder())), late(Ramsis(ladder().costs(), 150.0))
    assert theirs > 3 * ours
    assert ours <= 1.5 * late(Regenerated(), told=True)


# ---------------------------------------------------------------------------- scheduler, controller


class Whole(QueuePolicy):
    """Serves all that wait, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Queued] = []

    def plan(self, queued: Queued, active: int) -> tuple[int, int]:
        """Return φ = 2 and everything."""
        self.asked.append(queued)
        return 2, queued.waiting


def test_a_run_takes_along_who_may_be_answered_by_it(profile: Profile) -> None:
    """Up to the worker's most, in order; a pinned one and those behind it, and another rank, stay."""
    costs = profile.costs()
    scheduler = Scheduler(Controller(Whole(), costs), costs, max_batch=4)
    for number in range(6):
        request = Request(number, 0.0, 1.0 + number, phi=0 if number == 3 else None)
        scheduler.admit(request, 0.0, Limits())
    start = scheduler.next(0.0, Limits())
    assert isinstance(start, Start)
    assert [r.ticket for r in start.requests] == [0, 1, 2]
    assert [scheduler.next(0.0, Limits()).request.ticket for _ in range(2)] == [3, 4]  # type: ignore[union-attr]
    ranked = Scheduler(Controller(Whole(), costs), costs, max_batch=4)
    for number in range(4):
        ranked.admit(Request(number, 0.0, 1.0, priority=1 + number // 2), 0.0, Limits())
    assert [len(ranked.next(0.0, Limits()).requests) for _ in range(2)] == [2, 2]  # type: ignore[union-attr]
    alone = Scheduler(Controller(Whole(), costs), costs)
    for number in range(3):
        alone.admit(Request(number, 0.0, 1.0), 0.0, Limits())
    first = alone.next(0.0, Limits())
    assert isinstance(first, Start) and first.joined == () and first.decision.batch == 3


def test_a_policy_for_queues_sees_the_queue(profile: Profile) -> None:
    """Wall slack, how many wait, arrivals of its window and the slow-down; limits still bind its answer."""
    costs, whole = profile.costs(), Whole()
    scheduler = Scheduler(Controller(whole, costs), costs)
    for number in range(4):
        scheduler.admit(Request(number, 0.5 * number, 4.0), 0.5 * number, Limits())
    limits = Limits(slowdown=2.0, budget_ms=32.0)
    start = scheduler.next(3.0, limits)
    assert isinstance(start, Start)
    (asked,) = whole.asked
    assert asked.slack_ms == pytest.approx(1000.0)
    assert (asked.waiting, asked.rate_per_s, asked.slowdown) == (4, 0.5, 2.0)
    assert start.decision.phi == 1  # 24 ms do not fit 32 ÷ 2
    controller = Controller(whole, costs)
    assert controller.step(Reading(100.0, 0, 100.0, waiting=1)).phi == 0


def test_arrivals_are_counted_over_a_window() -> None:
    """Those of the window over its length; of very many the last ones over the time they took."""
    arrivals = ArrivalRate()
    for number in range(40):
        arrivals.observe(number / 10)
    assert arrivals.at(3.95, 0.5) == pytest.approx(10.0)
    assert arrivals.at(3.95, 2.0) == pytest.approx(10.0)
    assert arrivals.at(60.0, 2.0) == 0.0
    for number in range(1000):
        arrivals.observe(100 + number / 1000)
    assert arrivals.at(101.0, 2.0) == pytest.approx(1000, rel=0.01)
