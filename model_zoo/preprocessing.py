"""What timm does to a picture before its models see it, in PIL and numpy, to the last bit.

Resize the shorter side, crop the centre, scale to [0, 1], subtract the mean, divide by the standard
deviation: timm's evaluation transform in its mode `center` with a square input, which nearly all of
its models use. torch is not needed for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import LadderError

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocessing(msgspec.Struct, frozen=True):
    """`side` (pixels) of the network's square input, and how a picture becomes one.

    `resize` (pixels) is what the picture's shorter side becomes before the centre is cropped; `mean` and
    `std` belong to channels in [0, 1].
    """

    side: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of_timm(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Return what timm's data configuration says; raise `LadderError` where this module cannot do it."""
        channels, height, width = config["input_size"]
        known = config["crop_mode"] == "center" and config["interpolation"] in INTERPOLATIONS
        if not known or channels != 3 or height != width:
            raise LadderError(
                f"a picture would have to be prepared by {dict(config)}, which only torch can do here",
                help="use the backend torch",
            )
        return cls(
            side=height,
            resize=math.floor(height / config["crop_pct"]),
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (1, 3, side, side) float32 of an image (height, width, 3) uint8."""
        x = self.cropped(image).transpose(2, 0, 1)[None].astype(np.float32, order="C")
        x /= np.float32(255)
        x -= np.array(self.mean, np.float32)[:, None, None]
        x /= np.array(self.std, np.float32)[:, None, None]
        return x

    def cropped(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pixels (side, side, 3) that the network sees of an image, resized and cropped."""
        picture = Image.fromarray(image)
        size = self.resized(*picture.size)
        picture = picture.resize(size, INTERPOLATIONS[self.interpolation])
        across, down = map(self.centre, size)
        return np.asarray(picture.crop((across.start, down.start, across.stop, down.stop)))

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height (pixels) that a picture of these is resized to."""
        short, long = sorted((width, height))
        longer = int(self.resize * long / short)
        return (self.resize, longer) if width <= height else (longer, self.resize)

    def centre(self, length: int) -> slice:
        """Return which of `length` pixels along one side the network sees."""
        first = round((length - self.side) / 2)
        return slice(first, first + self.side)
