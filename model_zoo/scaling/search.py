"""Finding the rule: which α, β, γ serve a device best, given what depth, width and resolution cost there.

    J(α, β, γ) = mean over φ of [accuracy − λ₁ · latency − λ₂ · memory],   α β² γ² ≤ budget,   α, β, γ ≥ 1

Accuracy is in points of ImageNet top-1, latency and memory in costs of φ = 0, so λ is points for one such
cost: ratios, as everywhere. Tan and Le (2019, arXiv:1905.11946, §3.3) searched (1.2, 1.1, 1.15) by a grid
under α β² γ² ≈ 2, for accuracy alone.

*Costs* are power laws d^a w^b r^c, fitted to networks measured here. *Accuracy* is a model: no network of a
new rule was trained. The error falls from e by additive power laws, the form of Rosenfeld et al. (2020,
arXiv:1909.12673) and Hoffmann et al. (2022, arXiv:2203.15556), with one exponent:

    error(d, w, r) = e · (1 − k₁ (1 − d^−p) − k₂ (1 − w^−p) − k₃ (1 − r^−p))

so one dimension alone saturates, and all together do not yet. k and p are fitted to published networks
(`PUBLISHED_TOP1`), e to each family's own recipe.

In logarithms of α, β, γ accuracy is concave, costs are convex and the budget is linear. So J has one maximum,
and SLSQP (scipy), which finds a local one, finds it. The same holds for the accuracy under limits of latency
and memory, whose maxima are the Pareto front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError, MissingExtraError
from .compound import PUBLISHED, CompoundScaling
from .lite import SIDE, Lite, Size, blocks

Floats = NDArray[np.float64]

BUDGET = PUBLISHED.operations(1)
"""What one step of φ may multiply the operations by: as much as the published rule."""
PHIS = (1, 2, 3)
"""The ladder that a rule is judged by."""
DIGITS = 4
"""Of a rule that was found."""

_B, _ABLATION, _LITE = 0, 1, 2
PUBLISHED_TOP1 = (
    # EfficientNet-B0 … B7: arXiv:1905.11946, table 2; multipliers as in its reference code.
    *((_B, d, w, side, top1) for d, w, side, top1 in (
        (1.0, 1.0, 224, 77.1), (1.1, 1.0, 240, 79.1), (1.2, 1.1, 260, 80.1), (1.4, 1.2, 300, 81.6),
        (1.8, 1.4, 380, 82.9), (2.2, 1.6, 456, 83.6), (2.6, 1.8, 528, 84.0), (3.1, 2.0, 600, 84.3),
    )),
    # One dimension at a time, and all: the same, table 7.
    *((_ABLATION, d, w, side, top1) for d, w, side, top1 in (
        (1.0, 1.0, 224, 77.3), (4.0, 1.0, 224, 79.0), (1.0, 2.0, 224, 78.9), (1.0, 1.0, 448, 79.1),
        (1.4, 1.2, 291, 81.1),
    )),
    # EfficientNet-Lite 0 … 4: github.com/tensorflow/tpu, models/official/efficientnet/lite, FP32.
    *((_LITE, d, w, side, top1) for d, w, side, top1 in (
        (1.0, 1.0, 224, 75.1), (1.1, 1.0, 240, 76.7), (1.2, 1.1, 260, 77.6), (1.4, 1.2, 280, 79.8),
        (1.8, 1.4, 300, 81.5),
    )),
)  # fmt: skip
"""Family, multipliers of depth and width, side in pixels, top-1 on ImageNet in points."""


@dataclass(frozen=True)
class AccuracyLaw:
    """`shares` k (3,) of the error that depth, width and resolution can take away, `power` p, and e."""

    shares: Floats
    power: float
    error: float

    def __call__(self, sizes: ArrayLike) -> Floats:
        """Return the accuracy in points of networks of these `sizes` (N, 3)."""
        gone = (1 - np.asarray(sizes, dtype=np.float64) ** -self.power) @ self.shares
        return 100 - self.error * (1 - gone)


@dataclass(frozen=True)
class CostLaw:
    """d^a w^b r^c, by its `exponents` (3,)."""

    exponents: Floats

    def __call__(self, sizes: ArrayLike) -> Floats:
        """Return the cost of networks of these `sizes` (N, 3), relative to φ = 0."""
        return np.exp(np.log(np.asarray(sizes, dtype=np.float64)) @ self.exponents)

    @classmethod
    def fit(cls, sizes: Sequence[Size], costs: Sequence[float]) -> CostLaw:
        """Return the law that is nearest in logarithms; raise `InputError` where sizes do not settle it."""
        x = np.log(np.asarray(sizes, dtype=np.float64))
        exponents, _, rank, _ = np.linalg.lstsq(x, np.log(costs), rcond=None)
        if rank < x.shape[1]:
            raise InputError(
                f"{len(sizes)} networks do not tell depth, width and resolution apart",
                help="measure some that differ in one of them alone",
            )
        return cls(exponents)


def published_sizes() -> Floats:
    """Return blocks, channels and side of the published networks (N, 3), relative to their φ = 0."""
    sizes = []
    for family, depth, width, side, _ in PUBLISHED_TOP1:
        built = Lite(depth, width, int(side)).size
        all_stages = family != _LITE
        deep = blocks(depth, ends_too=all_stages) / blocks(1.0)
        sizes.append((deep, built[1], side / SIDE))
    return np.array(sizes)


def fit_accuracy(*, without: int | None = None) -> AccuracyLaw:
    """Return the law for EfficientNet-Lite, by least squares; `without` leaves a published network out.

    Raises `MissingExtraError` where scipy is not installed.
    """
    optimize = _scipy_optimize()
    kept = np.arange(len(PUBLISHED_TOP1)) != (-1 if without is None else without)
    sizes = published_sizes()[kept]
    rows = np.array(PUBLISHED_TOP1)[kept]
    family, errors = rows[:, 0].astype(int), 100 - rows[:, 4]

    def residuals(p: Floats) -> Floats:
        gone = (1 - sizes ** -p[3]) @ p[:3]
        missed: Floats = p[4:][family] * (1 - gone) - errors
        return missed

    start = [0.1, 0.1, 0.1, 3.0, 23.0, 23.0, 25.0]
    bounds = ([0.0] * 3 + [0.05] + [10.0] * 3, [1.0] * 3 + [20.0] + [40.0] * 3)
    found = optimize.least_squares(residuals, start, bounds=bounds).x
    return AccuracyLaw(found[:3], float(found[3]), float(found[4 + _LITE]))


@dataclass(frozen=True)
class Prices:
    """λ₁ and λ₂: points for one latency, and for one memory, of φ = 0; raises `InputError` below 0."""

    latency: float
    memory: float

    def __post_init__(self) -> None:
        for name in ("latency", "memory"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"the price of {name} is {value}; expected 0 or more points")


@dataclass(frozen=True)
class Worth:
    """What a ladder comes to, as means over its φ."""

    accuracy: float
    latency: float
    memory: float

    def objective(self, prices: Prices) -> float:
        """Return J."""
        return self.accuracy - prices.latency * self.latency - prices.memory * self.memory


@dataclass(frozen=True)
class Laws:
    """What size buys and what it costs on one device."""

    accuracy: AccuracyLaw
    latency: CostLaw
    memory: CostLaw

    def worth(self, rule: CompoundScaling) -> Worth:
        """Return what a rule's ladder comes to by the laws."""
        sizes = np.array([size(rule, phi) for phi in PHIS])
        return Worth(
            *(float(law(sizes).mean()) for law in (self.accuracy, self.latency, self.memory))
        )

    def find(self, prices: Prices, budget: float = BUDGET) -> CompoundScaling:
        """Return the rule with the largest J under `budget`; raise `InputError` for one below 1."""
        return self._maximum(lambda worth: worth.objective(prices), budget)

    def shortened(self, rule: CompoundScaling, prices: Prices) -> CompoundScaling:
        """Return `rule` with all steps shorter by the one power, from 0 to 1, that makes J largest."""

        def powered(power: float) -> CompoundScaling:
            return CompoundScaling(*(round(x**power, DIGITS) for x in size(rule, 1)))

        found = _scipy_optimize().minimize_scalar(
            lambda power: -self.worth(powered(power)).objective(prices),
            bounds=(0, 1),
            method="bounded",
        )
        return powered(float(found.x))

    def front(self, budget: float = BUDGET, points: int = 6) -> list[tuple[CompoundScaling, Worth]]:
        """Return rules that none beats in accuracy, latency and memory at once: `points`² limits at most.

        Each has the most accuracy under a limit of latency and one of memory, both between those of φ = 0
        and those of the most accurate rule.
        """
        best = self.worth(self.find(Prices(0.0, 0.0), budget))
        grid = np.linspace(0.0, 1.0, points + 1)[1:]
        found: dict[CompoundScaling, Worth] = {}
        for latency in 1 + (best.latency - 1) * grid:
            for memory in 1 + (best.memory - 1) * grid:
                rule = self._maximum(
                    lambda worth: worth.accuracy, budget, limits=(float(latency), float(memory))
                )
                found[rule] = self.worth(rule)
        unbeaten = [
            (rule, worth)
            for rule, worth in found.items()
            if not any(beats(other, worth) for other in found.values())
        ]
        return sorted(unbeaten, key=lambda one: one[1].accuracy)

    def _maximum(
        self, value: Any, budget: float, *, limits: tuple[float, float] | None = None
    ) -> CompoundScaling:
        optimize = _scipy_optimize()
        if not (math.isfinite(budget) and budget >= 1):
            raise InputError(
                f"the budget is {budget}; expected 1 or more: a step of φ multiplies by it"
            )

        def worth(logs: Floats) -> Worth:
            return self.worth(CompoundScaling(*np.exp(logs).tolist()))

        within = [{"type": "ineq", "fun": lambda x: math.log(budget) - x @ (1.0, 2.0, 2.0)}]
        if limits is not None:
            within += [
                {"type": "ineq", "fun": lambda x: math.log(limits[0] / worth(x).latency)},
                {"type": "ineq", "fun": lambda x: math.log(limits[1] / worth(x).memory)},
            ]
        found = optimize.minimize(
            lambda x: -value(worth(x)),
            np.full(3, math.log(budget) / 10),
            method="SLSQP",
            bounds=[(0.0, None)] * 3,
            constraints=within,
            options={"ftol": 1e-12, "maxiter": 500},
        )
        return CompoundScaling(*(round(x, DIGITS) for x in np.exp(found.x).tolist()))


def size(rule: CompoundScaling, phi: float) -> Size:
    """Return depth, width and resolution of `phi`."""
    return rule.depth(phi), rule.width(phi), rule.resolution(phi)


def beats(one: Worth, other: Worth) -> bool:
    """Say whether `one` is as good in everything, and better in something."""
    gains = (one.accuracy - other.accuracy, other.latency - one.latency, other.memory - one.memory)
    return min(gains) >= 0 and max(gains) > 0


def _scipy_optimize() -> Any:
    try:
        import scipy.optimize
    except ImportError:
        raise MissingExtraError("finding a rule", "plan") from None
    return scipy.optimize
