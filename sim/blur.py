"""Replaying a camera that moves: what a variant is worth changes with the blur of each picture.

A trace has the columns `budget_ms` and `blur_share`, the blur of the picture that a step is about as a share
of its shorter side. Steps go as in `replay`, and the policy is told the blur of the very picture, which a
request carries, beside the budget of the row before. An answer on time scores what its variant is worth at
the nearest blur that was measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..controller.step import Controller, Reading
from ..model_zoo.profile import Profile
from ..policies.blur import nearest
from ..policies.frame import Objective
from ..policies.lookup import Policy
from ..policies.trace import Trace
from . import kernels
from .scoring import Figures, figures, needed_column

Floats = NDArray[np.float64]


def replay_blur(
    trace: Trace,
    profile: Profile,
    policy: Policy,
    shares: Floats,
    quality: Floats,
    *,
    objective: Objective | None = None,
    latency: str = "p95",
) -> Figures:
    """Return the figures of `policy`; variants are worth `quality` (K, M) at blurs of `shares` (K,).

    Raises `TraceError` for a trace without blur.
    """
    objective, costs = objective or Objective(), profile.costs(latency)
    blur = needed_column(
        trace, "blur_share", "add the blur of each picture, as a share of its side"
    )
    controller = Controller(policy, costs)
    controller.reset()
    told = zip(trace.readings_ms.tolist(), blur[1:].tolist(), strict=True)
    decisions = np.array(
        [controller.step(Reading(ms, blur_share=share)).phi for ms, share in told], np.uint8
    )
    before = np.concatenate([np.zeros(1, np.uint8), decisions[:-1]])
    on_time = costs.need_ms[before, decisions] <= trace.budget_ms[1:]
    worth = quality[nearest(shares, blur[1:]), decisions]
    _, switches = kernels.tally(trace.budget_ms, costs.need_ms, decisions)
    return figures(
        objective, len(decisions), int(on_time.sum()), switches, float(worth[on_time].sum())
    )
