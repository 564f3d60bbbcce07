"""What an image is to adaphi: an array of uint8, height × width × 3, red first. No torch here."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequest

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SIDE = 8192


def as_image(picture: str | Path | Image | NDArray[Any]) -> NDArray[np.uint8]:
    """Return a file's, PIL's or numpy's picture as (height, width, 3) uint8.

    Grey becomes three equal channels; an alpha channel is dropped. Raises `InvalidRequest`.
    """
    if isinstance(picture, str | Path):
        from PIL import Image as pil
        from PIL import UnidentifiedImageError

        try:
            with pil.open(picture) as file:
                return np.asarray(file.convert("RGB"))
        except UnidentifiedImageError:
            raise InvalidRequest(f"{picture} is not a picture that PIL can read") from None
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"cannot read {picture}: {error}") from None
    if hasattr(picture, "convert"):
        return np.asarray(picture.convert("RGB"))
    array = np.asarray(picture)
    if array.dtype == np.uint8 and array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 4:
        array = array[:, :, :3]
    check_image(array)
    return array


def check_image(array: NDArray[Any]) -> None:
    """Raise `InvalidRequest` unless `array` is (height, width, 3) uint8 of a sane size."""
    if array.dtype != np.uint8:
        raise InvalidRequest(f"an image is uint8, got {array.dtype}")
    if array.ndim != 3 or array.shape[2] != 3:
        raise InvalidRequest(f"an image is height × width × 3, got shape {tuple(array.shape)}")
    if not all(1 <= side <= MAX_SIDE for side in array.shape[:2]):
        raise InvalidRequest(
            f"an image has sides of 1 to {MAX_SIDE} pixels, got shape {tuple(array.shape)}"
        )


@cache
def example_image(height: int = 480, width: int = 640) -> NDArray[np.uint8]:
    """Return a smooth picture (height, width, 3), the same every time: to warm up and to measure."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (17 + 9 * c)) + np.cos(y / (23 + 7 * c)) for c in range(3)]
    return (127.5 + 63 * np.stack(waves, axis=2)).astype(np.uint8)
