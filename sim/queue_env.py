"""The daemon's queue as an environment of Gymnasium: decide whenever the worker is free and somebody waits.

The queue, its refusals and its clock are the simulation's (sim/requests.py), and so the daemon's; only the
policy is exchanged for whoever calls `step`. The scheduler asks its policy in the middle of its work: there
it is stopped by an exception, its queue put back, and asked again once the decision is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from ..controller.scheduler import Limits, Refusal, Scheduler, Start
from ..errors import InputError
from ..model_zoo.profile import Profile
from ..policies.frame import Objective
from ..policies.queued import Queued, QueuePolicy
from .requests import Daemon, World
from .service_times import draw
from .workload import Workload

Seen = NDArray[np.float32]

_MOST_LOAD = 10.0  # arrivals in the time of the quickest run, beyond which all are alike
_MOST_SLOWDOWN = 50.0


class _AskedError(Exception):
    """Raised by the policy when it is asked and does not know yet."""

    def __init__(self, queued: Queued) -> None:
        super().__init__()
        self.queued = queued


class _Awaiting(QueuePolicy):
    """A policy whose next decision is set from outside."""

    name = "environment"
    decision: tuple[int, int] | None = None

    def plan(self, queued: Queued, active: int) -> tuple[int, int]:
        if self.decision is None:
            raise _AskedError(queued)
        decided, self.decision = self.decision, None
        return decided


class _PutsBack(Scheduler):
    """A scheduler that loses nothing when its policy is not ready to decide."""

    def next(self, now_s: float, limits: Limits) -> Start | Refusal | None:
        waiting = self._queue.copy()
        try:
            return super().next(now_s, limits)
        except _AskedError:
            self._queue = waiting
            raise


class _Stepwise(Daemon):
    """The simulated daemon, stopping at each decision; `gained` adds up what its requests score."""

    def __init__(self, *parts: Any, objective: Objective, max_batch: int, growth: float) -> None:
        super().__init__(*parts)
        held = self.scheduler
        self.scheduler = _PutsBack(
            held.controller, held.costs, held.max_requests, held.typical_ms, held.batch_ms
        )
        self.scheduler.max_batch, self.growth = max_batch, growth
        self.objective, self.quality = objective, held.costs.quality.tolist()
        self.gained, self.now_s = 0.0, 0.0

    def questions(self) -> Iterator[Queued]:
        """Yield the queue at each decision; the policy has to know it before the next is asked for."""
        for happen in self.events():
            queued = _question(happen)
            if queued is not None:
                yield queued
                self._start_next(self.now_s)

    def _start_next(self, now_s: float) -> None:
        self.now_s = now_s
        super()._start_next(now_s)

    def _begin(self, start: Start, now_s: float) -> None:
        super()._begin(start, now_s)
        phi, previous, *_ = start.decision
        self.gained -= self.objective.switch_cost * (phi != previous)
        for request in start.requests:  # the end of the run is known, and with it who is late
            late = self.ends_s > request.deadline_s
            self.gained += -self.objective.miss_cost if late else self.quality[phi]

    def _refuse(self, refusal: Refusal) -> None:
        super()._refuse(refusal)
        self.gained -= self.objective.miss_cost


def _question(happen: Callable[[], None]) -> Queued | None:
    """Let an event happen; return the queue where it ends in a decision."""
    try:
        happen()
    except _AskedError as asked:
        return asked.queued
    return None


class QueueEnv(gymnasium.Env[Seen, np.int64]):
    """A daemon's queue: `requests` of them with `deadline_ms` each, Poisson at `rate_per_s` or a `workload`.

    Actions are places in `decisions`: (φ, how many one run answers), the latter any of `batches`; a run of b
    takes 1 + `growth` (b − 1) times as long as one. A reward is the quality of each answer begun that will be
    on time, −miss_cost for each that will not and for each request refused since, −switch_cost for a switch:
    an episode's sum is what `adaphi.sim.requests.serve` scores. It is truncated when all have been served or
    refused. Observed (4 + M,): the slack of the first ÷ the deadline, how many wait ÷ `max_requests`,
    arrivals in the time of the quickest run (within 10), ln of the slow-down; then 1 for the active variant.
    `info` has `queued` and `active`; `drawn` has the episode's workload and its service times (ms). Raises
    `InputError`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(
        self,
        profile: Profile | str | Path,
        *,
        rate_per_s: float = 20.0,
        deadline_ms: float = 150.0,
        requests: int = 1000,
        workload: Workload | None = None,
        batches: Sequence[int] = (1,),
        growth: float = 1.0,
        max_requests: int = 64,
        world: World | None = None,
        objective: Objective | None = None,
        latency: str = "p95",
    ) -> None:
        self._profile = profile if isinstance(profile, Profile) else Profile.load(profile)
        self._costs = self._profile.costs(latency)
        self._typical_ms = self._profile.typical_ms(latency)
        if min(batches, default=0) < 1 or max_requests < 1:
            raise InputError(f"batches {batches}, max_requests {max_requests}: expected 1 at least")
        drawn = workload or Workload.poisson(rate_per_s, requests, deadline_ms)
        self._deadline_ms = float(np.max(drawn.deadline_ms))
        if not 0 < self._deadline_ms < np.inf:
            raise InputError("a queue's environment needs deadlines, above 0 and finite")
        self._workload, self._arrivals = workload, (rate_per_s, requests, deadline_ms)
        self._batches, self._growth, self._max_requests = batches, growth, max_requests
        self._world = world or World()
        self._objective = objective or Objective()
        variants = len(self._costs)
        self.decisions = [(phi, size) for size in batches for phi in range(variants)]
        low = [0.0, 0.0, 0.0, -np.log(_MOST_SLOWDOWN)] + [0.0] * variants
        high = [1.0, 1.0, _MOST_LOAD, np.log(_MOST_SLOWDOWN)] + [1.0] * variants
        self.observation_space = Box(np.array(low, np.float32), np.array(high, np.float32))
        self.action_space = Discrete(len(self.decisions))
        self._nobody = Queued(0.0, 0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Draw requests, and let them arrive until there is something to decide."""
        super().reset(seed=seed)
        seeds = self.np_random.integers(2**31, size=2).tolist()
        rate_per_s, requests, deadline_ms = self._arrivals
        workload = self._workload or Workload.poisson(
            rate_per_s, requests, deadline_ms, seed=seeds[0]
        )
        self.drawn = workload, draw(self._profile, len(workload), seed=seeds[1])
        self._policy = _Awaiting()
        self.daemon = _Stepwise(
            workload, self._costs, self._typical_ms, self._policy, self.drawn[1],
            self._world.steps(), self._max_requests, self._profile.batch_ms(),
            objective=self._objective, max_batch=max(self._batches), growth=self._growth,
        )  # fmt: skip
        self.daemon.told = self._world.told
        self._questions = self.daemon.questions()
        self._paid = 0.0
        self._queued = next(self._questions, self._nobody)
        if self._queued is self._nobody:
            raise InputError("every request is refused: none could be on time")
        return self._look(), self._info()

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Serve the first with the decision of this place; return what is seen at the next one."""
        self._policy.decision = self.decisions[int(action)]
        self._queued = next(self._questions, self._nobody)
        reward, self._paid = self.daemon.gained - self._paid, self.daemon.gained
        return self._look(), reward, False, self._queued is self._nobody, self._info()

    def _look(self) -> Seen:
        slack_ms, waiting, rate_per_s, slowdown = self._queued
        seen = np.zeros(self.observation_space.shape or (), np.float32)
        seen[0] = min(max(slack_ms / self._deadline_ms, 0.0), 1.0)
        seen[1] = min(waiting / self._max_requests, 1.0)
        seen[2] = min(rate_per_s * min(self._typical_ms) / 1e3, _MOST_LOAD)
        seen[3] = np.log(min(max(slowdown, 1 / _MOST_SLOWDOWN), _MOST_SLOWDOWN))
        seen[4 + self.daemon.scheduler.controller.active] = 1.0
        return seen

    def _info(self) -> dict[str, Any]:
        return {"queued": self._queued, "active": self.daemon.scheduler.controller.active}
