"""Why ratios: how an embryo of any length puts its stripes at the same relative places.

A morphogen is made at one end and decays on its way: c(x) = a e^(−x/λ) at distance x (Houchmandzadeh,
Wieschaus and Leibler 2002, Nature 415:798). A stripe forms where a signal equals its threshold, and
thresholds are alike in all embryos: those that put the stripes of the reference embryo (length
L₀ = `LENGTH_UM`, both amplitudes 1) at the shares u of its length. What another embryo, of length L, with
amplitudes a at the head and p at the tail, makes of them depends on the signal alone:

    fixed           a e^(−x/λ), λ the same for all         x = u L₀ + λ ln a
    proportional    a e^(−x/λ), λ ∝ L                      x = u L + λ ln a
    concentrations  head ÷ tail, λ the same for all        x = L/2 + (u − ½) L₀ + (λ/2) ln (a/p)
    ratio           ln head ÷ ln tail, any λ               x = u L + λ ((1 − u) ln a − u ln p)

The third is that of McHale, Rappel and Levine (2006, Phys. Biol. 3:107): it scales exactly at mid-embryo
alone. The fourth compares the distances to the two ends, each counted in decay lengths, so that λ and L both
cancel. The scaling coefficient d ln x / d ln L is 0 for an amount and 1 for a share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

Floats = NDArray[np.float64]

LENGTH_UM = 500.0
"""Of the reference embryo; about that of *Drosophila melanogaster*."""
DECAY_UM = 100.0
"""Of a gradient in the reference embryo: a fifth of its length, about that of Bicoid."""
STRIPES = tuple(round(0.45 + 0.07 * (k - 3), 2) for k in range(1, 8))
"""Shares of the length. Synthetic: evenly spaced, stripe 3 at 45 %."""

WITHIN_LENGTH_SD = 0.04
"""Lengths within one strain, as a share (arXiv:1812.11384)."""
BETWEEN_LENGTH = 0.25
"""How much longer the eggs of one line are than those of another (Lott et al. 2007)."""
POSITION_SD = 0.01
"""Of a stripe's share of the length: the published bound (arXiv:1812.11384, arXiv:2312.17684)."""


@dataclass(frozen=True)
class Embryos:
    """N embryos: lengths in µm (N,), amplitudes of the gradients of head and tail (N,), 1 in the reference.

    Raises `InputError` for anything that is not finite and above 0.
    """

    length_um: Floats
    head: Floats
    tail: Floats

    def __post_init__(self) -> None:
        for name in ("length_um", "head", "tail"):
            values = getattr(self, name)
            if (wrong := values[~(np.isfinite(values) & (values > 0))]).size:
                raise InputError(f"{name} holds {wrong[0]:g}; expected finite numbers above 0")

    @classmethod
    def of(cls, length_um: ArrayLike, *, amplitude_sd: float = 0.0, seed: int = 0) -> Embryos:
        """Return embryos of these lengths; the logarithms of their amplitudes are normal with this s.d."""
        lengths = np.atleast_1d(np.asarray(length_um, dtype=np.float64))
        noise = np.random.default_rng(seed).normal(size=(2, len(lengths)))
        head, tail = np.exp(amplitude_sd * noise)
        return cls(lengths, head, tail)


def strain_um(count: int, *, length_sd: float = WITHIN_LENGTH_SD, seed: int = 0) -> Floats:
    """Return the lengths of one strain (N,): log-normal around `LENGTH_UM`, `length_sd` that of ln L."""
    normal = np.random.default_rng([seed, 1]).normal(size=count)
    return LENGTH_UM * np.exp(length_sd * normal)


def _fixed(share: Floats, embryos: Embryos) -> Floats:
    return share * LENGTH_UM + DECAY_UM * np.log(embryos.head)


def _proportional(share: Floats, embryos: Embryos) -> Floats:
    decay_um = DECAY_UM * embryos.length_um / LENGTH_UM
    return share * embryos.length_um + decay_um * np.log(embryos.head)


def _concentrations(share: Floats, embryos: Embryos) -> Floats:
    shift_um = DECAY_UM / 2 * np.log(embryos.head / embryos.tail)
    return embryos.length_um / 2 + (share - 0.5) * LENGTH_UM + shift_um


def _ratio(share: Floats, embryos: Embryos) -> Floats:
    shift = (1 - share) * np.log(embryos.head) - share * np.log(embryos.tail)
    return share * embryos.length_um + DECAY_UM * shift


SIGNALS: dict[str, Callable[[Floats, Embryos], Floats]] = {
    "fixed": _fixed,
    "proportional": _proportional,
    "concentrations": _concentrations,
    "ratio": _ratio,
}


def positions_um(signal: str, embryos: Embryos, shares: ArrayLike = STRIPES) -> Floats:
    """Return where stripes form (K, N): those at `shares` (K,) of the reference embryo's length.

    A position outside 0 … L is a stripe that this embryo lacks. Raises `InputError` for an unknown signal.
    """
    if signal not in SIGNALS:
        raise InputError(f"no signal is called {signal!r}", help=f"one of {', '.join(SIGNALS)}")
    column = np.asarray(shares, dtype=np.float64)[:, np.newaxis]
    return SIGNALS[signal](column, embryos)


@dataclass(frozen=True)
class Invariance:
    """How well K places keep their share of a size that varies: of length, or of a network's latency."""

    coefficient: Floats
    """d ln x / d ln L of each (K,): 0 for an amount, 1 for a share."""
    spread: Floats
    """S.d. of each share x / L within the strain (K,)."""
    apart: Floats
    """How far each share is apart in two of different size (K,)."""

    @property
    def holds(self) -> bool:
        """Say whether every place keeps its share to `POSITION_SD`, within the strain and between the two."""
        return bool(max(self.spread.max(), self.apart.max()) <= POSITION_SD)


def measure(places: Floats, sizes: Floats, pair: Floats, pair_sizes: Floats) -> Invariance:
    """Return how places (K, N) at sizes (N,) keep their share, and a `pair` of places (K, 2) theirs.

    The coefficient is a slope by least squares over `sizes`.
    """
    slope: Floats = np.polyfit(np.log(sizes), np.log(places).T, 1)[0]
    shares = pair / pair_sizes
    return Invariance(slope, np.std(places / sizes, axis=1), np.abs(shares[:, 1] - shares[:, 0]))
