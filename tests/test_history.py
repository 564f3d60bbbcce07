"""The last minutes: what was counted, second by second, on a clock that is told the time."""

from __future__ import annotations

from adaphi.controller.history import SECONDS, History, Second


def test_seconds_hold_what_happened_in_them() -> None:
    """Two answers in the first second; in the second one late, one refused, a switch; the third is empty."""
    history = History()
    history.tick(10.0, 0, None)
    history.answer(1, 0)
    history.answer(1, 0)
    history.tick(10.9, 0, None)
    assert not history.seconds
    history.tick(11.0, 0, 40.0)
    history.answer(1, 1)
    history.refuse(1)
    history.switch()
    history.tick(12.05, 2, 50.0)
    history.tick(13.0, 2, 50.0)
    assert list(history.seconds) == [
        Second(2, 0, 0, 0, 0, 40.0),
        Second(1, 1, 1, 1, 2, 50.0),
        Second(0, 0, 0, 0, 2, 50.0),
    ]
    summary = history.summary()
    assert (summary["answered"], summary["switches"], summary["seconds"]) == (3, 1, 3)
    assert (summary["refused"], summary["late_share"]) == (1, 2 / 4)
    assert history.summary(last=1)["late_share"] is None


def test_a_stall_leaves_empty_seconds_and_the_memory_is_bounded() -> None:
    """Nothing is counted twice when seconds were missed, and only the last five minutes are kept."""
    history = History()
    history.tick(0.0, 0, None)
    history.answer(1, 0)
    history.tick(7.5, 1, None)
    assert len(history.seconds) == 7 and sum(s.answered for s in history.seconds) == 1
    history.tick(8.0, 1, None)
    assert len(history.seconds) == 8
    history.tick(1e6, 1, None)
    assert len(history.seconds) == SECONDS
