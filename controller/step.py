"""The decision, pure: a reading in, a decision out. No clock, no input or output, no torch.

The daemon, the embedded `AdaptiveModel` and the simulator all decide through `Controller.step`.
"""

from __future__ import annotations

from typing import NamedTuple

from ..policies.lookup import Policy


class Reading(NamedTuple):
    """The budget as last observed, at decision time.

    `budget_ms` is time already divided by the slow-down; `max_phi` is the highest variant that memory,
    power and heat admit (None: all).
    """

    budget_ms: float
    max_phi: int | None = None


class Decision(NamedTuple):
    """What to answer with: `phi`, and the `previous` active variant, which a switch leaves."""

    phi: int
    previous: int
    reading: Reading

    @property
    def switched(self) -> bool:
        """Say whether this decision changes the active variant."""
        return self.phi != self.previous


class Controller:
    """A policy and the one thing it acts on: which variant is active. φ = 0 is active at first."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.active = 0

    def __repr__(self) -> str:
        return f"<Controller(policy={self.policy.name!r}, active={self.active})>"

    def step(self, reading: Reading) -> Decision:
        """Decide on one reading and make the decision's variant the active one.

        A reading that is not a number counts as no budget at all.
        """
        previous = self.active
        budget_ms, max_phi = reading
        phi = self.policy.decide(budget_ms if budget_ms > 0 else 0.0, previous)
        if max_phi is not None and phi > max_phi:
            phi = max_phi
        self.active = phi
        return Decision(phi, previous, reading)

    def reset(self) -> None:
        """Begin again with φ = 0 active and a policy that has seen nothing."""
        self.policy.reset()
        self.active = 0
