"""The runner of every backend whose models take pictures: preprocessing, a forward, class names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..images import check_image, example_image
from . import Array


class ImageRunner:
    """Image in, logits out.

    `preprocess` makes the network's input (1, 3, side, side) float32 of an image (height, width, 3)
    uint8; `forward` makes logits (1, classes) of that; `classes` names them. `many`, where there is one,
    makes logits (k, classes) of pictures (k, height, width, 3).
    """

    def __init__(
        self,
        forward: Callable[[Array], Array],
        preprocess: Callable[[Array], Array],
        classes: Sequence[str],
        weights_bytes: int,
        many: Callable[[Array], Array] | None = None,
        *,
        needs_warm_up: bool = True,
    ) -> None:
        self.forward = forward
        self.preprocess = preprocess
        self.weights_bytes = weights_bytes
        self.needs_warm_up = needs_warm_up
        self.example = example_image()
        self.batch: Callable[[Array], Array] | None = (
            None if many is None else partial(_checked, many)
        )
        self._classes = classes

    def __call__(self, x: Array) -> Array:
        """Return the logits (classes,) of an image (height, width, 3) of uint8."""
        check_image(x)
        logits: Array = self.forward(self.preprocess(x))[0]
        return logits

    def labels(self, output: Array, top: int) -> tuple[tuple[str, float], ...]:
        """Return the `top` likeliest classes with their probabilities; () where they have no names."""
        if len(self._classes) != output.shape[-1]:
            return ()
        logits = output.astype(np.float64)
        probability = np.exp(logits - logits.max())
        probability /= probability.sum()
        best = np.argsort(-logits, kind="stable")[:top]
        return tuple((self._classes[i], float(probability[i])) for i in best)


def _checked(many: Callable[[Array], Array], pictures: Array) -> Array:
    check_image(pictures[0])
    return many(pictures)
