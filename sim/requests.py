"""The whole daemon, simulated request by request: arrivals, queue, admission, stalls, slow-down.

The scheduler and the controller are the daemon's own; only the clock and the worker are exchanged. The
clock jumps from event to event, and a run takes

    (time drawn for the request and the variant + stall from the active variant) · slow-down when it begins

One model runs at a time, as in the daemon; a batch takes as much longer than its first request alone as the
profile says. What a run took moves the slow-down that is reckoned with, and
budget and cap are read on the sensors' timer. Where the policy is a table, a compiled loop does the same,
bit for bit (sim/request_kernels.py); the loop here is the one to read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..controller.batches import Batches
from ..controller.scheduler import Limits, Refusal, Request, Scheduler, Slowdown, Start
from ..controller.step import Controller
from ..errors import Busy, Expired, InputError, RequestError, Shed
from ..model_zoo.profile import Costs, Profile
from ..policies.choose import choose
from ..policies.frame import Objective
from ..policies.lookup import Lookup, Policy
from ..policies.table import TablePolicy
from ..policies.trace import Trace
from . import request_kernels
from .request_kernels import BUSY, EXPIRED, LATE, OK, SHED
from .service_times import draw
from .workload import Workload

Floats = NDArray[np.float64]

__all__ = ["BUSY", "EXPIRED", "LATE", "OK", "OUTCOMES", "SHED", "Served", "World", "serve"]

OUTCOMES = ("ok", "late", "shed", "expired", "busy")


@dataclass(frozen=True)
class World:
    """What the device does meanwhile; times in seconds of the workload's clock.

    `slowdown` is a trace whose `budget_ms` column is read as the factor by which runs take longer (None: 1).
    `budget` is what the sensors read: its `budget_ms`, and `max_phi` where it has that column. A trace's
    value holds until its next row; its first row holds before, too. The sensors are read every `interval_ms`.
    `told`: the daemon knows the slow-down at once instead of estimating it, as no daemon can. `front_ms` is
    what the daemon itself takes of each run: telling the worker, and hearing from it. A device that rests
    cools down: after r ms a run takes 1 + `rest_share` (1 − 2^(−r / `rest_half_life_ms`)) times as long.
    """

    slowdown: Trace | None = None
    budget: Trace | None = None
    interval_ms: float = 100.0
    told: bool = False
    front_ms: float = 0.0
    rest_share: float = 0.0
    rest_half_life_ms: float = 30.0

    def steps(self) -> request_kernels.World:
        """Return both traces as arrays of (time, value), ready to be walked."""
        slow = self.slowdown or Trace(np.zeros(1), np.ones(1), name="slow-down")
        if (slow.budget_ms <= 0).any():
            row = int((slow.budget_ms <= 0).argmax())
            raise InputError(f"{slow.name}: row {row}: a slow-down is above 0")
        times, limits = np.zeros(1), np.full(1, np.inf)
        cap = None
        if self.budget is not None:
            times, limits = self.budget.time_s, self.budget.budget_ms
            cap = self.budget.columns.get("max_phi")
        if cap is None:
            cap = np.full(len(times), np.inf)
        return request_kernels.World(
            slow.time_s,
            slow.budget_ms,
            times,
            limits,
            cap,
            self.interval_ms / 1e3,
            self.front_ms / 1e3,
            self.rest_share,
            self.rest_half_life_ms / 1e3,
        )


@dataclass(frozen=True)
class Served:
    """What became of N requests.

    `outcome` (N,) is a place in `OUTCOMES`; `phi` (N,) the variant, −1 where none ran; `began_s`, `done_s`
    (N,) when it ran, NaN where it did not. `switches` counts runs by another variant than the one before.
    """

    policy: str
    workload: Workload
    quality: Floats
    outcome: NDArray[np.uint8]
    phi: NDArray[np.int8]
    began_s: Floats
    done_s: Floats
    switches: int

    def __repr__(self) -> str:
        return f"<Served(policy={self.policy!r}, on_time_share={self.on_time_share:.4f})>"

    @property
    def latency_ms(self) -> Floats:
        """Return how long each answer took from its arrival (N,), NaN where there was none."""
        return np.asarray((self.done_s - self.workload.arrived_s) * 1e3)

    @property
    def wait_ms(self) -> Floats:
        """Return how long each request waited until it ran (N,), NaN where it did not."""
        return np.asarray((self.began_s - self.workload.arrived_s) * 1e3)

    @property
    def on_time_share(self) -> float:
        """Return the share of all requests answered on time."""
        return float((self.outcome == OK).mean())

    @property
    def mean_quality(self) -> float:
        """Return the mean quality of on-time answers; 0 where there is none."""
        phi = self.phi[self.outcome == OK]
        return float(self.quality[phi].mean()) if len(phi) else 0.0

    def summary(self) -> dict[str, float | int | str]:
        """Return the figures alone; those of latencies are left out where nothing was answered."""
        ran = np.isfinite(self.done_s)
        shares = {
            f"{name}_share": float((self.outcome == code).mean())
            for code, name in enumerate(OUTCOMES[1:], start=1)
        }
        figures: dict[str, float | int | str] = {
            "policy": self.policy,
            "workload": self.workload.name,
            "requests": len(self.workload),
            "on_time_share": self.on_time_share,
            **shares,
            "mean_quality": self.mean_quality,
            "switches": self.switches,
        }
        if ran.any():
            p50, p95, p99 = np.percentile(self.latency_ms[ran], [50, 95, 99])
            _, first = np.unique(self.began_s[ran], return_index=True)  # of a batch
            busy_s = float((self.done_s - self.began_s)[ran][first].sum())
            span_s = float(np.nanmax(self.done_s) - self.workload.arrived_s[0])
            figures |= {
                "latency_p50_ms": float(p50),
                "latency_p95_ms": float(p95),
                "latency_p99_ms": float(p99),
                "mean_wait_ms": float(self.wait_ms[ran].mean()),
                "utilisation": busy_s / span_s if span_s > 0 else 1.0,
            }
        return figures


def serve(
    workload: Workload,
    profile: Profile,
    policy: str | Path | TablePolicy | Policy | None,
    *,
    world: World | None = None,
    max_requests: int = 64,
    max_batch: int = 1,
    batch_growth: float = 1.0,
    service_ms: Floats | None = None,
    latency: str = "p95",
    objective: Objective | None = None,
    adapt: bool = False,
    seed: int = 0,
    compiled: bool | None = None,
) -> Served:
    """Return what a daemon with this profile and policy would make of a workload.

    `max_requests` may wait at a time. A run may answer `max_batch`, if the policy wants it to; with b it
    takes 1 + `batch_growth` (b − 1) times as long as its first request alone. Any other policy's runs answer
    what by the profile's batches pays. `service_ms` (N, M) is what each request takes with each variant;
    drawn from the profile by `seed` where it is not given. `latency` names the figure that the policy plans
    with, as the daemon's configuration does. `compiled` chooses the loop (None: the compiled one where the
    policy is a table, numba is installed and by the profile no batches pay). Raises `InputError` where the
    parts do not fit together.
    """
    costs = profile.costs(latency)
    decider = choose(
        policy, profile, latency=latency, objective=objective or Objective(), adapt=adapt
    )
    if service_ms is None:
        service_ms = draw(profile, len(workload), seed=seed)
    _check_times(service_ms, len(workload), len(costs))
    plan = (world or World()).steps()
    typical_ms = profile.typical_ms(latency)
    told = world is not None and world.told
    batch_ms = profile.batch_ms()
    together = any(Batches(costs, typical_ms, batch_ms).paying)
    usable = request_kernels.COMPILED and isinstance(decider, Lookup) and not told and not together
    if compiled and not usable:
        why = "the compiled loop knows no batches, and they pay" if together else "no compiled loop"
        raise InputError(f"the policy {decider.name!r} on {profile.ladder!r}: {why} here")
    if usable if compiled is None else compiled:
        assert isinstance(decider, Lookup)
        outcome, phi, began, done, switches = request_kernels.run(
            workload, costs, typical_ms, decider, service_ms, plan, max_requests, Slowdown()
        )
    else:
        daemon = Daemon(
            workload, costs, typical_ms, decider, service_ms, plan, max_requests, batch_ms
        )
        daemon.scheduler.max_batch, daemon.growth, daemon.told = max_batch, batch_growth, told
        daemon.run()
        outcome, phi, began, done = daemon.outcome, daemon.phi, daemon.began_s, daemon.done_s
        switches = daemon.switches
    return Served(decider.name, workload, costs.quality, outcome, phi, began, done, switches)


def _check_times(service_ms: Floats, requests: int, variants: int) -> None:
    if service_ms.shape != (requests, variants):
        raise InputError(
            f"service_ms has shape {service_ms.shape}; expected ({requests}, {variants}): "
            "a row for each request, a column for each variant"
        )
    wrong = ~(np.isfinite(service_ms) & (service_ms > 0))
    if wrong.any():
        row, phi = (int(i) for i in np.argwhere(wrong)[0])
        value = service_ms[row, phi]
        raise InputError(f"service_ms: request {row}, φ={phi}: {value} is not a time above 0")


class Daemon:
    """The daemon's queue and worker under a clock that jumps; `run` fills the arrays of `Served`."""

    def __init__(
        self,
        workload: Workload,
        costs: Costs,
        typical_ms: list[float],
        policy: Policy,
        service_ms: Floats,
        world: request_kernels.World,
        max_requests: int,
        batch_ms: list[dict[int, float]],
    ) -> None:
        requests = len(workload)
        self.workload, self.typical_ms = workload, typical_ms
        controller = Controller(policy, costs)
        controller.reset()
        self.scheduler = Scheduler(controller, costs, max_requests, typical_ms, batch_ms)
        self.filter = Slowdown()
        self.growth, self.told = 1.0, False
        self.limits = Limits()
        self.read_s = -math.inf
        self.service_ms = service_ms
        self.stall_ms: list[list[float]] = costs.stall_ms.tolist()
        self.world = world
        self.slow_at = _follow(world.slow_s, world.slow)
        self.budget_at = _follow(world.budget_s, world.budget_ms)
        self.cap_at = _follow(world.budget_s, world.max_phi)
        self.running: Start | None = None
        self.ends_s = math.inf
        self.rests_since_s = 0.0
        self.switches = 0
        self.outcome = np.zeros(requests, np.uint8)
        self.phi = np.full(requests, -1, np.int8)
        self.began_s = np.full(requests, np.nan)
        self.done_s = np.full(requests, np.nan)

    def run(self) -> None:
        """Let every request arrive, and everything that was begun end."""
        for happen in self.events():
            happen()

    def events(self) -> Iterator[Callable[[], None]]:
        """Yield what happens next, event by event; each is to be called before the next is asked for."""
        arrived = self.workload.arrived_s.tolist()
        deadlines = (self.workload.arrived_s + self.workload.deadline_ms / 1e3).tolist()
        priorities = self.workload.priority.tolist()
        for number, (now_s, deadline_s, rank) in enumerate(
            zip(arrived, deadlines, priorities, strict=True)
        ):
            while self.ends_s <= now_s:
                yield self._finish
            yield partial(self._arrive, Request(number, now_s, deadline_s, priority=rank), now_s)
        while self.running is not None:
            yield self._finish

    def _arrive(self, request: Request, now_s: float) -> None:
        self._read_sensors(now_s)
        for refusal in self.scheduler.expired(now_s):
            self._refuse(refusal)
        try:
            displaced = self.scheduler.admit(request, now_s, self.limits, self._busy_ms(now_s))
        except RequestError as error:
            displaced = Refusal(request, error)
        if displaced is not None:
            self._refuse(displaced)
        self._start_next(now_s)

    def _finish(self) -> None:
        """End the run under way, as the daemon's worker would tell, and begin the next."""
        start, now_s = self.running, self.ends_s
        assert start is not None
        measured_ms = (now_s - self.began_s[start.request.ticket] - self.world.front_s) * 1e3
        self.filter.observe(measured_ms, self._takes_ms(start), now_s)
        self._read_sensors(now_s)
        self.limits = self.limits._replace(slowdown=self._slowdown(now_s))
        for request in start.requests:
            self.done_s[request.ticket] = now_s
            self.outcome[request.ticket] = LATE if now_s > request.deadline_s else OK
        self.running, self.ends_s, self.rests_since_s = None, math.inf, now_s
        self._start_next(now_s)

    def _start_next(self, now_s: float) -> None:
        while self.running is None:
            chosen = self.scheduler.next(now_s, self.limits)
            if chosen is None:
                return
            if isinstance(chosen, Refusal):
                self._refuse(chosen)
            else:
                self._begin(chosen, now_s)

    def _begin(self, start: Start, now_s: float) -> None:
        number, (phi, previous, *_) = start.request.ticket, start.decision
        run_ms = self.service_ms[number, phi] * (self._takes_ms(start) / self.typical_ms[phi])
        run_ms = (run_ms + self.stall_ms[previous][phi]) * self.slow_at(now_s)
        if self.world.rest_share:
            rest_s = max(0.0, now_s - self.rests_since_s)
            fresh = math.exp2(-rest_s / self.world.rest_half_life_s)
            run_ms *= 1 + self.world.rest_share * (1 - fresh)
        self.switches += phi != previous
        self.running, self.ends_s = start, now_s + (run_ms / 1e3 + self.world.front_s)
        for request in start.requests:
            self.phi[request.ticket], self.began_s[request.ticket] = phi, now_s

    def _refuse(self, refusal: Refusal) -> None:
        codes = {Shed: SHED, Expired: EXPIRED, Busy: BUSY}
        self.outcome[refusal.request.ticket] = codes[type(refusal.error)]

    def _read_sensors(self, now_s: float) -> None:
        """Read them as the timer did last, if it did since."""
        tick_s = math.floor(now_s / self.world.interval_s) * self.world.interval_s
        if tick_s <= self.read_s:
            return
        self.read_s = tick_s
        budget_ms, cap = self.budget_at(tick_s), self.cap_at(tick_s)
        self.limits = Limits(
            budget_ms=budget_ms if math.isfinite(budget_ms) else None,
            max_phi=int(cap) if math.isfinite(cap) else None,
            slowdown=self._slowdown(tick_s),
        )

    def _slowdown(self, now_s: float) -> float:
        return self.slow_at(now_s) if self.told else self.filter.at(now_s)

    def _takes_ms(self, start: Start) -> float:
        """Return what a run mostly takes: a planned batch as its growth says, any other by the profile."""
        if self.scheduler.max_batch > 1:
            return self.typical_ms[start.decision.phi] * (1 + self.growth * len(start.joined))
        return self.scheduler.takes_ms(start)

    def _busy_ms(self, now_s: float) -> float:
        if self.running is None:
            return 0.0
        began_s = self.began_s[self.running.request.ticket]
        takes_ms = self._takes_ms(self.running) * self.limits.slowdown
        return float(max(0.0, takes_ms - (now_s - began_s) * 1e3))


def _follow(times: Floats, values: Floats) -> Callable[[float], float]:
    """Return a function of an ascending time: the value that holds then."""
    pairs, place = list(zip(times.tolist(), values.tolist(), strict=True)), 0

    def at(now_s: float) -> float:
        nonlocal place
        while place + 1 < len(pairs) and pairs[place + 1][0] <= now_s:
            place += 1
        return float(pairs[place][1])

    return at
