"""What a policy for queues is asked, and answers: the form that `Controller.step` knows."""

from __future__ import annotations

from typing import NamedTuple


class Queued(NamedTuple):
    """The queue when the worker is free.

    `slack_ms` the most urgent request has left, in wall time; `waiting` counts it. `rate_per_s` is how often
    requests arrive, `slowdown` by which factor runs take longer than profiled.
    """

    slack_ms: float
    waiting: int = 1
    rate_per_s: float = 0.0
    slowdown: float = 1.0


class QueuePolicy:
    """A policy that sees the whole queue, and may serve several requests in one run."""

    name = "queue"
    window_s = 2.0
    """Over which time it wants the arrival rate counted."""

    def plan(self, queued: Queued, active: int) -> tuple[int, int]:
        """Return (φ, batch size) to serve next, given the active φ."""
        raise NotImplementedError

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for one request alone that has `reading_ms` left."""
        return self.plan(Queued(reading_ms), active)[0]

    def reset(self) -> None:
        """Do nothing: what it goes by is in the queue."""
