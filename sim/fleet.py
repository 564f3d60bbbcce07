"""A fleet: many devices, each with a day of its own, drawn from chains fitted to recorded budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..policies.chain import Chain, fit_chain
from ..policies.trace import Trace
from .cells import Candidate, Figures, Setting, digest, replayed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Day:
    """A day of `steps` budgets that move as `chain` says (edges in ms), `step_s` seconds apart."""

    key: str
    chain: Chain
    steps: int
    step_s: float

    @classmethod
    def like(cls, trace: Trace, thresholds_ms: Floats, seconds: float) -> Day:
        """Return a day that moves as `trace` did, in its own steps.

        Every one of `thresholds_ms` is an edge of the chain, so that a budget, which is drawn evenly inside
        its bin, meets a threshold as often as the trace did, whichever ladder is played.
        """
        step_s = float(np.median(np.diff(trace.time_s)))
        chain = fit_chain([trace.budget_ms], thresholds_ms)
        steps = max(2, round(seconds / step_s))
        return cls(digest(chain.edges, chain.transition, steps), chain, steps, step_s)

    def draw(self, luck: Sequence[int]) -> Trace:
        """Return one device's day; the same luck is the same day, on every machine."""
        return Trace.from_budgets(self.chain.sample(self.steps, luck), step_s=self.step_s)

    def play(
        self, setting: Setting, candidates: Sequence[Candidate], luck: tuple[int, ...]
    ) -> list[Figures]:
        """Return the figures of each policy on the day of one device, the last number of `luck`."""
        return replayed(self.draw(luck), setting, candidates, luck[-1])
