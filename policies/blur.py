"""Motion blur: one table for each blur, for what a variant is worth depends on it.

A camera that moves while its shutter is open smears what it sees, and variants do not suffer alike. How
often each is still right is measured at a few blurs (`adaphi plan drone`), and for each blur k the frame
problem of `frame` is solved with that blur's qualities q_ka in place of q_a. A request says how much it is
blurred, so the blur that counts is known when the decision is made, and the nearest table decides; one that
says nothing is decided by the table without blur. Each table takes the blur to stay: a blur that changes at
every step pays for more switches than a joint chain of budget and blur would.

Blur is a share of the picture's shorter side: no camera's resolution is in a policy.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..model_zoo.profile import Costs
from .chain import Chain
from .frame import Objective, frame_mdp
from .lookup import Lookup

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BlurPlan:
    """`shares` (K,) of the shorter side, ascending; `quality` (K, M) there; `tables` (K, E, M) for it."""

    shares: Floats
    quality: Floats
    tables: NDArray[np.uint8]

    def fits(self, table: NDArray[np.uint8]) -> bool:
        """Say whether the parts fit together, and the table (E, M) without blur."""
        levels = len(self.shares)
        return bool(
            levels > 0
            and self.shares.shape == (levels,)
            and (self.shares >= 0).all()
            and (np.diff(self.shares) > 0).all()
            and self.quality.shape == (levels, table.shape[1])
            and np.isfinite(self.quality).all()
            and self.tables.dtype == np.uint8
            and self.tables.shape == (levels, *table.shape)
            and (self.tables < table.shape[1]).all()
        )


def plan_blur(
    costs: Costs, chain: Chain, objective: Objective, shares: ArrayLike, kept: ArrayLike
) -> BlurPlan:
    """Return the plan for a chain with edges in milliseconds.

    `kept` (K, M) is which part of its quality each variant keeps at each of the `shares` (K,). Raises
    ValueError where they do not fit together, or a number is impossible.
    """
    blur = np.asarray(shares, dtype=np.float64)
    parts = np.asarray(kept, dtype=np.float64)
    if blur.ndim != 1 or parts.shape != (len(blur), len(costs)):
        raise ValueError(
            f"blur at {len(blur)} levels for {len(costs)} variants needs as many qualities, "
            f"got {parts.shape}"
        )
    if not (np.isfinite(parts).all() and (parts >= 0).all()):
        raise ValueError("a part of quality that is kept is a finite number ≥ 0")
    if not (len(blur) and np.isfinite(blur).all() and blur[0] >= 0 and (np.diff(blur) > 0).all()):
        raise ValueError("blurs are finite shares of the shorter side, ≥ 0 and ascending")
    quality = costs.quality * parts
    tables = [
        frame_mdp(replace(costs, quality=q), chain, objective).solve().policy for q in quality
    ]
    return BlurPlan(blur, quality, np.stack(tables).astype(np.uint8))


def nearest(shares: Floats, blur: ArrayLike) -> NDArray[np.int64]:
    """Return the place among `shares` (K,), ascending, that each blur is nearest to."""
    return np.searchsorted(_between(shares), np.asarray(blur), side="right")


def _between(shares: Floats) -> Floats:
    return (shares[1:] + shares[:-1]) / 2


class BlurTable:
    """A plan that decides: the table of the blur nearest to what `see` was last told."""

    name = "blur table"

    def __init__(self, plan: BlurPlan, edges_ms: Floats, table: NDArray[np.uint8]) -> None:
        self.plan = plan
        self._between: list[float] = _between(plan.shares).tolist()
        self._lookups = [Lookup(self.name, edges_ms, t) for t in (*plan.tables, table)]
        self.reset()

    def __repr__(self) -> str:
        return f"<BlurTable(levels={len(self.plan.shares)})>"

    def see(self, share: float | None) -> None:
        """Take the next decision to be about a picture with this blur; None: not known."""
        self._now = self._lookups[-1 if share is None else bisect_right(self._between, share)]

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading."""
        return self._now.decide(reading_ms, active)

    def reset(self) -> None:
        """Go back to a blur that is not known."""
        self.see(None)
