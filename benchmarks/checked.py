"""A ladder whose answers prove which input they belong to: `ladder = "python:benchmarks.checked:ladder"`.

An answer holds φ, the input's length and the two halves of a CRC of its bytes, all exact in float32. A run
takes as long as the environment says: ADAPHI_CHECKED_MS="2,4,8", the milliseconds of each φ.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np

from adaphi.model_zoo import OwnVariant
from adaphi.model_zoo.backends import Array

NAME = "python:benchmarks.checked:ladder"
TAKES = "ADAPHI_CHECKED_MS"
NAMES = ("checked0", "checked1", "checked2")


def proof(phi: int, image: Array) -> Array:
    """Return what φ answers to `image`: (4,) float32."""
    crc = zlib.crc32(np.ascontiguousarray(image).data)
    return np.array([phi, image.nbytes, crc & 0xFFFF, crc >> 16], np.float32)


def _answer(phi: int, takes_s: float, image: Array) -> Array:
    time.sleep(takes_s)
    return proof(phi, image)


def _load(phi: int) -> Callable[[Array], Array]:
    takes_ms = float(os.environ.get(TAKES, "0,0,0").split(",")[phi])
    return partial(_answer, phi, takes_ms / 1e3)


def ladder() -> list[OwnVariant]:
    """Return the three variants."""
    return [
        OwnVariant(p, name, 0.7 + 0.05 * p, load=partial(_load, p)) for p, name in enumerate(NAMES)
    ]
