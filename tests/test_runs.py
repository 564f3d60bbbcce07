"""What the worker has been told: never too much, in order, and known at every instant."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaphi.controller.runs import AHEAD_MS, MOST_TOLD, Runs
from adaphi.controller.scheduler import Request, Start
from adaphi.controller.step import Decision


def start(*tickets: object) -> Start:
    first, *joined = (Request(ticket, 0.0, 10.0) for ticket in tickets)
    return Start(first, Decision(0, 0, None), tuple(joined))


@given(
    st.lists(
        st.one_of(st.just("over"), st.tuples(st.floats(0.01, 20.0), st.booleans())), max_size=80
    ),
    st.floats(1.0, 4.0),
)
def test_no_more_is_told_than_is_soon_over(events: list[object], slowdown: float) -> None:
    """Whatever comes: what is told is told to a worker with less than the limit to do, and few runs; one
    that has more is asked again as soon as it has less."""
    runs, takes_ms, now_s = Runs(), list[tuple[float, bool]](), 0.0
    for number, event in enumerate(events):
        now_s += 1e-4
        if event == "over":
            assert runs.end(-1, now_s) is None
            if runs.first is not None:
                assert runs.end(runs.first.key, now_s) is not None
                takes_ms.pop(0)
        else:
            takes, alone = event  # type: ignore[misc]
            wait_ms = runs.room_in_ms(now_s, slowdown)
            if 0.0 < wait_ms < math.inf:
                now_s += wait_ms / 1e3
                assert runs.room_in_ms(now_s, slowdown) < 1e-9
            if wait_ms < math.inf:
                assert runs.busy_ms(now_s, slowdown) < AHEAD_MS + 1e-9
                runs.begin(start(number), now_s, takes, alone=alone)
                takes_ms.append((takes, alone))
        assert [run.takes_ms for run in runs.told] == [takes for takes, _ in takes_ms]
        assert not any(alone for _, alone in takes_ms[:-1])
        assert len(takes_ms) <= MOST_TOLD


def test_what_is_told_is_over_when_all_of_it_is() -> None:
    """The first has run for a while, the others have not begun; none takes less than nothing."""
    runs = Runs()
    assert runs.busy_ms(5.0, 1.0) == 0.0 and runs.room_in_ms(5.0, 50.0) == 0.0
    for takes_ms in (0.5, 0.2, 0.1):
        runs.begin(start("x"), 1.0, takes_ms, alone=False)
    assert runs.busy_ms(1.0001, 2.0) == pytest.approx(0.9 + 0.4 + 0.2)
    assert runs.busy_ms(9.0, 2.0) == pytest.approx(0.4 + 0.2)
    first = runs.first
    assert first is not None and runs.end(first.key, 1.0006) is first
    assert runs.busy_ms(1.0006, 1.0) == pytest.approx(0.3)  # the second began then
    assert [run.takes_ms for run in runs.clear()] == [0.2, 0.1] and runs.first is None


def test_who_goes_away_is_forgotten_wherever_he_is() -> None:
    """In the run that runs, in one told ahead, joined to another; the others are still to be answered."""
    runs, tickets = Runs(), [object() for _ in range(4)]
    one = runs.begin(start(tickets[0]), 0.0, 0.1, alone=False)
    two = runs.begin(start(*tickets[1:]), 0.0, 0.1, alone=False)
    assert runs.unanswered == 4
    assert runs.forget(tickets[2]) is two and runs.forget(tickets[2]) is None
    assert runs.forget(tickets[0]) is one and runs.unanswered == 2
    assert [request.ticket for request in two.waiting] == [tickets[1], tickets[3]]
