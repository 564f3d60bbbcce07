"""A camera that moves: how large a network deserves to be, within a latency limit and under motion blur.

One step of φ multiplies the time of an answer by α β² γ² (`compound`), so L(φ) = L_base · (α β² γ²)^φ.
What the larger picture is worth saturates, and motion blur takes from it: a shutter open while the picture
moves by b pixels multiplies the frequency f (cycles a pixel) by |sinc(f b)| = |sin(π f b) / (π f b)|, the
transfer function of a box (Boreman, *Modulation Transfer Function in Optical and Electro-Optical Systems*,
SPIE 2001). A network that sees the picture's shorter side at r pixels uses frequencies up to r / 2 cycles a
side; with s the blur as a share of that side and κ the share of those frequencies that answers hang on,

    A(r, s) = A∞ · (1 − exp(−r / r₀)) · |sinc(κ r s / 2)|,

in r a rise, a peak and a fall. Blur is a share of the shorter side throughout: cameras of all sizes then obey
one law. A pinhole camera of focal length F (pixels) that flies at v (m/s) past something Z metres away, with
its shutter open for t seconds, has b = F v t / Z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError, MissingExtraError
from .blurring import Blurred, Seen, bits
from .compound import CompoundScaling

Floats = NDArray[np.float64]

_SURE = 0.05


def blur_px(speed_m_s: float, exposure_ms: float, distance_m: float, focal_px: float) -> float:
    """Return b = F v t / Z; raise `InputError` for what is not finite, or not above 0."""
    values = {
        "speed": speed_m_s, "exposure": exposure_ms, "distance": distance_m, "focal": focal_px
    }  # fmt: skip
    for name, value in values.items():
        if not (math.isfinite(value) and (value > 0 or (value == 0 and name == "speed"))):
            raise InputError(f"{name} is {value}; expected a finite number above 0")
    return focal_px * speed_m_s * exposure_ms / 1e3 / distance_m


@dataclass(frozen=True, slots=True)
class BlurLaw:
    """A(r, s) with `ceiling` A∞, `scale_px` r₀ and `sharpness` κ."""

    ceiling: float
    scale_px: float
    sharpness: float

    def gain(self, seen_px: ArrayLike) -> Floats:
        """Return what is right without blur, seen at r pixels."""
        return np.asarray(self.ceiling * -np.expm1(-np.asarray(seen_px) / self.scale_px))

    def transfer(self, seen_px: ArrayLike, blur_share: ArrayLike) -> Floats:
        """Return what is left of it under a blur of s."""
        half = self.sharpness / 2 * np.asarray(seen_px) * np.asarray(blur_share)
        return np.asarray(np.abs(np.sinc(half)))

    def accuracy(self, seen_px: ArrayLike, blur_share: ArrayLike) -> Floats:
        """Return A(r, s)."""
        return self.gain(seen_px) * self.transfer(seen_px, blur_share)


@dataclass(frozen=True, slots=True)
class Fit:
    """A law, the standard errors of its three numbers, and its largest error of a measured share."""

    law: BlurLaw
    errors: tuple[float, float, float]
    worst: float


MEASURED = Fit(BlurLaw(1.0, 142.2, 0.0842), (0.059, 21.4, 0.0024), 0.17)
"""Fitted to docs/scaling/drone.json: EfficientNet-Lite at seven resolutions and six blurs."""


def fit(measured: Blurred) -> Fit:
    """Fit A∞, r₀ and κ to measured shares by least squares; raise `InputError` where they determine none."""
    try:
        from scipy.optimize import curve_fit
    except ImportError:
        raise MissingExtraError("fitting the law of blur", "plan") from None
    shares = measured.shares
    seen_px = np.repeat([float(s.seen_px) for s in measured.seen], len(shares))
    blur = np.tile(shares, len(measured.seen))
    right = np.concatenate([share_right(seen) for seen in measured.seen])

    def law(x: Floats, *numbers: float) -> Floats:
        return BlurLaw(*numbers).accuracy(x[0], x[1])

    points = np.stack([seen_px, blur])
    if len(set(seen_px.tolist())) < 2 or len(shares) < 2:
        raise InputError("a fit needs two resolutions and two blurs at least")
    bounds = ([0.01, 1.0, 1e-3], [1.0, 1e3, 2.0])
    found, covariance = curve_fit(law, points, right, p0=(0.9, 60.0, 0.1), bounds=bounds)
    error = float(np.abs(law(points, *found) - right).max())
    a, b, c = np.sqrt(np.diag(covariance)).tolist()
    return Fit(BlurLaw(*found.tolist()), (a, b, c), error)


def share_right(seen: Seen) -> Floats:
    """Return the share of right answers at each blur, (K,)."""
    return np.asarray(bits(seen.right).mean(axis=1))


class Best(NamedTuple):
    """At one blur: the best of several, all that are not surely worse, and the law's choice."""

    measured: int
    rivals: tuple[int, ...]
    predicted: int

    @property
    def agrees(self) -> bool:
        """Say whether the law's choice is not surely worse than the measured one."""
        return self.predicted in self.rivals


def best_of(several: tuple[Seen, ...], law: BlurLaw, shares: Floats) -> list[Best]:
    """Return, for each blur, which of `several` is best; places in that tuple, the first where equal.

    Another is surely worse where McNemar's exact test on the same photographs says so at 5 %.
    """
    try:
        from statsmodels.stats.contingency_tables import mcnemar
    except ImportError:
        raise MissingExtraError("comparing variants on the same photographs", "plan") from None
    right = np.stack([bits(seen.right) for seen in several])  # (sizes, K, n)
    seen_px = np.array([float(seen.seen_px) for seen in several])
    found = []
    for k, share in enumerate(shares):
        here = right[:, k]
        best = int(here.sum(axis=1).argmax())
        rivals = [
            i
            for i, other in enumerate(here)
            if mcnemar(_crossed(here[best], other), exact=True).pvalue >= _SURE
        ]
        found.append(Best(best, tuple(rivals), int(law.accuracy(seen_px, share).argmax())))
    return found


def _crossed(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.array([[(one & two).sum(), (one & ~two).sum()], [(~one & two).sum(), 0]])


class Planned(NamedTuple):
    """One φ of a family: what an answer takes, how large it sees, what it gets right at each blur."""

    phi: int
    latency_ms: float
    seen_px: float
    accuracy: tuple[float, ...]


def plan(
    scaling: CompoundScaling,
    law: BlurLaw,
    *,
    base_ms: float,
    base_px: float,
    shares: Floats,
    sizes: int,
) -> list[Planned]:
    """Return φ = 0 … `sizes` − 1 of a family whose smallest takes `base_ms` and sees `base_px` pixels."""
    for name, value in (("base_ms", base_ms), ("base_px", base_px)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; expected a finite number above 0")
    family = []
    for phi in range(sizes):
        seen_px = base_px * scaling.resolution(phi)
        right = tuple(law.accuracy(seen_px, shares).tolist())
        family.append(Planned(phi, base_ms * scaling.operations(phi), seen_px, right))
    return family


def largest_worth(family: list[Planned], limit_ms: float, blur: int) -> Planned | None:
    """Return who within the limit is right most often at this blur, the smaller where equal; None: nobody."""
    within = [one for one in family if one.latency_ms <= limit_ms]
    return max(within, key=lambda one: one.accuracy[blur], default=None)
