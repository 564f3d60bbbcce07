"""The pure parts of the controller: one decision, the queue, the slow-down. No clock, no sockets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaphi.controller.scheduler import (
    DEFAULT_PRIORITY,
    Limits,
    Refusal,
    Request,
    Scheduler,
    Slowdown,
    Start,
)
from adaphi.controller.step import Controller, Reading
from adaphi.errors import Busy, Expired, InvalidRequest, NotReady, RequestError, Shed
from adaphi.model_zoo import Profile
from adaphi.model_zoo.profile import Costs
from adaphi.policies import rule

COSTS = Costs(np.array([10.0, 15.0, 24.0]), np.full((3, 3), 0.5), np.array([0.70, 0.76, 0.80]))


@pytest.fixture
def controller(profile: Profile) -> Controller:
    return Controller(rule("greedy", profile.costs()), profile.costs())


@pytest.fixture
def scheduler(controller: Controller, profile: Profile) -> Scheduler:
    return Scheduler(controller, profile.costs(), max_requests=4)


def request(name: str, deadline_s: float, **more: object) -> Request:
    return Request(ticket=name, arrived_s=0.0, deadline_s=deadline_s, **more)  # type: ignore[arg-type]


def test_a_step_makes_its_variant_the_active_one(controller: Controller) -> None:
    """The decision says what it leaves; `reset` begins again."""
    first = controller.step(Reading(100.0))
    assert (first.phi, first.previous, first.switched) == (2, 0, True)
    assert controller.step(Reading(100.0)).switched is False
    controller.reset()
    assert controller.active == 0


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, -math.inf])
def test_a_budget_that_is_none_gets_the_smallest(controller: Controller, budget: float) -> None:
    """Nothing, less than nothing and not a number are all no budget."""
    controller.pin(2)
    assert controller.step(Reading(budget)).phi == 0


def test_caps_and_known_slack_only_make_it_smaller(controller: Controller) -> None:
    """A cap binds; a choice that is sure to be late gives way to the largest that is not."""
    assert controller.step(Reading(100.0, max_phi=1)).phi == 1
    assert controller.step(Reading(100.0, slack_ms=16.0)).phi == 1
    assert controller.step(Reading(100.0, slack_ms=12.0)).phi == 0
    assert controller.step(Reading(100.0, slack_ms=1.0)).phi == 0


def test_the_most_urgent_runs_first(scheduler: Scheduler) -> None:
    """Requests leave in the order of deadlines; equal deadlines in the order of arrival."""
    for name, deadline_s in (("c", 3.0), ("a", 1.0), ("d", 3.0), ("b", 2.0)):
        scheduler.admit(request(name, deadline_s), 0.0, Limits())
    with pytest.raises(Busy, match="4 requests"):
        scheduler.admit(request("e", 9.0), 0.0, Limits())
    order = []
    while (chosen := scheduler.next(0.0, Limits())) is not None:
        assert isinstance(chosen, Start)
        order.append(chosen.request.ticket)
    assert order == ["a", "b", "c", "d"]


def test_an_expired_request_never_starts(scheduler: Scheduler) -> None:
    """Whatever its deadline says has passed is refused when its turn comes."""
    scheduler.admit(request("x", 0.05), 0.0, Limits())
    chosen = scheduler.next(0.06, Limits())
    assert isinstance(chosen, Refusal) and isinstance(chosen.error, Expired)
    assert scheduler.next(0.06, Limits()) is None


def test_a_foreseeable_miss_is_refused_at_once(scheduler: Scheduler) -> None:
    """The quickest variant, the slow-down, what runs and what waits ahead all count."""
    scheduler.admit(request("fits", 0.011), 0.0, Limits())
    for limits, busy_ms, deadline_s in (
        (Limits(), 0.0, 0.009),
        (Limits(slowdown=2.0), 0.0, 0.019),
        (Limits(), 5.0, 0.014),
        (Limits(), 0.0, 0.019),  # one request waits ahead: 10 + 10 ms
    ):
        with pytest.raises(Shed, match="only be late"):
            scheduler.admit(request("x", deadline_s), 0.0, limits, busy_ms)
    with pytest.raises(Shed):
        scheduler.admit(request("pinned", 0.033, phi=2), 0.0, Limits())
    with pytest.raises(InvalidRequest, match="φ=3"):
        scheduler.admit(request("none", 9.0, phi=3), 0.0, Limits())
    assert len(scheduler) == 1


def test_what_is_mostly_in_time_is_not_refused(controller: Controller, profile: Profile) -> None:
    """The policy plans with 10 ms; runs mostly take 8: a request with 9 ms left is tried."""
    scheduler = Scheduler(controller, profile.costs(), typical_ms=[8.0, 12.0, 20.0])
    scheduler.admit(request("x", 0.009), 0.0, Limits())
    chosen = scheduler.next(0.0, Limits())
    assert isinstance(chosen, Start) and chosen.decision.phi == 0
    with pytest.raises(Shed):
        scheduler.admit(request("y", 0.007), 0.0, Limits())


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=8),
    st.sets(st.integers(0, 7)),
)
def test_priority_comes_before_the_deadline(asked: list[tuple[int, int]], gone: set[int]) -> None:
    """Requests leave by priority (0: the default's), then deadline, then arrival; cancelled ones never."""
    scheduler = Scheduler(Controller(rule("greedy", COSTS), COSTS), COSTS)
    tickets = [[number] for number in range(len(asked))]
    for ticket, (priority, deadline_s) in zip(tickets, asked, strict=True):
        new = Request(ticket, 0.0, float(deadline_s), priority=priority)
        assert scheduler.admit(new, 0.0, Limits()) is None
    for number in gone & set(range(len(asked))):
        assert scheduler.cancel(tickets[number]) and not scheduler.cancel(tickets[number])
    left = []
    while (chosen := scheduler.next(0.0, Limits())) is not None:
        left.append(chosen.request.ticket[0])
    waiting = [n for n in range(len(asked)) if n not in gone]
    assert left == sorted(waiting, key=lambda n: (asked[n][0] or DEFAULT_PRIORITY, asked[n][1], n))


def test_who_was_about_to_begin_comes_back_to_a_full_queue() -> None:
    """What a lost worker had not begun is queued again: before all that are less urgent, nobody displaced."""
    scheduler = Scheduler(Controller(rule("greedy", COSTS), COSTS), COSTS, max_requests=2)
    for number in (1, 2):
        scheduler.admit(Request(number, 0.0, float(number)), 0.0, Limits())
    chosen = scheduler.next(0.0, Limits())
    assert isinstance(chosen, Start) and chosen.request.ticket == 1
    scheduler.admit(Request(3, 0.0, 3.0), 0.0, Limits())
    scheduler.put_back(chosen.request)
    assert len(scheduler) == 3 and scheduler.first is chosen.request
    with pytest.raises(Busy):
        scheduler.admit(Request(4, 0.0, 4.0), 0.0, Limits())
    (refusal,) = scheduler.expired(1.5)
    assert refusal.request is chosen.request and len(scheduler) == 2


@given(st.lists(st.floats(0, 150), min_size=1, max_size=8))
def test_quality_goes_before_answers_do(wished_ms: list[float]) -> None:
    """Where the smallest variant would answer all in time, all are answered in time, by whatever variants."""
    scheduler = Scheduler(Controller(rule("greedy", COSTS), COSTS), COSTS, 64)
    smallest_ms = float(COSTS.latency_ms[0])
    deadlines_ms = [
        max(wish, (n + 1) * smallest_ms) + 1e-6 for n, wish in enumerate(sorted(wished_ms))
    ]
    for deadline_ms in deadlines_ms:
        scheduler.admit(request("x", deadline_ms / 1e3), 0.0, Limits())
    now_ms = 0.0
    for deadline_ms in deadlines_ms:
        chosen = scheduler.next(now_ms / 1e3, Limits())
        assert isinstance(chosen, Start)
        now_ms += float(COSTS.latency_ms[chosen.decision.phi])
        assert now_ms <= deadline_ms


def test_who_is_less_urgent_degrades_nobody(scheduler: Scheduler) -> None:
    """A waiting request of the same priority makes the answer smaller; one of a lower priority does not."""
    for priority, phi in ((9, 2), (1, 1)):
        scheduler.admit(request("first", 0.025, priority=1), 0.0, Limits())
        scheduler.admit(request("second", 0.028, priority=priority), 0.0, Limits())
        chosen = scheduler.next(0.0, Limits())
        assert isinstance(chosen, Start) and chosen.decision.phi == phi, priority
        list(scheduler.clear())


def test_a_full_queue_gives_way_to_a_higher_priority(scheduler: Scheduler) -> None:
    """The last of a lower priority is answered `Busy`; among equals the newcomer is."""
    for number in range(4):
        scheduler.admit(request(f"r{number}", 1.0 + number), 0.0, Limits())
    given_up = scheduler.admit(request("urgent", 9.0, priority=1), 0.0, Limits())
    assert given_up is not None and given_up.request.ticket == "r3"
    assert isinstance(given_up.error, Busy) and len(scheduler) == 4
    with pytest.raises(Busy, match="4 requests"):
        scheduler.admit(request("usual", 0.5), 0.0, Limits())
    assert [r.ticket for r in scheduler.clear()] == ["urgent", "r0", "r1", "r2"]


def test_a_low_priority_does_not_hide_that_it_expired(scheduler: Scheduler) -> None:
    """Expired requests are found behind more urgent ones whose deadlines are later."""
    scheduler.admit(request("background", 0.05, priority=9), 0.0, Limits())
    scheduler.admit(request("urgent", 9.0, priority=1), 0.0, Limits())
    assert [refusal.request.ticket for refusal in scheduler.expired(0.06)] == ["background"]
    assert len(scheduler) == 1


@given(
    st.floats(0.5, 0.85),
    st.sets(st.integers(0, 2)),
    st.sampled_from([None, 0, 1, 2]),
    st.floats(1, 100),
)
def test_only_what_is_good_enough_and_loaded_answers(
    floor: float, unloaded: set[int], cap: int | None, deadline_ms: float
) -> None:
    """Either the answer's quality is at least the floor, loaded, under the cap and not sure to be late, or
    the request is refused, with no such variant in time."""
    scheduler = Scheduler(Controller(rule("greedy", COSTS), COSTS), COSTS)
    limits = Limits(max_phi=cap, unloaded=frozenset(unloaded))
    good = {phi for phi, quality in enumerate(COSTS.quality) if quality >= floor} - unloaded
    good -= set() if cap is None else set(range(cap + 1, 3))
    new = Request("x", 0.0, deadline_ms / 1e3, min_quality=floor)
    try:
        scheduler.admit(new, 0.0, limits)
    except (InvalidRequest, NotReady):
        assert not {phi for phi, quality in enumerate(COSTS.quality) if quality >= floor} - unloaded
    except Shed:
        assert all(COSTS.latency_ms[phi] > deadline_ms for phi in good)
    else:
        chosen = scheduler.next(0.0, limits)
        assert isinstance(chosen, Start) and chosen.decision.phi in good


@given(
    st.lists(
        st.tuples(
            st.floats(0, 60),
            st.sampled_from([None, 0, 1, 2, 3]),
            st.sampled_from([None, 0.72, 0.9]),
            st.sampled_from([None, 5.0, 40.0]),
            st.floats(0, 20),
        ),
        max_size=6,
    ),
    st.sampled_from([None, 12.0, 40.0]),
    st.sampled_from([None, 0, 1]),
    st.floats(1, 3),
    st.sets(st.integers(0, 2)),
)
def test_who_finds_nobody_waiting_is_decided_on_as_who_waits_for_nobody(
    requests: list[tuple[float, int | None, float | None, float | None, float]],
    budget_ms: float | None,
    cap: int | None,
    slowdown: float,
    unloaded: set[int],
) -> None:
    """`start` is `admit` and, when the worker is free, `next`: the same decision, or refusal of one kind."""
    limits = Limits(budget_ms, cap, slowdown, unloaded=frozenset(unloaded))
    both = [Scheduler(Controller(rule("greedy", COSTS), COSTS), COSTS) for _ in range(2)]
    for number, (left_ms, phi, floor, reading_ms, busy_ms) in enumerate(requests):
        now_s = float(number)
        found: list[object] = []
        for at_once, scheduler in zip((True, False), both, strict=True):
            new = Request("x", now_s, now_s + left_ms / 1e3, reading_ms, phi, min_quality=floor)
            try:
                if at_once:
                    chosen: Start | Refusal | None = scheduler.start(new, now_s, limits, busy_ms)
                else:
                    scheduler.admit(new, now_s, limits, busy_ms)
                    chosen = scheduler.next(now_s + busy_ms / 1e3, limits)
            except RequestError as error:
                found.append(type(error))
            else:
                assert isinstance(chosen, Start) and chosen.request is new
                found.append(chosen.decision)
        assert found[0] == found[1]
    assert len({scheduler.arrivals.at(9.0, 9.0) for scheduler in both}) == 1


def test_a_pinned_variant_that_cannot_answer_is_refused(scheduler: Scheduler) -> None:
    """One that is unloaded, or not good enough; what the whole ladder lacks is said at once."""
    with pytest.raises(NotReady, match="unloaded"):
        scheduler.admit(request("x", 9.0, phi=1), 0.0, Limits(unloaded=frozenset({1})))
    with pytest.raises(InvalidRequest, match="φ=0 has"):
        scheduler.admit(request("x", 9.0, phi=0, min_quality=0.75), 0.0, Limits())
    with pytest.raises(InvalidRequest, match="best variant has"):
        scheduler.admit(request("x", 9.0, min_quality=0.81), 0.0, Limits())


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=50))
def test_the_slow_down_stays_among_what_was_seen(ratios: list[float]) -> None:
    """It never leaves the range of 1 and the measured ratios, and without news it fades to 1."""
    slowdown = Slowdown()
    for number, ratio in enumerate(ratios):
        slowdown.observe(ratio * 10, 10.0, number * 0.01)
    seen = [1.0, *(min(max(r, 0.5), 50.0) for r in ratios)]
    now_s = len(ratios) * 0.01
    assert min(seen) - 1e-9 <= slowdown.at(now_s) <= max(seen) + 1e-9
    assert slowdown.at(now_s + 100) == pytest.approx(1.0, abs=1e-9)
    halved = slowdown.at(now_s + slowdown.half_life_s) - 1
    assert halved == pytest.approx((slowdown.at(now_s) - 1) / 2)
