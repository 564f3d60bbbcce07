"""What a ladder is, before anything is measured: names, weights, quality. No torch here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import LadderError

Origin = Literal["measured", "published", "modelled", "stated"]
"""Where a figure comes from; *stated* means that the user said so."""

Weights = Literal["package", "hub", "none", "module", "own"]
"""Where weights come from: an installed package, timm's hub, random, the user's own module or function."""

Precision = Literal["fp32", "int8"]
_INT8 = "-int8"


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of a ladder; `phi` is its place, 0 = smallest; `quality` lies in [0, 1].

    A `name` that ends in `-int8` means the network before that in reduced precision, its ranges found on the
    pictures in the folder `calibration` ("": photographs that are installed).
    """

    phi: int
    name: str
    quality: float
    quality_origin: Origin = "published"
    weights: Weights = "hub"
    calibration: str = ""

    @property
    def precision(self) -> Precision:
        """Return what the arithmetic of this variant is done in."""
        return "int8" if self.name.endswith(_INT8) else "fp32"

    @property
    def network(self) -> str:
        """Return the name of the model, whatever its precision."""
        return self.name.removesuffix(_INT8)


@dataclass(frozen=True, slots=True)
class Ladder:
    """Variants of one task in order of cost.

    With `candidates` the order is only a beginning: measuring puts them into that of their cost on the
    device, and drops whatever another one beats.

    Raises `LadderError` if there is no variant, if `phi` does not count 0, 1, 2, … in order, or if
    a quality is not a finite number.
    """

    name: str
    variants: tuple[Variant, ...]
    candidates: bool = False

    def __post_init__(self) -> None:
        if not self.variants:
            raise LadderError(f"ladder {self.name!r} has no variant")
        for place, variant in enumerate(self.variants):
            if variant.phi != place:
                raise LadderError(
                    f"ladder {self.name!r}: variant {variant.name!r} has phi={variant.phi} at "
                    f"place {place}; phi counts 0, 1, 2, … in order"
                )
            if not math.isfinite(variant.quality):
                raise LadderError(
                    f"ladder {self.name!r}: the quality of {variant.name!r} is {variant.quality}"
                )

    def __len__(self) -> int:
        return len(self.variants)

    @property
    def fingerprint(self) -> str:
        """Return a digest of the variants' names in order: what a policy is bound to."""
        return fingerprint(v.name for v in self.variants)


def fingerprint(names: Iterable[str]) -> str:
    """Return 16 hex digits that identify an ordered list of variant names."""
    text = "\n".join(names)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
