"""Compound scaling: depth, width and resolution grow together (Tan and Le 2019, arXiv:1905.11946, eq. 3).

A network of size φ has d = α^φ times the layers of the smallest, w = β^φ times its channels and r = γ^φ times
its input's side. A convolution's operations go with d · w² · r², its weights with d · w², and what one layer
hands to the next with w · r². So one step of φ costs α β² γ² times as much; the published rule was searched
under α β² γ² ≈ 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import InputError


@dataclass(frozen=True, slots=True)
class CompoundScaling:
    """A rule (α, β, γ), each a finite number above 0; raises `InputError` for any other."""

    alpha: float
    beta: float
    gamma: float

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}; expected a finite number above 0")

    def depth(self, phi: float) -> float:
        """Return d = α^φ."""
        return math.pow(self.alpha, phi)

    def width(self, phi: float) -> float:
        """Return w = β^φ."""
        return math.pow(self.beta, phi)

    def resolution(self, phi: float) -> float:
        """Return r = γ^φ."""
        return math.pow(self.gamma, phi)

    def operations(self, phi: float) -> float:
        """Return d · w² · r², relative to φ = 0."""
        return self.depth(phi) * self.width(phi) ** 2 * self.resolution(phi) ** 2

    def weights(self, phi: float) -> float:
        """Return d · w², relative to φ = 0."""
        return self.depth(phi) * self.width(phi) ** 2

    def activations(self, phi: float) -> float:
        """Return w · r², what one layer hands to the next, relative to φ = 0."""
        return self.width(phi) * self.resolution(phi) ** 2


PUBLISHED = CompoundScaling(1.2, 1.1, 1.15)
"""The rule of EfficientNet: α β² γ² = 1.92."""
