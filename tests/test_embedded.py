"""The embedded model: the same decisions as the daemon's, with an injected clock and no models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adaphi import AdaptiveModel
from adaphi.errors import InvalidRequest
from adaphi.model_zoo import Ladder, Profile, Variant
from adaphi.model_zoo.pool import WarmPool


class Clock:
    """A clock that stands still until it is told otherwise."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TimedRunner:
    """Moves the clock by what the profile promises, times a slow-down."""

    weights_bytes = 1
    needs_warm_up = True
    returns_memory = False
    example = np.zeros((2, 2, 3), np.uint8)

    def __init__(self, clock: Clock, run_ms: float) -> None:
        self.clock = clock
        self.run_ms = run_ms
        self.slowdown = 1.0

    def __call__(self, x: Any) -> Any:
        self.clock.now_s += self.run_ms * self.slowdown / 1e3
        return np.zeros(3)

    def labels(self, output: Any, top: int) -> tuple[tuple[str, float], ...]:
        return (("cat", 1.0),)[:top]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def model(profile: Profile, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AdaptiveModel:
    monkeypatch.setattr("adaphi.model_zoo.pool.time.perf_counter", clock)
    runners = [TimedRunner(clock, v.latency_ms.p95 or 0) for v in profile.variants]

    class Backend:
        name = "timed"

        def prepare(self) -> None:
            pass

        def build(self, variant: Variant) -> TimedRunner:
            return runners[variant.phi]

    ladder = Ladder("three", tuple(Variant(v.phi, v.name, v.quality) for v in profile.variants))
    return AdaptiveModel(WarmPool(ladder, Backend()), profile, "greedy", clock=clock)


def slow(model: AdaptiveModel, factor: float) -> None:
    for phi in model.pool.resident:
        model.pool.runner(phi).slowdown = factor  # type: ignore[attr-defined]


PICTURE = np.zeros((8, 8, 3), np.uint8)


def test_the_time_left_chooses_the_variant(model: AdaptiveModel) -> None:
    """10, 15 and 24 ms: each deadline is answered by the largest that fits, on time, by name."""
    for deadline_ms, phi in ((12, 0), (16, 1), (30, 2), (11, 0)):
        answer = model(PICTURE, deadline_ms=deadline_ms, top=1)
        assert (answer.phi, answer.late, answer.name) == (phi, False, f"v{phi}")
        assert answer.top == (("cat", 1.0),)
    assert model(PICTURE, deadline_ms=5).late is True


def test_a_slower_device_is_noticed(model: AdaptiveModel) -> None:
    """When every run takes twice as long, the same deadline soon gets a smaller variant, in time."""
    slow(model, 2.0)
    answers = [model(PICTURE, deadline_ms=32) for _ in range(20)]
    assert answers[0].phi == 2 and answers[0].late
    assert all(a.phi == 1 and not a.late for a in answers[-5:])


def test_in_a_frame_loop_the_last_budget_is_read(model: AdaptiveModel) -> None:
    """With `reading_ms` the policy decides on it alone, whatever this deadline is."""
    assert model(PICTURE, deadline_ms=40, reading_ms=12).phi == 0
    answer = model(PICTURE, deadline_ms=12, reading_ms=40)
    assert answer.phi == 2 and answer.late
    assert model(PICTURE, deadline_ms=40, reading_ms=40, max_phi=1).phi == 1


@pytest.mark.parametrize("picture", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), "nosuch.jpg"])
def test_what_is_no_picture_is_refused(model: AdaptiveModel, picture: Any) -> None:
    """One clear error, and the next picture is answered."""
    with pytest.raises(InvalidRequest):
        model(picture, deadline_ms=40)
    with pytest.raises(InvalidRequest, match="deadline_ms"):
        model(PICTURE, deadline_ms=float("nan"))
    assert not model(PICTURE, deadline_ms=40).late
