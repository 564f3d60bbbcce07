"""How long a run takes, drawn from a profile's quantiles.

All draws of a simulation are made before it begins, one number in (0, 1) a request, from which each variant's
time follows. So what one policy chooses changes nobody's luck, and two policies are compared on equal terms.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Profile
from ..model_zoo.quantiles import quantile

Floats = NDArray[np.float64]

_NORMAL = NormalDist()


class Drift(NamedTuple):
    """How a device's good and bad times last: `share` of the variance is forgotten after some `runs`."""

    share: float
    runs: float


def draw(profile: Profile, requests: int, *, seed: int = 0, drift: Drift | None = None) -> Floats:
    """Return (N, M): what each request would take with each variant (ms), stalls and slow-down apart.

    Draws are independent. With `drift` the normal score of each is √w d + √(1 − w) e, where d is a stationary
    autoregression, d ← ρ d + √(1 − ρ²) e′ with ρ = exp(−1 / runs), and w its share: each alone is as before.
    """
    random = np.random.default_rng(seed)
    if drift is None:
        luck = random.random(requests)
    else:
        slow, quick = random.standard_normal((2, requests))
        rho = math.exp(-1 / drift.runs)
        fresh = math.sqrt(1 - rho * rho)
        for n in range(1, requests):
            slow[n] = rho * slow[n - 1] + fresh * slow[n]
        score = math.sqrt(drift.share) * slow + math.sqrt(1 - drift.share) * quick
        luck = np.array([_NORMAL.cdf(z) for z in score])
    return np.column_stack([quantile(v.latency_ms)(luck) for v in profile.variants])
