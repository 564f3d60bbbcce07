"""Which request runs next, and which is refused: pure, with the time as an argument.

One model runs at a time. Requests wait in the order of their priorities and, within one, of their
deadlines; one whose deadline has passed or whose client went away never starts, and one that could only
be late even with the quickest variant that may answer it is refused at once. A run takes no longer than those
that wait behind it can bear: quality goes before answers do. Where the profile says that it pays, the next
in the queue are joined to it and answered by the same run.
"""

from __future__ import annotations

import math
from bisect import bisect, insort
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice, takewhile
from typing import Any, NamedTuple

from ..errors import Busy, Expired, InvalidRequest, NotReady, RequestError, Shed
from ..model_zoo.profile import Costs
from .batches import Batches
from .step import Controller, Decision, Reading, blur_share

DEFAULT_PRIORITY = 5
"""The priority of a request that has none: 1 to 4 are served before it, 6 and more after it."""


@dataclass(slots=True, eq=False)
class Request:
    """A request as the scheduler sees it; `ticket` is whatever the caller needs to answer it.

    Times in seconds of one monotonic clock. `reading_ms`, if given, is what the policy decides on, as
    it stands; otherwise it decides on the time left. `phi` pins the variant; only variants of at least
    `min_quality` may answer. `priority` 1 is served first; 0 stands for `DEFAULT_PRIORITY`. `blur_px` is how
    far the picture moved while it was taken, in its own pixels; None: not known.
    """

    ticket: Any
    arrived_s: float
    deadline_s: float
    reading_ms: float | None = None
    phi: int | None = None
    top: int = 0
    tensor: Any = None
    priority: int = 0
    min_quality: float | None = None
    blur_px: float | None = None

    def slack_ms(self, now_s: float) -> float:
        """Return the time left until the deadline."""
        return (self.deadline_s - now_s) * 1e3

    @property
    def rank(self) -> int:
        """Return the priority that counts: the smallest goes first."""
        return self.priority or DEFAULT_PRIORITY

    @property
    def blur_share(self) -> float | None:
        """Return the blur as a share of the picture's shorter side, None where either is not known."""
        return blur_share(self.blur_px, self.tensor)

    def is_like(self, other: Request) -> bool:
        """Say whether both bring tensors of the same dtype and shape, or none."""
        one, two = self.tensor, other.tensor
        if one is None or two is None:
            return one is two
        return bool(one.dtype == two.dtype and one.shape == two.shape)


class Limits(NamedTuple):
    """What the budget sources say now: a time budget (ms), the highest φ, the slow-down factor, and more.

    `memory_bytes` is what variants may take together, `resident` which are loaded; `energy_j` is what the
    battery holds, to last for `left_s`. None: not known. `unloaded` variants may not answer.
    """

    budget_ms: float | None = None
    max_phi: int | None = None
    slowdown: float = 1.0
    memory_bytes: float | None = None
    resident: frozenset[int] | None = None
    energy_j: float | None = None
    left_s: float | None = None
    unloaded: frozenset[int] = frozenset()


class Start(NamedTuple):
    """Begin this request with this decision; those `joined` to it are answered by the same run."""

    request: Request
    decision: Decision
    joined: tuple[Request, ...] = ()

    @property
    def requests(self) -> tuple[Request, ...]:
        """Return all that are to be answered by the run, the most urgent first."""
        return (self.request, *self.joined)


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


class ArrivalRate:
    """How often requests arrive: those of a window, counted; of `MOST` at most the last are kept."""

    MOST = 256

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=self.MOST)

    def observe(self, now_s: float) -> None:
        """Take an arrival into account."""
        self._times.append(now_s)

    def at(self, now_s: float, window_s: float) -> float:
        """Return the arrivals a second of the last `window_s` seconds."""
        times = self._times
        count = len(times) - bisect(times, now_s - window_s)
        if count == self.MOST:
            window_s = min(window_s, max(now_s - times[0], 1e-9))
        return count / window_s


Place = tuple[int, float, int, Request]
"""Where a request waits: priority, deadline, order of arrival; the last tells any two apart."""


@dataclass
class Scheduler:
    """A bounded queue in the order of priority and deadline in front of one controller.

    `typical_ms` (M,) is what a run mostly takes. A policy plans with a cautious quantile, but only what
    is typically too slow *could only be late* and is refused. `batch_ms` (M,) is what batches take by their
    size, for none: no batches; the tensors of one have at most `batch_bytes`. Batches that the policy itself
    plans have at most `max_batch` requests.
    """

    controller: Controller
    costs: Costs
    max_requests: int = 64
    typical_ms: Sequence[float] = ()
    batch_ms: Sequence[Mapping[int, float]] = ()
    batch_bytes: float = math.inf
    max_batch: int = 1
    arrivals: ArrivalRate = field(default_factory=ArrivalRate)
    _queue: list[Place] = field(default_factory=list)  # ascending: the first runs next
    _order: Iterator[int] = field(default_factory=count)
    _soonest_s: float = math.inf  # no deadline in the queue is before it

    def __post_init__(self) -> None:
        self.typical_ms = self.typical_ms or self.costs.latency_ms.tolist()
        self.batches = Batches(self.costs, self.typical_ms, self.batch_ms)
        self._quality: list[float] = self.costs.quality.tolist()
        self._only = [frozenset({phi}) for phi in range(len(self.costs))]
        self._best_quality, self._least_ms = max(self._quality), min(self.typical_ms)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def first(self) -> Request | None:
        """Return the most urgent request that waits, None if nobody does."""
        return self._queue[0][-1] if self._queue else None

    def admit(
        self, request: Request, now_s: float, limits: Limits, busy_ms: float = 0.0
    ) -> Refusal | None:
        """Queue a request; raise the error that answers it if it cannot be served.

        `busy_ms` is how long the running request will still take. Where the queue is full, its last
        request gives way to one of a higher priority, and is returned with the error that answers it.
        Raises `InvalidRequest` for a variant or a quality that does not exist, `NotReady` for one that
        is unloaded, `Busy`, or `Shed` for a miss that can be foreseen.
        """
        self._check(request)
        self.arrivals.observe(now_s)
        admitted = self._admitted(request, limits)
        rank = request.rank
        place: Place = (rank, request.deadline_s, next(self._order), request)
        full = len(self._queue) >= self.max_requests
        if full and self._queue[-1][0] <= rank:
            raise Busy(f"{len(self._queue)} requests are waiting already")
        wait_ms = busy_ms
        if self._queue:
            wait_ms += bisect(self._queue, place) * self.batches.least_ms * limits.slowdown
        self._refuse_a_miss(request, now_s, wait_ms, self._quickest_ms(admitted, limits))
        last = self._queue.pop()[-1] if full else None
        self._insert(place)
        if last is None:
            return None
        return Refusal(last, Busy("a request of higher priority took the last place"))

    def put_back(self, request: Request) -> None:
        """Queue again one that was to begin and has not: it was admitted, and so even a full queue has it."""
        self._insert((request.rank, request.deadline_s, next(self._order), request))

    def _insert(self, place: Place) -> None:
        insort(self._queue, place)
        self._soonest_s = min(self._soonest_s, place[1])

    def start(self, request: Request, now_s: float, limits: Limits, busy_ms: float = 0.0) -> Start:
        """Decide on a request that finds nobody waiting and begins in `busy_ms`: `admit` and `next` in one.

        Raises what `admit` raises, but for `Busy`.
        """
        self._check(request)
        self.arrivals.observe(now_s)
        admitted = self._admitted(request, limits)
        self._refuse_a_miss(request, now_s, busy_ms, self._quickest_ms(admitted, limits))
        begins_s = now_s + busy_ms / 1e3
        return Start(request, self._decide(request, begins_s, limits, admitted))

    def expired(self, now_s: float) -> Iterator[Refusal]:
        """Take out and yield every request whose deadline has passed."""
        if now_s < self._soonest_s:
            return
        for place in [p for p in self._queue if p[1] <= now_s]:
            self._queue.remove(place)
            request = place[-1]
            waited_ms = (now_s - request.arrived_s) * 1e3
            yield Refusal(
                request, Expired(f"the deadline passed after {waited_ms:.1f} ms of waiting")
            )
        self._soonest_s = min((place[1] for place in self._queue), default=math.inf)

    def next(self, now_s: float, limits: Limits) -> Start | Refusal | None:
        """Take out the most urgent request, and whom it is joined by: decide, or say why it is refused."""
        if not self._queue:
            return None
        for refusal in self.expired(now_s):
            return refusal
        request = self._queue.pop(0)[-1]
        try:
            admitted = self._admitted(request, limits)
            self._refuse_a_miss(request, now_s, 0.0, self._quickest_ms(admitted, limits))
        except RequestError as error:
            return Refusal(request, error)
        decision = self._decide(request, now_s, limits, admitted)
        if decision.batch > 1 and self.max_batch > 1:
            return Start(request, decision, self._join_planned(request, decision))
        return Start(request, decision, self._join(request, decision, now_s, limits))

    def takes_ms(self, start: Start) -> float:
        """Return what this run mostly takes by the profile."""
        return self.batches.takes_ms(start.decision.phi, 1 + len(start.joined))

    def _join_planned(self, request: Request, decision: Decision) -> tuple[Request, ...]:
        """Take out as many as the policy planned, as far as its variant may answer them."""
        count = 0
        for place in self._queue[: min(decision.batch, self.max_batch) - 1]:
            other = place[-1]
            free = other.phi is None and other.reading_ms is None and not other.min_quality
            if not free or place[0] != request.rank:
                break
            count += 1
        joined, self._queue[:count] = self._queue[:count], []
        return tuple(place[-1] for place in joined)

    def cancel(self, ticket: Any) -> bool:
        """Take out the request with this very ticket; return False if it is not waiting."""
        for number, (*_, request) in enumerate(self._queue):
            if request.ticket is ticket:
                del self._queue[number]
                return True
        return False

    def clear(self) -> Iterator[Request]:
        """Take out and yield every waiting request, the most urgent first."""
        while self._queue:
            yield self._queue.pop(0)[-1]

    def _decide(
        self, request: Request, now_s: float, limits: Limits, admitted: frozenset[int] | None
    ) -> Decision:
        if request.phi is not None:
            return self.controller.pin(request.phi)
        more = limits.memory_bytes, limits.resident, limits.energy_j, limits.left_s, admitted
        if request.reading_ms is not None:
            reading = Reading(request.reading_ms, limits.max_phi, None, *more)
            return self.controller.step(reading._replace(blur_share=request.blur_share))
        slack_ms, window_s = request.slack_ms(now_s), self.controller.queue_window_s
        if window_s is None:  # a policy that does not see who waits is given what they leave
            slack_ms = min(slack_ms, self._room_ms(request, now_s, limits))
        slack_ms /= limits.slowdown
        budget_ms = slack_ms
        if limits.budget_ms is not None:
            budget_ms = min(slack_ms, limits.budget_ms / limits.slowdown)
        reading = Reading(budget_ms, limits.max_phi, slack_ms, *more, blur_share=request.blur_share)
        if window_s is not None:
            reading = reading._replace(
                waiting=len(self._queue) + 1,
                rate_per_s=self.arrivals.at(now_s, window_s),
                slowdown=limits.slowdown,
            )
        return self.controller.step(reading)

    def _join(
        self, request: Request, decision: Decision, now_s: float, limits: Limits
    ) -> tuple[Request, ...]:
        """Take out the next requests that are to be answered by the run of `request`, and return them.

        Of the sizes that are on time for `request`, within its budget and cost no answer behind it, the one
        that costs each request least. Whom it takes has the same priority and so no earlier a deadline.
        """
        phi, waiting = decision.phi, len(self._queue)
        paying = self.batches.paying[phi]
        if not paying or not waiting or request.reading_ms is not None:
            return ()
        if limits.resident is not None and phi not in limits.resident:
            return ()  # a load comes first, and nobody knows how long it takes
        budget_ms = math.inf if limits.budget_ms is None else limits.budget_ms
        time_ms = min(request.slack_ms(now_s), budget_ms)
        likely = [size for size in paying if size - 1 <= waiting]
        fitting = sum(1 for _ in self._fitting(request, phi, max(likely, default=1) - 1))

        def is_on_time(size: int) -> bool:
            need_ms = self.batches.need_ms(decision.previous, phi, size)
            run_ms = need_ms * limits.slowdown
            gains = self._costs_no_answer(request, now_s, limits, size - 1, run_ms)
            return run_ms <= time_ms and gains

        sizes = (size for size in likely if size - 1 <= fitting and is_on_time(size))
        joined = next(sizes, 1) - 1
        taken, self._queue = self._queue[:joined], self._queue[joined:]
        return tuple(place[-1] for place in taken)

    def _fitting(self, request: Request, phi: int, most: int) -> Iterator[Request]:
        """Yield the next requests, `most` at most, that a run of `phi` for `request` can answer as well.

        The first that does not fit ends it: nobody is overtaken. One that wishes for a variant fits another's
        where both are the same; one that is decided on by its own reading runs alone.
        """
        if request.tensor is not None:
            most = int(min(most, self.batch_bytes / max(request.tensor.nbytes, 1) - 1))

        def fits(other: Request) -> bool:
            wished = other.phi == phi or (other.phi is None and request.phi is None)
            good = other.min_quality is None or self._quality[phi] >= other.min_quality
            alike = other.rank == request.rank and other.is_like(request)
            return wished and good and alike and other.reading_ms is None

        return takewhile(fits, (place[-1] for place in islice(self._queue, max(0, most))))

    def _costs_no_answer(
        self, request: Request, now_s: float, limits: Limits, joined: int, run_ms: float
    ) -> bool:
        """Say whether a run of `run_ms` for the next `joined`, too, leaves as many on time as without them.

        Counted are those of the same priority, answered one by one and as quickly as may be: all after
        `request`, or those behind after that run. That none of them may get late would be asking too much: in
        an overload one nearly always does, and there would be no batches when they are needed most.
        """
        typical, slowdown = self.typical_ms, limits.slowdown
        quickest_ms = self._least_ms * slowdown
        alone_ms, alone = quickest_ms, 1
        after_ms, together = run_ms, 1 + joined
        for number, (rank, deadline_s, _, other) in enumerate(self._queue):
            if rank != request.rank:
                break
            slack_ms = (deadline_s - now_s) * 1e3
            its_ms = quickest_ms if other.phi is None else typical[other.phi] * slowdown
            if alone_ms + its_ms <= slack_ms:
                alone_ms += its_ms
                alone += 1
            if number >= joined and after_ms + its_ms <= slack_ms:
                after_ms += its_ms
                together += 1
        return together >= alone

    def _room_ms(self, request: Request, now_s: float, limits: Limits) -> float:
        """Return what a run may take so that none of the same priority that waits behind it gets late.

        Those are taken to be answered as quickly as they may be; whom even that would not save has no say.
        """
        rank, typical = request.rank, self.typical_ms
        quickest_ms = self._least_ms * limits.slowdown
        room_ms, work_ms = math.inf, 0.0
        for other_rank, deadline_s, _, other in self._queue:
            if other_rank != rank:
                break
            run_ms = quickest_ms if other.phi is None else typical[other.phi] * limits.slowdown
            left_ms = (deadline_s - now_s) * 1e3 - work_ms - run_ms
            if left_ms >= quickest_ms:
                room_ms = min(room_ms, left_ms)
                work_ms += run_ms
        return room_ms

    def _check(self, request: Request) -> None:
        """Raise `InvalidRequest` for what no variant of the ladder can answer, whatever the limits."""
        phi, floor = request.phi, request.min_quality
        if phi is not None and not 0 <= phi < len(self.costs):
            raise InvalidRequest(f"φ={phi}: the ladder has φ = 0 … {len(self.costs) - 1}")
        if floor is None:
            return
        best = self._best_quality if phi is None else self._quality[phi]
        if floor > best:
            which = "the ladder's best variant" if phi is None else f"φ={phi}"
            raise InvalidRequest(f"min_quality is {floor:g}, and {which} has {best:g}")

    def _admitted(self, request: Request, limits: Limits) -> frozenset[int] | None:
        """Return the variants that may answer now, None for all; raise the error if there is none."""
        phi, floor = request.phi, request.min_quality
        if floor is None and not limits.unloaded:
            return None if phi is None else self._only[phi]
        good = (
            {a for a, quality in enumerate(self._quality) if floor is None or quality >= floor}
            if phi is None
            else {phi}
        )
        loaded = good - limits.unloaded
        if not loaded:
            raise NotReady("every variant that may answer this request is unloaded")
        if phi is None and limits.max_phi is not None:
            loaded = {a for a in loaded if a <= limits.max_phi}
        if not loaded:
            raise Shed(f"the budget admits φ ≤ {limits.max_phi}, of which none may answer this")
        return frozenset(loaded)

    def _quickest_ms(self, admitted: frozenset[int] | None, limits: Limits) -> float:
        if admitted is None:
            return self._least_ms * limits.slowdown
        return min(map(self.typical_ms.__getitem__, admitted)) * limits.slowdown

    @staticmethod
    def _refuse_a_miss(request: Request, now_s: float, wait_ms: float, quickest_ms: float) -> None:
        slack_ms = request.slack_ms(now_s)
        if wait_ms + quickest_ms > slack_ms:
            raise Shed(
                f"the answer could only be late: {slack_ms:.1f} ms left, "
                f"{wait_ms:.1f} ms to wait and {quickest_ms:.1f} ms to run"
            )
