"""How strongly to augment a network of size M: s(φ) = c · M(φ)^(−p).

The best strength of augmentation changes with the network. RandAugment (Cubuk et al. 2019, arXiv:1909.13719,
section 4.1) found that larger networks want stronger augmentation: p < 0. With p > 0 they would want weaker.
A power law is a line in logarithms,

    ln s = ln c − p · ln M,

so a few sizes, each trained at several strengths, give c and p by least squares, and with them the strength
for every other size of the family. Intervals come from the jackknife over the seeds (Efron and Tibshirani
1993, chapter 11): the whole fit is repeated without each seed in turn.

The experiment trains convolutional networks of six sizes on 150 of scikit-learn's digits and tries them on
the other 1,647. Strength 1 turns a picture by up to ±90°, moves it by up to half its side, and scales it by ½
to 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingExtraError
from .compound import CompoundScaling
from .measured import Share

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]

DATA = Path(__file__).with_name("augment.json")
"""What `adaphi plan augment --full` measured."""

FAMILY = CompoundScaling(alpha=1.2, beta=1.5, gamma=1.0)
SIZES = tuple(range(6))
STRENGTHS = (0.04, 0.063, 0.1, 0.16, 0.25, 0.4)
SEEDS = 5
SAMPLES = 150
STEPS = 240
BATCH = 50
LEARNING_RATE = 5e-3


class AugmentCell(msgspec.Struct, frozen=True):
    """Networks of size φ trained at one strength, a seed each: their errors on digits not trained on."""

    phi: int
    weights: Annotated[int, msgspec.Meta(gt=0)]
    strength: Annotated[float, msgspec.Meta(gt=0)]
    errors: tuple[Share, ...]

    @property
    def key(self) -> tuple[int, float]:
        """Return (φ, strength)."""
        return self.phi, self.strength


@dataclass(frozen=True, slots=True)
class AugmentLaw:
    """s = c · M^(−p)."""

    c: float
    p: float

    def strength(self, weights: float) -> float:
        """Return the strength for a network of so many weights."""
        return self.c * math.pow(weights, -self.p)

    @classmethod
    def fit(cls, weights: Floats, strengths: Floats, spreads: Floats) -> AugmentLaw:
        """Return the law through the best strengths of some sizes, by weighted least squares in logarithms.

        `spreads` are the standard errors of ln `strengths`: a size counts by how well its best is known.
        Raises `InputError` for fewer than two sizes, or a number that is not above 0.
        """
        if len(set(weights)) < 2 or min(*weights, *strengths, *spreads) <= 0:
            raise InputError("a law of strength needs two sizes or more, and numbers above 0")
        slope, intercept = np.polyfit(np.log(weights), np.log(strengths), 1, w=1 / spreads)
        return cls(float(np.exp(intercept)), float(-slope))


@dataclass(frozen=True)
class Curves:
    """The measured errors of a family: `errors` is (sizes, strengths, seeds)."""

    phis: tuple[int, ...]
    weights: Floats
    strengths: Floats
    errors: Floats

    @classmethod
    def of(cls, cells: Sequence[AugmentCell]) -> Curves:
        """Return the cells as a grid; raise `InputError` where one is missing or has other seeds."""
        by_key = {cell.key: cell for cell in cells}
        phis = tuple(sorted({cell.phi for cell in cells}))
        strengths = sorted({cell.strength for cell in cells})
        rows = [[by_key.get((phi, s)) for s in strengths] for phi in phis]
        seeds = {len(cell.errors) for cell in cells}
        if any(cell is None for row in rows for cell in row) or len(seeds) != 1:
            raise InputError(
                "some sizes lack strengths or seeds that others have", help="go on with --full"
            )
        if min(seeds) < 2 or len(strengths) < 4 or len(phis) < 3:
            raise InputError(
                "a fit needs three sizes, four strengths and two seeds, or more",
                help="go on with --full",
            )
        weights = {cell.phi: float(cell.weights) for cell in cells}
        return cls(
            phis,
            np.array([weights[phi] for phi in phis]),
            np.array(strengths),
            np.array([[cell.errors for cell in row if cell] for row in rows]),
        )

    def best(self, seeds: list[int] | slice = slice(None)) -> Floats:
        """Return (sizes,): the strength of least error, averaged over all or some of the seeds."""
        means = self.errors[:, :, seeds].mean(axis=2)
        return np.array([best_strength(self.strengths, row) for row in means])

    def spreads(self) -> Floats:
        """Return (sizes,): the standard error of ln of the best strength."""
        return jackknife(lambda chosen: np.log(self.best(chosen)), self.errors.shape[2])

    def error_at(self, size: int, strength: float) -> float:
        """Return the mean error of the size at place `size`, linear in ln s; beyond the grid, its rim's."""
        means = self.errors[size].mean(axis=1)
        return float(np.interp(math.log(strength), np.log(self.strengths), means))


def best_strength(strengths: Floats, errors: Floats) -> float:
    """Return where a cubic of ln error over ln s, by least squares, is least within the grid.

    A cubic, because too much harms far more steeply than too little: a parabola's least lies too low.
    """
    x = np.log(strengths)
    cubic = np.polyfit(x, np.log(np.maximum(errors, 1e-6)), 3)
    between = np.linspace(x[0], x[-1], 501)
    return float(np.exp(between[np.argmin(np.polyval(cubic, between))]))


def jackknife(estimate: Callable[[list[int]], Floats], seeds: int) -> Floats:
    """Return the standard errors of estimates from some of the seeds, by leaving out each in turn."""
    every = range(seeds)
    without = np.array([estimate([k for k in every if k != left_out]) for left_out in every])
    return np.asarray(np.sqrt((seeds - 1) * without.var(axis=0)))


def reach(standard_error: float, seeds: int) -> float:
    """Return half of the 95 % interval, by Student's t; raise `MissingExtraError` without scipy."""
    try:
        from scipy.stats import t
    except ImportError:
        raise MissingExtraError("intervals", "plan") from None
    return float(t.ppf(0.975, seeds - 1)) * standard_error


@dataclass(frozen=True)
class Prediction:
    """What the law says of a size that it was not fitted to, beside what was measured."""

    phi: int
    predicted: float
    best: float
    error_at_predicted: float
    error_at_best: float
    error_at_constant: float
    """At the one strength that suits the fitted sizes."""


@dataclass(frozen=True)
class Fit:
    """A law fitted to the sizes `phis`, the 95 % interval of p, and the one strength that suits them all."""

    phis: tuple[int, ...]
    law: AugmentLaw
    p_interval: tuple[float, float]
    constant: float

    @property
    def size_matters(self) -> bool:
        """Whether p differs from 0: otherwise one strength for all sizes is not refuted."""
        low, high = self.p_interval
        return not low <= 0 <= high


@dataclass(frozen=True)
class Verdict:
    """The best strength of each size, the law of all sizes, and how the law of a few predicts the others."""

    best: Floats
    best_intervals: Floats
    """(sizes, 2)."""
    all: Fit
    few: Fit
    held_out: list[Prediction]

    @property
    def median_factor(self) -> float:
        """Return by what factor predicted strengths are off, the median of the held-out sizes."""
        off = [abs(math.log(one.predicted / one.best)) for one in self.held_out]
        return float(np.exp(np.median(off)))

    def loss(self, choice: Literal["predicted", "constant"]) -> float:
        """Return how much error a choice costs against the best strength, the mean of the held-out sizes."""
        lost = [getattr(o, f"error_at_{choice}") - o.error_at_best for o in self.held_out]
        return float(np.mean(lost))


def judge(curves: Curves, phis: Sequence[int]) -> Verdict:
    """Fit the law to all sizes, and to a few to predict the rest.

    Raises `InputError` unless at least two known sizes are fitted and one is left, and `MissingExtraError`
    without scipy.
    """
    few = [place for place, phi in enumerate(curves.phis) if phi in set(phis)]
    if not set(phis) <= set(curves.phis) or not 2 <= len(few) < len(curves.phis):
        known = ", ".join(map(str, curves.phis))
        raise InputError(
            f"cannot fit to φ = {list(phis)}: expected two or more of {known}, not all"
        )
    best, spreads = curves.best(), curves.spreads()
    reaches = [reach(float(spread), curves.errors.shape[2]) for spread in spreads]
    every = list(range(len(curves.phis)))
    some = _fit(curves, few, spreads)
    return Verdict(
        best,
        np.exp(np.log(best)[:, None] + np.outer(reaches, (-1, 1))),
        _fit(curves, every, spreads),
        some,
        [_predict(curves, k, some, float(best[k])) for k in every if k not in few],
    )


def _fit(curves: Curves, places: list[int], spreads: Floats) -> Fit:
    # No best is known better than a quarter of the step between strengths.
    step = float(np.diff(np.log(curves.strengths)).mean())
    spread = np.maximum(spreads, step / 4)[places]

    def law(seeds: list[int] | slice) -> AugmentLaw:
        return AugmentLaw.fit(curves.weights[places], curves.best(seeds)[places], spread)

    seeds, whole = curves.errors.shape[2], law(slice(None))
    off = reach(float(jackknife(lambda chosen: np.array(law(chosen).p), seeds)), seeds)
    constant = np.exp(np.average(np.log(curves.best()[places]), weights=spread**-2))
    phis = tuple(curves.phis[k] for k in places)
    return Fit(phis, whole, (whole.p - off, whole.p + off), float(constant))


def _predict(curves: Curves, place: int, fit: Fit, best: float) -> Prediction:
    predicted = fit.law.strength(curves.weights[place])
    errors = [curves.error_at(place, strength) for strength in (predicted, best, fit.constant)]
    return Prediction(curves.phis[place], predicted, best, *errors)


# The experiment: real trainings, of which every figure above is made.
def train(key: tuple[int, float], seeds: int = SEEDS) -> AugmentCell:
    """Train networks of size φ at a strength, one for each seed, and return their errors.

    A seed means the same digits, the same beginning and the same draws at every strength.
    Raises `MissingExtraError` without scikit-learn.
    """
    phi, strength = key
    outcomes = [_train_one(phi, strength, seed) for seed in range(seeds)]
    return AugmentCell(phi, outcomes[0][0], strength, tuple(error for _, error in outcomes))


def _train_one(phi: int, strength: float, seed: int) -> tuple[int, float]:
    import torch
    from torch.nn.functional import cross_entropy

    pictures, digits = _digits()
    draws = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pictures), generator=draws)
    known, unknown = order[:SAMPLES], order[SAMPLES:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _network(phi)
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        batch = known[torch.randint(SAMPLES, (BATCH,), generator=draws)]
        optimizer.zero_grad()
        loss = cross_entropy(net(augmented(pictures[batch], strength, draws)), digits[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        wrong = net(pictures[unknown]).argmax(1) != digits[unknown]
    weights = sum(p.numel() for p in net.parameters())
    return weights, round(float(wrong.float().mean()), 5)


def _network(phi: int) -> torch.nn.Sequential:
    """Return α^φ convolutions of 3 · β^φ channels between a stem and a classifier."""
    from torch import nn

    width, depth = round(3 * FAMILY.width(phi)), round(FAMILY.depth(phi))
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
    for place in range(depth):
        stride = 2 if place == 0 else 1
        layers += [nn.Conv2d(width, width, 3, stride=stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * width, 10))


def augmented(pictures: torch.Tensor, strength: float, draws: torch.Generator) -> torch.Tensor:
    """Return pictures (N, 1, side, side), each turned, scaled and moved at random; beyond them is −1."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    turn, size, right, down = strength * (2 * torch.rand(4, len(pictures), generator=draws) - 1)
    scale = torch.exp2(size)
    cos, sin = scale * torch.cos(turn * math.pi / 2), scale * torch.sin(turn * math.pi / 2)
    rows = (torch.stack((cos, -sin, right), 1), torch.stack((sin, cos, down), 1))
    grid = affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    # grid_sample puts 0 where there is no picture; here that is the grey between ink and paper.
    return grid_sample(pictures + 1, grid, align_corners=False) - 1


@cache
def _digits() -> tuple[Any, Any]:
    """Return (1797, 1, 8, 8) float32 in [−1, 1] and the digits that they show."""
    import torch

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("training on digits", "plan") from None
    pictures, digits = load_digits(return_X_y=True)
    scaled = torch.tensor(pictures / 8 - 1, dtype=torch.float32)
    return scaled.reshape(-1, 1, 8, 8), torch.tensor(digits)
