"""What the worker has been told to run: pure, with the time as an argument.

The first of these runs; those behind it were told ahead, so that the worker need not wait for the front
between two runs, and the front hears of several short ones at once. Nobody overtakes what is told, so nothing
more is told to a worker that still has work for more than `AHEAD_MS`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import islice

from .channel import MOST_TOLD
from .scheduler import Request, Start

AHEAD_MS = 2.0
"""A worker that has so much work is told no more. An event loop's timers may be a millisecond late."""


@dataclass(slots=True)
class Run:
    """A run that mostly takes `takes_ms`, and those of its requests that nobody has answered yet.

    Behind one that is `alone` nothing is told before it is over. `began_s` is when it was told or, behind
    others, when the one before it was over.
    """

    key: int
    start: Start
    began_s: float
    takes_ms: float
    alone: bool
    waiting: list[Request]


class Runs:
    """The runs that are not over, in the order in which the worker does them."""

    def __init__(self) -> None:
        self.told: deque[Run] = deque()
        """The runs themselves; to be read only."""
        self._keys = 0

    @property
    def first(self) -> Run | None:
        """Return the one that is running, None where nothing is."""
        return self.told[0] if self.told else None

    @property
    def unanswered(self) -> int:
        """Return how many requests are being answered."""
        return sum(len(run.waiting) for run in self.told)

    def begin(self, start: Start, now_s: float, takes_ms: float, *, alone: bool) -> Run:
        """Note that the worker is told this run, and return it."""
        self._keys += 1
        run = Run(self._keys, start, now_s, takes_ms, alone, list(start.requests))
        self.told.append(run)
        return run

    def end(self, key: int, now_s: float) -> Run | None:
        """Take out and return the first, which is over; None if that does not have this key."""
        told = self.told
        if not told or told[0].key != key:
            return None
        run = told.popleft()
        if told:
            told[0].began_s = now_s
        return run

    def clear(self) -> list[Run]:
        """Take out all: nobody does them any more."""
        told = list(self.told)
        self.told.clear()
        return told

    def room_in_ms(self, now_s: float, slowdown: float) -> float:
        """Return how long it is until the worker may be told another run; inf: not before one is over."""
        told = self.told
        if len(told) >= MOST_TOLD or (told and told[-1].alone):
            return math.inf
        running_ms, behind_ms = self._left_ms(now_s, slowdown)
        return max(0.0, running_ms + behind_ms - AHEAD_MS) if behind_ms < AHEAD_MS else math.inf

    def busy_ms(self, now_s: float, slowdown: float) -> float:
        """Return how long what has been told will still take."""
        return sum(self._left_ms(now_s, slowdown))

    def _left_ms(self, now_s: float, slowdown: float) -> tuple[float, float]:
        """Return what the first and those behind it will still take; whom nobody waits for does not begin."""
        told = self.told
        if not told:
            return 0.0, 0.0
        first = told[0]
        running_ms = first.takes_ms * slowdown - (now_s - first.began_s) * 1e3
        behind_ms = 0.0
        for run in islice(told, 1, None):
            if run.waiting:
                behind_ms += run.takes_ms
        return (running_ms if running_ms > 0.0 else 0.0), behind_ms * slowdown

    def forget(self, ticket: object) -> Run | None:
        """Note that nobody waits for this ticket's answer any more; return its run if it is in one."""
        for run in self.told:
            for request in run.waiting:
                if request.ticket is ticket:
                    run.waiting.remove(request)
                    return run
        return None
