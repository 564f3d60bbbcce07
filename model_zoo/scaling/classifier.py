"""A variant as an experiment asks it: one picture in, the scores of its classes out, at any resolution."""

from __future__ import annotations

import math
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..backends import get_backend
from ..backends.image import ImageRunner
from ..preprocessing import Preprocessing
from ..timm_import import import_timm
from ..variants import Variant

Floats = NDArray[np.floating[Any]]


class Classifier:
    """One variant of timm's, run by torch; raises `LadderError` where it cannot be had."""

    def __init__(self, variant: Variant, *, threads: int = 1) -> None:
        self._runner = cast(ImageRunner, get_backend("torch", threads=threads).build(variant))
        timm = import_timm()
        config = timm.get_pretrained_cfg(variant.name).to_dict()
        config = timm.data.resolve_data_config(pretrained_cfg=config)
        self._preprocessing = Preprocessing.of_timm(config)

    @property
    def side(self) -> int:
        """Return the side of the input (pixels) that the variant was trained for."""
        return self._preprocessing.side

    def preprocessing(self, side: int | None = None) -> Preprocessing:
        """Return how a picture becomes an input of `side` pixels (None: its own); the same share is seen."""
        own = self._preprocessing
        if side is None or side == own.side:
            return own
        resize = math.floor(side * own.resize / own.side)
        return msgspec.structs.replace(own, side=side, resize=resize)

    def logits(self, picture: NDArray[np.uint8], side: int | None = None) -> Floats:
        """Return (classes,) for a picture (height, width, 3), seen at `side` pixels (None: its own)."""
        return cast(Floats, self._runner.forward(self.preprocessing(side)(picture))[0])
