"""The backend of ladders that are the user's own code (`python:MODULE:FUNCTION`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...errors import LadderError
from ..own import OwnVariant
from ..variants import Variant
from . import Array, Runner
from .image import ImageRunner


class OwnBackend:
    """Calls what the user's functions load; `threads` are theirs to set."""

    name = "own"

    def __init__(self, threads: int = 1) -> None:
        pass

    def prepare(self) -> None:
        """Nothing is known to be shared."""

    def build(self, variant: Variant) -> Runner:
        """Return what the variant's own function loads; raise `LadderError` for any other variant."""
        if not isinstance(variant, OwnVariant):
            raise LadderError(
                f"variant {variant.name!r} is not one of a python:MODULE:FUNCTION ladder"
            )
        answer = variant.load()

        def forward(image: Array) -> Array:
            return np.asarray(answer(image))[None]

        batch: Callable[[Array], Array] | None = getattr(answer, "batch", None)
        many = None if batch is None else lambda images: np.asarray(batch(images))
        example: Array | None = getattr(answer, "example", None)
        return ImageRunner(forward, lambda image: image, variant.classes, 0, many, example=example)
