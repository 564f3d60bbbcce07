"""A latency distribution from the figures that a profile tells of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .profile import Latency

Floats = NDArray[np.float64]
Quantile = Callable[[Floats], Floats]
"""Maps numbers in (0, 1) to milliseconds, ascending."""


def quantile(latency: Latency) -> Quantile:
    """Return the distribution that a profile's figures tell.

    Linear between the quantiles that are known (p50, p95, p99), as far below the median as p95 is above it
    at most, and beyond p99 an exponential tail that goes on as steeply as from p95 to p99. With one figure
    alone every run takes just that.
    """
    known = [
        (share, value)
        for share, value in ((0.5, latency.p50), (0.95, latency.p95), (0.99, latency.p99))
        if value is not None
    ]
    if len(known) < 2:
        only = known[0][1] if known else latency.mean
        assert only is not None, "a profile's latency has at least one figure"
        return lambda luck: np.full(len(luck), only)
    shares, values = (np.array(column) for column in zip(*known, strict=True))
    values = np.maximum.accumulate(values)
    low = max(values[0] - (values[1] - values[0]), 0.5 * values[0])
    shares, values = np.insert(shares, 0, 0.0), np.insert(values, 0, low)
    # Exponential: each factor of e that is left of the upper share adds the same.
    steep_ms = (values[-1] - values[-2]) / np.log((1 - shares[-2]) / (1 - shares[-1]))

    def at(luck: Floats) -> Floats:
        beyond = np.log(np.maximum((1 - shares[-1]) / (1 - luck), 1.0)) * steep_ms
        return np.asarray(np.interp(luck, shares, values) + beyond)

    return at
