"""The pure parts of the controller: one decision, the queue, the slow-down. No clock, no sockets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaphi.controller.scheduler import Limits, Refusal, Request, Scheduler, Slowdown, Start
from adaphi.controller.step import Controller, Reading
from adaphi.errors import Busy, Expired, InvalidRequest, Shed
from adaphi.model_zoo import Profile
from adaphi.policies import rule


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
