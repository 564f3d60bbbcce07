"""A ladder whose answers prove which input they belong to: `ladder = "python:benchmarks.checked:ladder"`.

An answer holds φ, the input's length and the two halves of a CRC of its bytes, all exact in float32. A run
takes as long as the environment says: ADAPHI_CHECKED_MS="2,4,8", the milliseconds of each φ. A batch takes as
long as one alone.
"""

from __future__ import annotations

import os
import time
import zlib
from functools import partial

import numpy as np

from adaphi.model_zoo import OwnVariant
from adaphi.model_zoo.backends import Array

NAME = "python:benchmarks.checked:ladder"
TAKES = "ADAPHI_CHECKED_MS"
REFUSED = (255, 0, 255)
NAMES = ("checked0", "checked1", "checked2")


def proof(phi: int, image: Array) -> Array:
    """Return what φ answers to `image`: (4,) float32."""
    crc = zlib.crc32(np.ascontiguousarray(image).data)
    return np.array([phi, image.nbytes, crc & 0xFFFF, crc >> 16], np.float32)


class Checked:
    """One variant, loaded; an image whose first pixel is `REFUSED` makes it raise."""

    def __init__(self, phi: int, takes_s: float) -> None:
        self._phi, self._takes_s = phi, takes_s

    def __call__(self, image: Array) -> Array:
        """Return the proof of an image."""
        return self.batch(image[None])[0]

    def batch(self, images: Array) -> Array:
        """Return the proofs (k, 4) of images (k, height, width, 3)."""
        time.sleep(self._takes_s)
        if (images[:, 0, 0] == REFUSED).all(axis=1).any():
            raise ValueError("a first pixel is what is refused")
        return np.stack([proof(self._phi, image) for image in images])


def _load(phi: int) -> Checked:
    takes_ms = float(os.environ.get(TAKES, "0,0,0").split(",")[phi])
    return Checked(phi, takes_ms / 1e3)


def ladder() -> list[OwnVariant]:
    """Return the three variants."""
    return [
        OwnVariant(p, name, 0.7 + 0.05 * p, load=partial(_load, p)) for p, name in enumerate(NAMES)
    ]
