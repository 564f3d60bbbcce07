"""Which request runs next, and which is refused: pure, with the time as an argument.

One model runs at a time. Requests wait in the order of their deadlines; one whose deadline has passed
never starts, and one that could only be late even with the quickest variant is refused at once.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from ..errors import Busy, Expired, InvalidRequest, RequestError, Shed
from ..model_zoo.profile import Costs
from .step import Controller, Decision, Reading


@dataclass(slots=True)
class Request:
    """A request as the scheduler sees it; `ticket` is whatever the caller needs to answer it.

    Times in seconds of one monotonic clock. `reading_ms`, if given, is what the policy decides on, as
    it stands; otherwise it decides on the time left. `phi` pins the variant.
    """

    ticket: Any
    arrived_s: float
    deadline_s: float
    reading_ms: float | None = None
    phi: int | None = None
    top: int = 0
    tensor: Any = None

    def slack_ms(self, now_s: float) -> float:
        """Return the time left until the deadline."""
        return (self.deadline_s - now_s) * 1e3


class Limits(NamedTuple):
    """What the budget sources say now: a time budget (ms), the highest φ, the slow-down factor, and more.

    `memory_bytes` is what variants may take together, `resident` which are loaded; `energy_j` is what the
    battery holds, to last for `left_s`. None: not known.
    """

    budget_ms: float | None = None
    max_phi: int | None = None
    slowdown: float = 1.0
    memory_bytes: float | None = None
    resident: frozenset[int] | None = None
    energy_j: float | None = None
    left_s: float | None = None


class Start(NamedTuple):
    """Begin this request with this decision."""

    request: Request
    decision: Decision


class Refusal(NamedTuple):
    """Answer this request with this error."""

    request: Request
    error: RequestError


@dataclass
class Slowdown:
    """How much slower than profiled the models run now: one factor for all variants.

    An exponential average of measured ÷ profiled latency. It rises quickly and falls slowly, for
    being late costs more than being modest. What was seen fades towards 1 with `half_life_s`: a
    device that refuses everything because it once was slow would never learn that it no longer is.
    """

    factor: float = 1.0
    rise: float = 0.4
    fall: float = 0.15
    half_life_s: float = 2.0
    _seen_s: float = 0.0

    def observe(self, measured_ms: float, profiled_ms: float, now_s: float) -> None:
        """Take one run into account."""
        before = self.at(now_s)
        seen = min(max(measured_ms / profiled_ms, 0.5), 50.0)
        weight = self.rise if seen > before else self.fall
        self.factor = before + weight * (seen - before)
        self._seen_s = now_s

    def at(self, now_s: float) -> float:
        """Return the factor to expect at `now_s`."""
        age_s = max(0.0, now_s - self._seen_s)
        return 1.0 + (self.factor - 1.0) * math.exp2(-age_s / self.half_life_s)


@dataclass
class Scheduler:
    """A bounded queue in deadline order in front of one controller.

    `typical_ms` (M,) is what a run mostly takes. A policy plans with a cautious quantile, but only what
    is typically too slow *could only be late* and is refused.
    """

    controller: Controller
    costs: Costs
    max_requests: int = 64
    typical_ms: Sequence[float] = ()
    _heap: list[tuple[float, int, Request]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.typical_ms = self.typical_ms or self.costs.latency_ms.tolist()

    def __len__(self) -> int:
        return len(self._heap)

    def admit(self, request: Request, now_s: float, limits: Limits, busy_ms: float = 0.0) -> None:
        """Queue a request; raise the error that answers it if it cannot be served.

        `busy_ms` is how long the running request will still take. Raises `InvalidRequest` for a
        variant that does not exist, `Busy`, or `Shed` for a miss that can be foreseen.
        """
        if request.phi is not None and not 0 <= request.phi < len(self.costs):
            raise InvalidRequest(f"φ={request.phi}: the ladder has φ = 0 … {len(self.costs) - 1}")
        if len(self._heap) >= self.max_requests:
            raise Busy(f"{len(self._heap)} requests are waiting already")
        quickest = self._quickest_ms(request, limits)
        ahead = sum(1 for deadline, _, _ in self._heap if deadline <= request.deadline_s)
        wait_ms = busy_ms + ahead * min(self.typical_ms) * limits.slowdown
        self._refuse_a_miss(request, now_s, wait_ms, quickest)
        heapq.heappush(self._heap, (request.deadline_s, next(self._order), request))

    def expired(self, now_s: float) -> Iterator[Refusal]:
        """Take out and yield every request whose deadline has passed."""
        while self._heap and self._heap[0][0] <= now_s:
            _, _, request = heapq.heappop(self._heap)
            waited_ms = (now_s - request.arrived_s) * 1e3
            yield Refusal(
                request, Expired(f"the deadline passed after {waited_ms:.1f} ms of waiting")
            )

    def next(self, now_s: float, limits: Limits) -> Start | Refusal | None:
        """Take out the most urgent request: decide on it, or say why it is refused."""
        if not self._heap:
            return None
        for refusal in self.expired(now_s):
            return refusal
        _, _, request = heapq.heappop(self._heap)
        try:
            self._refuse_a_miss(request, now_s, 0.0, self._quickest_ms(request, limits))
        except Shed as error:
            return Refusal(request, error)
        return Start(request, self._decide(request, now_s, limits))

    def clear(self) -> Iterator[Request]:
        """Take out and yield every waiting request, the most urgent first."""
        while self._heap:
            yield heapq.heappop(self._heap)[2]

    def _decide(self, request: Request, now_s: float, limits: Limits) -> Decision:
        if request.phi is not None:
            return self.controller.pin(request.phi)
        more = limits.memory_bytes, limits.resident, limits.energy_j, limits.left_s
        if request.reading_ms is not None:
            return self.controller.step(Reading(request.reading_ms, limits.max_phi, None, *more))
        slack_ms = request.slack_ms(now_s) / limits.slowdown
        budget_ms = slack_ms
        if limits.budget_ms is not None:
            budget_ms = min(slack_ms, limits.budget_ms / limits.slowdown)
        return self.controller.step(Reading(budget_ms, limits.max_phi, slack_ms, *more))

    def _quickest_ms(self, request: Request, limits: Limits) -> float:
        typical = self.typical_ms
        quickest = typical[request.phi] if request.phi is not None else min(typical)
        return quickest * limits.slowdown

    @staticmethod
    def _refuse_a_miss(request: Request, now_s: float, wait_ms: float, quickest_ms: float) -> None:
        slack_ms = request.slack_ms(now_s)
        if wait_ms + quickest_ms > slack_ms:
            raise Shed(
                f"the answer could only be late: {slack_ms:.1f} ms left, "
                f"{wait_ms:.1f} ms to wait and {quickest_ms:.1f} ms to run"
            )
