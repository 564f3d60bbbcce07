"""The decision, pure: a reading in, a decision out. No clock, no input or output, no torch.

The daemon, the embedded `AdaptiveModel` and the simulator all decide through `Controller.step`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..model_zoo.profile import Costs
from ..policies.battery import BatteryTable
from ..policies.blur import BlurTable
from ..policies.committee import Committee
from ..policies.lookup import Policy
from ..policies.queued import Queued, QueuePolicy
from ..policies.resident import ResidentTable
from ..policies.watch import WatchedTable


class Reading(NamedTuple):
    """The budget as last observed, at decision time.

    `budget_ms` is time already divided by the slow-down; `max_phi` is the highest variant that memory,
    power and heat admit (None: all). `slack_ms` is what this very request is known to have left, in the
    same unit; None in the frame loop, where nobody knows the budget that the answer will meet.

    For a policy that plans the resident set, `memory_bytes` is what variants may take together and `resident`
    which are loaded; for one that plans a battery, `energy_j` is what it holds, to last for `left_s`.

    `admitted` are the variants that may answer at all, at least one (None: all); they bind before the rest.

    For a policy that plans a queue, `waiting` requests are there, this one among them, and `rate_per_s`
    arrive; `slowdown` is the factor by which times were divided.

    For a policy that knows motion blur, `blur_share` is this request's, as a share of its picture's shorter
    side; None: not known.
    """

    budget_ms: float
    max_phi: int | None = None
    slack_ms: float | None = None
    memory_bytes: float | None = None
    resident: frozenset[int] | None = None
    energy_j: float | None = None
    left_s: float | None = None
    admitted: frozenset[int] | None = None
    waiting: int | None = None
    rate_per_s: float = 0.0
    slowdown: float = 1.0
    blur_share: float | None = None


class Decision(NamedTuple):
    """What to answer with: `phi`, and the `previous` active variant, which a switch leaves.

    `keep` is the set to be resident afterwards; None where the policy leaves that to the pool. `batch` is how
    many of those that wait are to be answered by this run, where runs can answer several.
    """

    phi: int
    previous: int
    reading: Reading | None
    keep: frozenset[int] | None = None
    batch: int = 1

    @property
    def switched(self) -> bool:
        """Say whether this decision changes the active variant."""
        return self.phi != self.previous


class Controller:
    """A policy and the one thing it acts on: which variant is active. φ = 0 is active at first."""

    def __init__(self, policy: Policy, costs: Costs) -> None:
        self.policy = policy
        self.active = 0
        self._watched = False  # whether the last decision is one that a promise was made about
        self._need_ms: list[list[float]] = costs.need_ms.tolist()

    def __repr__(self) -> str:
        return f"<Controller(policy={self.policy.name!r}, active={self.active})>"

    def step(self, reading: Reading) -> Decision:
        """Decide on one reading and make the decision's variant the active one.

        A budget that is not a number counts as none at all. Where the slack is known, a variant that
        is sure to be late gives way to the largest smaller one that is not.
        """
        previous, policy, keep, batch = self.active, self.policy, None, 1
        budget_ms, max_phi, slack_ms, memory_bytes, resident, energy_j, left_s, admitted = reading[
            :8
        ]
        budget_ms = budget_ms if budget_ms > 0 else 0.0
        need_ms = self._need_ms[previous]
        if isinstance(policy, ResidentTable) and memory_bytes is not None and resident is not None:
            phi, keep = policy.plan(budget_ms, memory_bytes, previous, resident)
            need_ms = policy.need_ms(previous, resident)
        elif isinstance(policy, QueuePolicy) and (queued := _queued(reading)) is not None:
            phi, batch = policy.plan(queued, previous)
            # It was solved for this slack; what else limits a run still binds.
            slack_ms = budget_ms if slack_ms is not None and budget_ms < slack_ms else None
        else:
            if isinstance(policy, WatchedTable):
                # A promise is about budgets that nobody knows yet; where the slack is known there is none.
                self._watched = slack_ms is None
                policy = policy if self._watched else policy.lookup
            elif isinstance(policy, BatteryTable) and energy_j is not None and left_s is not None:
                policy.review(energy_j, left_s)
            elif isinstance(policy, BlurTable):
                policy.see(reading.blur_share)
            phi = policy.decide(budget_ms, previous)
        if max_phi is not None and phi > max_phi:
            phi = max_phi
        if slack_ms is not None and need_ms[phi] > slack_ms:
            phi = _largest_in_time(need_ms[:phi], slack_ms)
        if admitted is not None and phi not in admitted:
            phi = max((a for a in admitted if a < phi), default=min(admitted))
            self._watched = False  # the promise is about what the policy chooses
        self.active = phi
        return Decision(phi, previous, reading, keep, batch)

    @property
    def queue_window_s(self) -> float | None:
        """Return over which time the policy wants arrivals counted, None where it does not see the queue."""
        return self.policy.window_s if isinstance(self.policy, QueuePolicy) else None

    @property
    def certificate(self) -> str:
        """Return whether the policy's certificate `holds`, or since when it is broken; "" without one."""
        return self.policy.status if isinstance(self.policy, WatchedTable) else ""

    def report(self, on_time: bool) -> str:
        """Tell a policy that watches its certificate how the last decision came out; return `certificate`."""
        if self._watched and isinstance(self.policy, WatchedTable):
            self.policy.observe(on_time)
        return self.certificate

    @property
    def learns(self) -> bool:
        """Say whether the policy learns from every step, so that `prepare` has something to do."""
        return isinstance(self.policy, Committee)

    def prepare(self) -> None:
        """Let a policy that learns do now what the next step would have to; no decision depends on it."""
        if isinstance(self.policy, Committee):
            self.policy.prepare()

    def pin(self, phi: int) -> Decision:
        """Make `phi` the active variant without asking the policy."""
        previous, self.active = self.active, phi
        self._watched = False
        return Decision(phi, previous, None)

    def reset(self) -> None:
        """Begin again with φ = 0 active and a policy that has seen nothing."""
        self.policy.reset()
        self.active = 0


def blur_share(blur_px: float | None, picture: Any) -> float | None:
    """Return a blur in the pixels of a picture (height, width, 3) as a share of its shorter side.

    None where the blur is not known, or what was sent is no picture.
    """
    if blur_px is None or picture is None or picture.ndim != 3:
        return None
    return float(blur_px / min(picture.shape[:2]))


def _queued(reading: Reading) -> Queued | None:
    """Return the queue in wall time, None where the reading is of no queue."""
    slack_ms, waiting, slowdown = reading.slack_ms, reading.waiting, reading.slowdown
    if slack_ms is None or waiting is None:
        return None
    return Queued(slack_ms * slowdown, waiting, reading.rate_per_s, slowdown)


def _largest_in_time(need_ms: list[float], slack_ms: float) -> int:
    in_time = [phi for phi, need in enumerate(need_ms) if need <= slack_ms]
    return in_time[-1] if in_time else 0
