"""Where a policy turns to the next variant: the controller's stripes, to be measured as an embryo's are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..model_zoo.profile import Latency, Profile, VariantProfile
from ..policies.lookup import Lookup
from ..policies.table import TablePolicy
from .morphogen import Floats

LATENCY_MS = (10.0, 15.0, 24.0)
QUALITY = (0.70, 0.76, 0.80)


def device(latency_ms: float) -> Profile:
    """Return a made-up ladder of three whose φ = 0 takes so long; all other times are in proportion."""
    slowness = latency_ms / LATENCY_MS[0]
    rows = enumerate(zip(LATENCY_MS, QUALITY, strict=True))
    return Profile(
        ladder="made-up",
        variants=tuple(
            VariantProfile(phi, f"v{phi}", quality, Latency(p95=slowness * ms))
            for phi, (ms, quality) in rows
        ),
        stall_ms=tuple(tuple(slowness * 0.5 * (m != a) for a in range(3)) for m in range(3)),
    )


def turning_points_ms(lookup: Lookup) -> Floats:
    """Return the least reading with which `lookup` goes from φ = 0 to φ ≥ k, for each k ≥ 1 (K,); else ∞."""
    points = np.full(lookup.table.shape[1] - 1, np.inf)
    for edge_ms in reversed(lookup.edges_ms.tolist()):
        points[: lookup.decide(edge_ms, 0)] = edge_ms
    return points


def policy_places_ms(signal: str, latency_ms: Sequence[float] | Floats) -> Floats:
    """Return the turning points (K, N) of one policy on devices whose φ = 0 takes `latency_ms` (N,).

    `ratio`: bound to each device, as a daemon does; `fixed`: with the milliseconds of the device that it
    was solved on.
    """
    home = device(LATENCY_MS[0])
    policy = TablePolicy.solve(home)
    devices = [device(ms) if signal == "ratio" else home for ms in latency_ms]
    return np.stack([turning_points_ms(policy.bind(one)) for one in devices], axis=1)
