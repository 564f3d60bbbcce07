"""Requests in, answers out: the part of the daemon that exists once the ladder's profile is known.

Every request is answered exactly once: with an output, or with the error that says why not. A request
whose worker is lost or hangs is answered at the latest `GRACE_S` after its deadline.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from ..config import Config
from ..errors import Draining, Expired, NotReady, RequestError, TooLarge, WorkerLost, from_code
from ..model_zoo.profile import Profile
from ..policies.battery import BatteryTable
from ..policies.lookup import Policy
from ..policies.resident import ResidentTable
from . import flight, worker
from .books import Books
from .budget import BudgetMonitor
from .flight import FlightRecorder
from .metrics import Metrics, outcome_of
from .protocol import AnswerHeader, InferHeader, code_of
from .residency import Residency
from .rollout import Rollout, chooser
from .runs import Run, Runs
from .scheduler import Limits, Refusal, Request, Scheduler, Slowdown, Start
from .sensors import Sensor
from .shrinking import Shrinking
from .step import Controller, Decision
from .supervisor import Supervisor

log = logging.getLogger("adaphi")

GRACE_S = 0.5
"""How long after its deadline a running request may still be answered with an output."""
SOON_S = 1e-3
"""A timer that is so little late is not worth another."""

Reply = Callable[[AnswerHeader | RequestError, list[Any]], None]
"""Carries an answer with the frames of its output, or an error, back to whoever asked."""


@dataclass(slots=True, eq=False)
class Ticket:
    """Who asked: the request's id, and the way back."""

    id: int
    reply: Reply


class Service:
    """Schedules requests onto the worker and answers them; `ready` says whether a worker is warm."""

    def __init__(
        self,
        config: Config,
        profile: Profile,
        policy: Policy,
        sensors: list[Sensor],
        metrics: Metrics,
        supervisor: Supervisor,
    ) -> None:
        costs = profile.costs(config.latency)
        self.config = config
        self._max_bytes = config.zmq.max_message_bytes
        self.profile = profile
        self.metrics = metrics
        self.supervisor = supervisor
        self.scheduler = Scheduler(
            Controller(policy, costs),
            costs,
            config.queue.max_requests,
            profile.typical_ms(config.latency),
            profile.batch_ms(),
            batch_bytes=self._max_bytes,
        )
        self.rollout = Rollout(self.scheduler.controller, chooser(config, profile))
        self.monitor = BudgetMonitor(
            sensors, profile, config.worker.memory_limit_bytes, config.budget.stale_s
        )
        self.shrinking = Shrinking([v.memory_bytes or 0 for v in profile.variants])
        self._ordered: frozenset[int] | None = None  # what the worker was told to keep
        self.slowdown = Slowdown()
        self.limits = Limits()
        self.runs = Runs()
        self.resident: frozenset[int] = frozenset()
        self._kept: tuple[int, ...] = ()  # the same, as the worker said it
        self.ready = False
        self.warm_again_s = 0.0  # when a lost worker's successor can be expected to be warm
        self.flight: FlightRecorder | None = None
        self.residency = Residency(
            [v.name for v in profile.variants], supervisor.send, self._update_limits
        )
        self.books = Books(profile, metrics)
        self._loop = asyncio.get_running_loop()
        self._wakes: asyncio.TimerHandle | None = None
        self._now = time.monotonic  # as the loop, without its detour
        self._battery: BatteryTable | None = None  # the last policy that made one last
        self._battery_until_s = 0.0
        metrics.start(profile)
        self._begin(policy)
        metrics.queue_depth.set_function(lambda: len(self.scheduler))
        metrics.in_flight.set_function(lambda: self.runs.unanswered)
        metrics.show_active(0)

    def _begin(self, policy: Policy) -> None:
        """Show that it is `policy` that decides from now on, and let it have what it plans with."""
        self.metrics.show_policy(policy.name)
        self.metrics.show_certificate(self.scheduler.controller.certificate)
        self.residency.follow(isinstance(policy, ResidentTable))
        if isinstance(policy, BatteryTable) and policy is not self._battery:
            self._battery, self._battery_until_s = policy, self._now() + policy.plan.horizon_s
        if self.flight is not None:
            self.flight.follow(policy.name)

    def take(self, config: Config) -> None:
        """Use a configuration that differs from the present one in what may change while running."""
        self.config = config
        self.scheduler.max_requests = config.queue.max_requests

    @property
    def idle(self) -> bool:
        """Say whether nothing is running and nothing waits."""
        return not self.runs.told and not self.scheduler.first

    # ---------------------------------------------------------------------------- requests

    def submit(
        self, ticket: Ticket, infer: InferHeader, tensor: Any, arrived_s: float | None = None
    ) -> None:
        """Queue a request that arrived at `arrived_s` (None: now), or raise the error that answers it."""
        try:
            self._submit(ticket, infer, tensor, arrived_s)
        except RequestError as error:
            self._keep_refusal(error)
            raise

    def _submit(
        self, ticket: Ticket, infer: InferHeader, tensor: Any, arrived_s: float | None
    ) -> None:
        if tensor.nbytes > self._max_bytes:
            raise TooLarge(f"a tensor has at most {self._max_bytes} bytes (zmq.max_message_mb)")
        now_s = self._now()
        arrived_s = now_s if arrived_s is None else arrived_s
        deadline_ms = infer.deadline_ms
        if deadline_ms is None:
            deadline_ms = self.config.budget.deadline_ms
        request = Request(
            ticket=ticket,
            arrived_s=arrived_s,
            deadline_s=arrived_s + deadline_ms / 1e3,
            reading_ms=infer.reading_ms,
            phi=infer.phi,
            top=infer.top,
            tensor=tensor,
            priority=infer.priority,
            min_quality=infer.min_quality,
            blur_px=infer.blur_px,
        )
        if not self.ready and request.deadline_s < max(self.warm_again_s, now_s + 0.5):
            wait_s = max(0.0, self.warm_again_s - now_s)
            raise NotReady(f"the models are not warm; expected in {wait_s:.0f} s")
        busy_ms = self.runs.busy_ms(now_s, self.limits.slowdown) if self.runs.told else 0.0
        if self.ready and not self.scheduler.first and self._has_room_for(request):
            began = time.perf_counter()
            start = self.scheduler.start(request, now_s, self.limits, busy_ms)
            self.books.decided(time.perf_counter() - began)
            self._run(start, now_s)
            return
        displaced = self.scheduler.admit(request, now_s, self.limits, busy_ms)
        if displaced is not None:
            self.refuse(displaced.request.ticket, displaced.error)
        self._start_next()

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request whose client went away: it never begins; if it runs, nobody gets its answer."""
        if self.scheduler.cancel(ticket):
            self.metrics.count("cancelled")
        elif run := self.runs.forget(ticket):
            self.metrics.count("cancelled", run.start.decision.phi)
            if not run.waiting:
                self.supervisor.withdraw(run.key)
                self._start_next()

    def _start_next(self) -> None:
        """Tell the worker its next runs, if it has room and there are any; prepare the one after them."""
        while self.ready and (first := self.scheduler.first) and self._has_room_for(first):
            began = time.perf_counter()
            now_s = self._now()
            begins_s = now_s + self.runs.busy_ms(now_s, self.limits.slowdown) / 1e3
            try:
                chosen = self.scheduler.next(begins_s, self.limits)
            except Exception as error:  # of a policy: it costs the request that it was asked about
                log.exception("a request could not be decided on")
                self.scheduler.cancel(first.ticket)
                chosen = Refusal(first, RequestError(f"internal error: {type(error).__name__}"))
            if chosen is None:
                return
            self.books.decided(time.perf_counter() - began)
            if isinstance(chosen, Refusal):
                self.refuse(chosen.request.ticket, chosen.error)
            else:
                self._run(chosen, now_s)
        if (first := self.scheduler.first) and self.runs.told:
            self.supervisor.stage(first.tensor)  # it is copied while the worker works
            self._start_in_time(first)

    def _start_in_time(self, first: Request) -> None:
        """Look again when the worker may be told another run: before it has nothing to do.

        Where more than time has to pass, the end of a run comes first, and that looks, too.
        """
        if first.reading_ms is not None or not self.supervisor.has_room:
            return
        wait_s = self.runs.room_in_ms(self._now(), self.limits.slowdown) / 1e3
        if self._wakes is not None:
            if self._loop.time() + wait_s > self._wakes.when() - SOON_S:
                return
            self._wakes.cancel()  # it was for a run that took longer
            self._wakes = None
        if wait_s < math.inf:
            self._wakes = self._loop.call_later(wait_s, self._wake)

    def _wake(self) -> None:
        self._wakes = None
        self._start_next()

    def _has_room_for(self, request: Request) -> bool:
        """Say whether the worker is to be told a run for this request now: it has none, or little to do.

        Who brings a reading to decide on waits until all are over: the decisions of a trace that is played
        are made one by one, each with the outcome of the one before.
        """
        return not self.runs.told or (
            request.reading_ms is None
            and self.runs.room_in_ms(self._now(), self.limits.slowdown) <= 0.0
            and self.supervisor.has_room
        )

    def _run(self, start: Start, now_s: float) -> None:
        requests, decision = start.requests, start.decision
        run = self.runs.begin(
            start, now_s, self.scheduler.takes_ms(start), alone=self._is_alone(start)
        )
        tensors = [request.tensor for request in requests]
        self.supervisor.run(self._order(run), tensors, ahead=len(self.runs.told) > 1)
        if decision.switched:
            self.metrics.show_switch(decision.previous, decision.phi)
            self.books.history.switch()
        if start.joined:
            self.metrics.count_batch(decision.phi, len(requests))
        if self.scheduler.controller.learns:
            self._loop.call_soon(self.scheduler.controller.prepare)  # while the worker works

    def _is_alone(self, start: Start) -> bool:
        """Say whether nothing is told behind a run: it may load, its outcome counts, or others may join."""
        decision = start.decision
        return (
            decision.phi not in self.resident
            or decision.keep is not None
            or start.request.reading_ms is not None
            or bool(self.scheduler.batches.paying[decision.phi])
        )

    def _order(self, told: Run) -> worker.Run:
        """Return what the worker is told: a batch has its size before the shape, and its own labels."""
        start = told.start
        request, decision = start.request, start.decision
        tensor = request.tensor
        keep = None if decision.keep is None else tuple(sorted(decision.keep))
        run = worker.Run(
            told.key,
            decision.phi,
            request.top,
            code_of(tensor.dtype),
            tensor.shape,
            keep,
            begin_by_s=request.deadline_s,
        )
        if start.joined:
            run.begin_by_s = max(r.deadline_s for r in start.requests)
            run.top, run.tops = 0, tuple(r.top for r in start.requests)
            run.shape = (len(run.tops), *tensor.shape)
        return run

    # ---------------------------------------------------------------------------- the worker

    def on_up(self, resident: tuple[int, ...]) -> None:
        """A worker is warm: serve."""
        self._ordered = None
        self.on_kept(resident)
        self.ready = True
        self.metrics.ready.set(1)
        self.residency.on_up()
        self.read_sensors()
        self._start_next()

    def on_done(self, done: worker.Done, tensor: list[Any]) -> None:
        """A run is over: answer it, start the next, and only then put down what happened.

        Where the worker would have nothing to do, but somebody waits, it gets its next run first: all who
        wait gain what one loses.
        """
        now_s = self._now()
        run = self._end(done.key, now_s)
        if run is None:
            return
        start, phi = run.start, run.start.decision.phi
        answers = [
            (request, self._header(run, request, answer, now_s), output)
            for request, answer, output in _each(start, done, tensor)
            if request in run.waiting
        ]
        next_first = not self.runs.told and self.scheduler.first is not None
        if not next_first:
            _reply(answers)
        if not done.cold:
            self.slowdown.observe(done.inference_ms, run.takes_ms, now_s)
        self.on_kept(done.resident)
        for request, header, _ in answers:
            self._report(run, request, not header.late)
        try:
            self._start_next()
        finally:
            if next_first:
                _reply(answers)
        size = len(start.requests)
        self.books.ran(phi, size, done.inference_ms, [header for _, header, _ in answers])
        if self.flight is not None:
            # What a request alone would have taken, a batch does not tell.
            alone_ms = done.inference_ms if size == 1 else None
            for request, header, _ in answers:
                outcome = "late" if header.late else "ok"
                self._record(run, request, outcome, alone_ms, header.latency_ms)

    def on_kept(self, resident: tuple[int, ...]) -> None:
        """Note what is resident now."""
        if resident != self._kept:
            self._kept, self.resident = resident, frozenset(resident)
            self.metrics.show_resident(self.resident)
        self._update_limits()

    def on_failed(self, failed: worker.Failed) -> None:
        """A run raised, or did not begin: answer with its error and start the next."""
        if run := self._end(failed.key, self._now()):
            self._fail(run, from_code(failed.code, failed.message))
            self._start_next()

    def on_worker_lost(self, reason: str, warm_again_s: float) -> None:
        """The worker is gone: answer what it was doing; what it had not begun waits for its successor."""
        self.ready = False
        self.warm_again_s = warm_again_s
        self.metrics.ready.set(0)
        self.metrics.restarts.inc()
        self.residency.on_worker_lost()
        self.supervisor.forget_runs()
        for run in self.runs.clear():
            if not self.supervisor.has_begun(run.key):
                for request in run.waiting:
                    self.scheduler.put_back(request)
            else:
                lost = WorkerLost(f"the worker died while running this request ({reason})")
                self._fail(run, lost)

    def _end(self, key: int, now_s: float) -> Run | None:
        """Take out the run that is over and its tensors; None if the worker does not do this one."""
        run = self.runs.end(key, now_s)
        if run is not None:
            self.supervisor.end_run()
        return run

    # ---------------------------------------------------------------------------- on the timer

    def sweep(self) -> None:
        """Answer waiting requests that expired, and a running one whose worker hangs."""
        self.books.settle()
        now_s = self._now()
        for refusal in self.scheduler.expired(now_s):
            self.refuse(refusal.request.ticket, refusal.error)
        hangs = f"no answer within {GRACE_S} s after the deadline"
        for run in self.runs.told:
            if overdue := [r for r in run.waiting if now_s > r.deadline_s + GRACE_S]:
                begun = run is self.runs.first
                self._fail(run, WorkerLost(hangs) if begun else Expired(hangs), overdue)
        running = self.runs.first
        if running is not None and now_s - running.began_s > self.config.worker.hang_s:
            self.supervisor.kill(f"no answer for {now_s - running.began_s:.0f} s")
            running.began_s = now_s  # its death frees the place

    def read_sensors(self) -> None:
        """Read what the device can spend."""
        now_s = self._now()
        self.monitor.update(now_s, own_tasks=1 + bool(self.runs.told))
        self._update_limits()
        self._fit_into_memory()
        self.metrics.show_budget(self.monitor, self.limits, now_s)
        self.books.history.tick(now_s, self.scheduler.controller.active, self.limits.budget_ms)
        self._keep(flight.READING)

    def abandon(self) -> None:
        """Answer everything that is left: the daemon is about to end."""
        error = Draining("the daemon is shutting down")
        for request in self.scheduler.clear():
            self.refuse(request.ticket, error)
        for run in self.runs.told:
            self._fail(run, error)

    def _update_limits(self) -> None:
        now_s = self._now()
        sensed = self.monitor.limits(self.resident)
        max_phi = sensed.max_phi
        if self.shrinking.evicted:
            # What is to return is loaded behind, never while a request waits.
            cap = max(self.resident, default=0)
            max_phi = cap if max_phi is None else min(cap, max_phi)
        # Not `_replace`, which takes three times as long: this is done once a request.
        self.limits = Limits(
            sensed.budget_ms,
            max_phi,
            max(sensed.slowdown, self.slowdown.at(now_s)),
            sensed.memory_bytes,
            self.resident,
            sensed.energy_j,
            max(0.0, self._battery_until_s - now_s),
            self.residency.unloaded,
        )

    def _fit_into_memory(self) -> None:
        """Have the worker evict while memory is short, before the kernel kills, and load what can return."""
        self.shrinking.evicted -= self.residency.unloaded  # they return when they are told to
        planned = isinstance(self.scheduler.controller.policy, ResidentTable)
        wanted = self.shrinking.order(self.resident, self.limits.memory_bytes, planned=planned)
        if wanted is not None and wanted != self._ordered:
            log.info("memory is for φ = %s", ", ".join(map(str, sorted(wanted))))
            header = worker.Kept(tuple(sorted(wanted)))
            self.supervisor.send(worker.KEEP, header)
        self._ordered = wanted

    # ---------------------------------------------------------------------------- answers

    def _header(self, run: Run, request: Request, done: worker.Done, now_s: float) -> AnswerHeader:
        phi = run.start.decision.phi
        return AnswerHeader(
            id=request.ticket.id,
            phi=phi,
            name=self.profile.variants[phi].name,
            latency_ms=(now_s - request.arrived_s) * 1e3,
            queue_ms=(run.began_s - request.arrived_s) * 1e3,
            inference_ms=done.inference_ms,
            late=now_s > request.deadline_s,
            dtype=done.dtype,
            shape=done.shape,
            top=done.top,
        )

    def _report(self, run: Run, request: Request, on_time: bool) -> None:
        """Tell how a decision came out; it was made for the first request of a run alone."""
        decision, controller = run.start.decision, self.scheduler.controller
        if request is not run.start.request:
            return
        before = controller.policy
        if news := self.rollout.observe(decision, on_time):
            log.warning("the new policy %s", news)
            self.metrics.count_rollout(news.partition(" after ")[0].replace(" ", "_"))
        if controller.policy is not before:
            self._begin(controller.policy)
        was, now = controller.certificate, controller.report(on_time)
        if now != was:
            log.warning("certificate %s", now)
            self.metrics.show_certificate(now)

    def refuse(self, ticket: Ticket, error: RequestError) -> None:
        """Answer a request that never ran."""
        self.metrics.count_refusal(error.code)
        self._keep_refusal(error)
        ticket.reply(error, [])

    def _keep_refusal(self, error: RequestError) -> None:
        if self.flight is not None:
            outcome = outcome_of(error.code)
            self.flight.add(flight.DECISION, outcome=outcome, slowdown=self.limits.slowdown)

    def _record(
        self,
        run: Run,
        request: Request,
        outcome: str,
        inference_ms: float | None,
        latency_ms: float | None,
    ) -> None:
        """Keep what was decided and what came of it; for one that was joined nothing was decided."""
        decision = run.start.decision
        if request is not run.start.request:
            decision = Decision(decision.phi, decision.phi, None)
        self._keep(
            flight.DECISION,
            outcome=outcome,
            previous=decision.previous,
            phi=decision.phi,
            reading_ms=None if decision.reading is None else decision.reading.budget_ms,
            slack_ms=request.slack_ms(run.began_s),
            inference_ms=inference_ms,
            latency_ms=latency_ms,
        )

    def _keep(self, kind: int, **what: Any) -> None:
        """Add a record, with what may be spent and what is resident now, if anything is recorded."""
        if self.flight is not None:
            limits = self.limits
            self.flight.add(
                kind,
                resident=self.resident,
                slowdown=limits.slowdown,
                budget_ms=limits.budget_ms,
                memory_bytes=limits.memory_bytes,
                energy_j=limits.energy_j,
                **what,
            )

    def _fail(self, run: Run, error: RequestError, whom: list[Request] | None = None) -> None:
        """Answer `whom` of a run (None: all that have no answer yet) with this error.

        What expired has not begun; what was decided for it came out late all the same.
        """
        phi = run.start.decision.phi
        outcome = "expired" if isinstance(error, Expired) else "error"
        for request in run.waiting[:] if whom is None else whom:
            run.waiting.remove(request)
            self.metrics.count(outcome, phi)
            if outcome == "error":
                self.books.tallies[phi].add_failure(self._now() - request.arrived_s)
            self._record(run, request, outcome, None, None)
            self._report(run, request, False)
            request.ticket.reply(error, [])


def _reply(answers: list[tuple[Request, AnswerHeader, list[Any]]]) -> None:
    for request, header, output in answers:
        request.ticket.reply(header, output)


def _each(
    start: Start, done: worker.Done, tensor: list[Any]
) -> Iterator[tuple[Request, worker.Done, list[Any]]]:
    """Yield each request of a run with its own part of the answer: rows of a batch are in their order."""
    if not start.joined:
        yield start.request, done, tensor
        return
    size, data = len(start.requests), tensor[0] if tensor else b""
    part_bytes = len(data) // size
    for place, (request, top) in enumerate(zip(start.requests, done.tops, strict=True)):
        part = data[place * part_bytes : (place + 1) * part_bytes]
        answer = msgspec.structs.replace(done, shape=done.shape[1:], top=top)
        yield request, answer, [part] if tensor else []
