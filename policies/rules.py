"""The simple rules that every table has to beat: static, greedy, hysteresis, alert, random, ramsis.

Static and greedy have no memory and are look-ups; the others carry a little state from step to step.
None of them depends on the unit of time. `ramsis` is for requests that queue (`ramsis`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np

from ..errors import InputError
from ..model_zoo.profile import Costs
from .chain import Chain
from .frame import Objective, frame_mdp
from .lookup import EDGE_TOLERANCE, Lookup, Policy, bins
from .ramsis import Ramsis

_TIE = 1e-9  # values closer than this are equal: the smaller variant is taken
FIRST_VARIANCE = 0.01  # of the logarithm: budgets move by a tenth until more is known
_NAMES = ("static", "greedy", "hysteresis", "alert", "random", "ramsis")
RULES_HELP = (
    "static:PHI, greedy, hysteresis[:GUARD,PATIENCE[,SMOOTHING]], alert, random:SEED, "
    "ramsis:DEADLINE_MS[,GROWTH]"
)


def static(costs: Costs, phi: int) -> Lookup:
    """Return the rule that always answers with `phi`."""
    if not 0 <= phi < len(costs):
        raise InputError(f"static:{phi}: the ladder has φ = 0 … {len(costs) - 1}")
    return Lookup(f"static:{phi}", [], np.full((1, len(costs)), phi))


def greedy(costs: Costs) -> Lookup:
    """Return the rule that takes the best variant whose latency and stall fit the reading.

    Where none fits it takes the one that needs least.
    """
    edges = costs.thresholds_ms
    first = bins(edges, costs.need_ms)  # (m, a): the first bin in which the choice fits
    fits = first <= np.arange(len(edges) + 1)[:, None, None]  # (E, m, a)
    best = np.where(fits, costs.quality, -np.inf).argmax(axis=2)
    quickest = first.argmin(axis=1)
    return Lookup("greedy", edges, np.where(fits.any(axis=2), best, quickest))


def myopic(costs: Costs, chain: Chain, objective: Objective) -> Lookup:
    """Return the rule that takes the best expected payoff of one step on a chain, and looks no further.

    `chain.edges` in milliseconds. What a table gains over it, looking ahead gains.
    """
    payoff = frame_mdp(costs, chain, objective).payoff
    return Lookup("myopic", chain.edges, payoff.argmax(axis=2))


class Hysteresis:
    """Down at once, up only with room to spare: the threshold rule of most adaptive systems.

    If the active variant no longer fits, take what greedy takes. Move up only after `patience` readings
    in a row in which something better would have fitted with `guard` times its need. Readings are
    averaged exponentially with weight `smoothing` on the newest (1: taken as they are).
    """

    def __init__(
        self, costs: Costs, guard: float = 1.1, patience: int = 3, smoothing: float = 1.0
    ) -> None:
        if not (math.isfinite(guard) and guard >= 1 and patience >= 1 and 0 < smoothing <= 1):
            raise InputError(
                f"hysteresis:{guard},{patience},{smoothing}: guard is a number ≥ 1, patience a count "
                "≥ 1, smoothing a number in (0, 1]"
            )
        self.name = f"hysteresis:{guard:g},{patience}"
        if smoothing < 1:
            self.name += f",{smoothing:g}"
        self._greedy = greedy(costs)
        self._need = (costs.need_ms * (1 - EDGE_TOLERANCE)).tolist()
        self._quality = costs.quality.tolist()
        self._guard = guard
        self._patience = patience
        self._smoothing = smoothing
        self._smoothed_ms: float | None = None
        self._waited = 0

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading."""
        if self._smoothed_ms is None:
            self._smoothed_ms = reading_ms
        self._smoothed_ms += self._smoothing * (reading_ms - self._smoothed_ms)
        reading_ms = self._smoothed_ms
        if self._need[active][active] > reading_ms:
            self._waited = 0
            return self._greedy.decide(reading_ms, active)
        better = self._greedy.decide(reading_ms / self._guard, active)
        if self._quality[better] <= self._quality[active]:
            self._waited = 0
            return active
        self._waited += 1
        if self._waited < self._patience:
            return active
        self._waited = 0
        return better

    def reset(self) -> None:
        """Forget the readings averaged and waited for."""
        self._waited = 0
        self._smoothed_ms = None


class Alert:
    """Filter the budget, then take the best expected payoff of this one step; after ALERT (ATC 2020).

    ALERT tracks one slow-down factor by a filter with mean and variance and picks the choice of highest
    expected quality, without looking ahead and blind to the cost of switching. Here the quantity that
    moves is the logarithm of the budget: mean and variance by exponential forgetting (rate 0.3 and
    0.1), the next budget taken as normal around the mean.
    """

    def __init__(self, costs: Costs, objective: Objective) -> None:
        self.name = "alert"
        self._log_need = np.log(costs.need_ms).tolist()
        # Less than a thousandth of the smallest need is as little as nothing, and has a logarithm.
        self._least_ms = 1e-3 * float(costs.need_ms.min())
        self._quality = costs.quality.tolist()
        self._miss_cost = objective.miss_cost
        self._mean: float | None = None
        self._variance = FIRST_VARIANCE

    def decide(self, reading_ms: float, active: int) -> int:
        """Return the φ for this reading."""
        seen = math.log(max(reading_ms, self._least_ms))
        if self._mean is None:
            self._mean = seen
        surprise = seen - self._mean
        self._mean += 0.3 * surprise
        self._variance += 0.1 * (surprise * surprise - self._variance)
        spread = math.sqrt(2 * self._variance) + 1e-9
        best, best_value = 0, -math.inf
        for phi, need in enumerate(self._log_need[active]):
            on_time = 0.5 * math.erfc((need - self._mean) / spread)
            value = self._quality[phi] * on_time - self._miss_cost * (1 - on_time)
            if value > best_value + _TIE:
                best, best_value = phi, value
        return best

    def reset(self) -> None:
        """Forget the filter."""
        self._mean = None
        self._variance = FIRST_VARIANCE


class Random:
    """Any variant, all alike: the floor below every rule. The seed makes it repeatable."""

    def __init__(self, costs: Costs, seed: int = 0) -> None:
        self.name = f"random:{seed}"
        self._count = len(costs)
        self._seed = seed
        self._random = random.Random(seed)

    def decide(self, reading_ms: float, active: int) -> int:
        """Return a φ by lot."""
        return self._random.randrange(self._count)

    def reset(self) -> None:
        """Begin the same series again."""
        self._random = random.Random(self._seed)


def rule(name: str, costs: Costs, objective: Objective | None = None) -> Policy:
    """Return the rule called `name`: see `RULES_HELP`. Raises `InputError`."""
    head, _, arguments = name.partition(":")
    parts = [part.strip() for part in arguments.split(",")] if arguments else []
    makers: dict[str, tuple[tuple[int, ...], Callable[..., Policy], tuple[type, ...]]] = {
        "static": ((1,), lambda phi: static(costs, phi), (int,)),
        "greedy": ((0,), lambda: greedy(costs), ()),
        "hysteresis": ((0, 1, 2, 3), lambda *a: Hysteresis(costs, *a), (float, int, float)),
        "alert": ((0,), lambda: Alert(costs, objective or Objective()), ()),
        "random": ((0, 1), lambda *a: Random(costs, *a), (int,)),
        "ramsis": ((1, 2), lambda *a: Ramsis(costs, *a), (float, float)),
    }
    if head in makers:
        counts, make, kinds = makers[head]
        if len(parts) in counts:
            try:
                values = [kind(part) for kind, part in zip(kinds, parts, strict=False)]
            except ValueError:
                pass
            else:
                return make(*values)
    raise InputError(f"no rule is called {name!r}", help=f"use {RULES_HELP}")


def is_rule(name: str) -> bool:
    """Say whether `name` begins like a rule (and not like a file)."""
    return name.partition(":")[0] in _NAMES
