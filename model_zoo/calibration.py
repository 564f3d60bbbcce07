"""Pictures on which the ranges of an int8 variant are found, and its answers compared with fp32's.

Four photographs that scikit-image carries find ranges as good as a hundred of ImageNet's do, noise does not
(docs/backends.md). A device's own pictures may take their place.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequest, LadderError, MissingExtraError
from .images import as_image

Picture = NDArray[np.uint8]

_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_MOST = 200  # of a folder: more change nothing but the time


def calibration_pictures(folder: str = "") -> list[Picture]:
    """Return the pictures in `folder`, or each photograph of scikit-image's with its four corners.

    Raises `LadderError` where a folder has none, `MissingExtraError` without scikit-image.
    """
    if folder:
        return [_read(path) for path in _files(folder)]
    try:
        from skimage import data
    except ImportError:
        raise MissingExtraError("an int8 model without pictures of your own", "int8") from None
    return [part for name in _PHOTOGRAPHS for part in _parts(getattr(data, name)())]


def calibration_digest(folder: str = "") -> str:
    """Return what tells one set of pictures from another, without decoding any."""
    if not folder:
        return ",".join(_PHOTOGRAPHS)
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(folder: str) -> list[Path]:
    found = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in _ENDINGS)
    if not found:
        raise LadderError(
            f"{folder} holds no pictures to find the ranges of int8 variants on",
            help=f"name a folder with some that end in {', '.join(_ENDINGS)}",
        )
    return found[:_MOST]


def _read(path: Path) -> Picture:
    try:
        return as_image(path)
    except InvalidRequest as error:
        raise LadderError(error.message, help="take it out of the folder") from None


def _parts(photograph: Picture) -> list[Picture]:
    """Return a photograph, and two thirds of it from each corner."""
    height, width = (2 * side // 3 for side in photograph.shape[:2])
    return [
        photograph,
        photograph[:height, :width],
        photograph[:height, -width:],
        photograph[-height:, :width],
        photograph[-height:, -width:],
    ]
