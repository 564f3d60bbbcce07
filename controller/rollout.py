"""A new policy on its way in: shadowed, swapped between two requests, kept or rolled back. Pure.

A policy that is offered first decides in the shadow: on every reading the real one decides on, along the path
it would have taken, its promise tested by what is really answered. If the promise holds for `shadow_steps`
decisions it takes over. Should its certificate break within the next `probation_steps`, the policy before it
comes back. A policy that makes no promise (one that learns, or plans memory, a battery or a queue) is
shadowed all the same, which shows that it decides, and is then kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ..config import Config
from ..errors import PolicyError
from ..model_zoo.profile import Profile
from ..policies.choose import choose
from ..policies.files import Solved
from ..policies.frame import Objective
from ..policies.lookup import Policy
from ..policies.watch import WatchedTable
from .step import Controller, Decision

SHADOW_STEPS = 200
PROBATION_STEPS = 2000

Choose: TypeAlias = Callable[[str | Solved | None], Policy]
"""Makes a policy that decides of a rule's name, of what was solved, or of nothing; raises as `choose`."""


def chooser(config: Config, profile: Profile) -> Choose:
    """Return `choose` for this ladder, as the configuration wants its policies."""
    return partial(
        choose,
        profile=profile,
        latency=config.latency,
        objective=Objective(config.objective.miss_cost, config.objective.switch_cost),
        adapt=config.adapt,
        watch=True,
        memory_limit_bytes=config.worker.memory_limit_bytes,
    )


class Rollout:
    """Brings policies into a controller; `state` says where the newest one is."""

    def __init__(
        self,
        controller: Controller,
        choose: Choose,
        *,
        shadow_steps: int = SHADOW_STEPS,
        probation_steps: int = PROBATION_STEPS,
    ) -> None:
        self._controller = controller
        self._choose = choose
        self._shadow_steps = shadow_steps
        self._probation_steps = probation_steps
        self._candidate: Policy | None = None
        self._before: Policy | None = None
        self._active = 0  # on the candidate's own path
        self._steps = 0

    def __repr__(self) -> str:
        return f"<Rollout(state={self.state!r})>"

    @property
    def state(self) -> str:
        """Return `shadowed`, `on probation`, or `settled`."""
        if self._candidate is not None:
            return "shadowed"
        return "on probation" if self._before is not None else "settled"

    def offer(self, policy: str | Solved) -> None:
        """Let `policy`, or the rule of that name, decide in the shadow from now on, in place of any other.

        Raises `PolicyError` or `InputError`, and changes nothing, for another ladder's or what is no rule.
        """
        candidate = self._choose(policy)
        self._candidate, self._active, self._steps = candidate, self._controller.active, 0

    def observe(self, decision: Decision, on_time: bool) -> str:
        """Take a decision and how it came out into account; return what became of a policy, "" if nothing."""
        if self._candidate is not None:
            return self._shadow(self._candidate, decision, on_time)
        if self._before is not None:
            return self._watch_over(self._before)
        return ""

    def _shadow(self, candidate: Policy, decision: Decision, on_time: bool) -> str:
        reading = decision.reading
        if reading is None:  # pinned: no policy decided
            return ""
        self._steps += 1
        try:
            if isinstance(candidate, WatchedTable):
                if reading.slack_ms is None:  # a promise is about budgets that nobody knows yet
                    before = (reading.budget_ms, decision.previous, decision.phi)
                    candidate.promise.observe_other(*before, on_time)
                self._active = candidate.promise.decide(reading.budget_ms, self._active)
                if candidate.promise.evidence >= candidate.patience_steps**0.5:
                    raise PolicyError("its promise does not hold on what is read and answered here")
            else:
                self._active = candidate.decide(reading.budget_ms, self._active)
        except Exception as error:  # whatever it is: the running policy goes on
            self._candidate = None
            return f"refused after {self._steps} decisions in the shadow: {error}"
        if self._steps < self._shadow_steps:
            return ""
        self._before, self._candidate, self._steps = self._controller.policy, None, 0
        self._controller.policy = candidate
        return f"took over after {self._shadow_steps} decisions in the shadow"

    def _watch_over(self, before: Policy) -> str:
        self._steps += 1
        policy = self._controller.policy
        if isinstance(policy, WatchedTable) and policy.breaks:
            before.reset()
            self._controller.policy, self._before = before, None
            return f"rolled back after {self._steps} decisions: its certificate broke"
        if self._steps < self._probation_steps:
            return ""
        self._before = None
        return f"kept after {self._steps} decisions"
