"""How long a run takes, drawn from a profile's quantiles.

All draws of a simulation are made before it begins, one number in (0, 1) a request, from which each variant's
time follows. So what one policy chooses changes nobody's luck, and two policies are compared on equal terms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..model_zoo.profile import Profile
from ..model_zoo.quantiles import quantile

Floats = NDArray[np.float64]


def draw(profile: Profile, requests: int, *, seed: int = 0) -> Floats:
    """Return (N, M): what each request would take with each variant (ms), stalls and slow-down apart."""
    luck = np.random.default_rng(seed).random(requests)
    return np.column_stack([quantile(v.latency_ms)(luck) for v in profile.variants])
