"""A ladder whose operators cost more to begin than to do: `ladder = "python:benchmarks.tiny:ladder"`.

Small networks of timm's in eager torch on pictures of 64 × 64, with random weights: a hundred operators have
to be begun for one picture as for eight. Their answers mean nothing; their costs are real.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np

from adaphi.model_zoo import OwnVariant
from adaphi.model_zoo.backends import Array

NAME = "python:benchmarks.tiny:ladder"
SIDE = 64
NETWORKS = ("mobilenetv3_small_100", "mobilenetv3_large_075", "mobilenetv3_large_100")


class Tiny:
    """One variant, loaded."""

    def __init__(self, network: str) -> None:
        import torch

        from adaphi.model_zoo.timm_import import import_timm

        self._torch = torch
        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = import_timm().create_model(network, pretrained=False).eval()
        self._model = model.to(memory_format=torch.channels_last)

    def __call__(self, image: Array) -> Array:
        """Return the logits (1000,) of an image."""
        return cast(Array, self.batch(image[None])[0])

    def batch(self, images: Array) -> Array:
        """Return the logits (k, 1000) of images (k, height, width, 3) with sides of 64 or more."""
        rows, columns = (side // SIDE for side in images.shape[1:3])
        thinned = images[:, ::rows, ::columns][:, :SIDE, :SIDE].transpose(0, 3, 1, 2)
        x = self._torch.from_numpy(thinned.astype(np.float32) / np.float32(255))
        with self._torch.inference_mode():
            return cast(Array, self._model(x).numpy())


def ladder() -> list[OwnVariant]:
    """Return the three variants."""
    return [
        OwnVariant(phi, name, 0.6 + 0.05 * phi, load=partial(Tiny, name))
        for phi, name in enumerate(NETWORKS)
    ]
