"""The runner of every backend but one's own modules: preprocessing, a forward, class names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import InvalidRequest
from ..images import check_image, example_image
from . import Array


class ImageRunner:
    """Image in, logits out.

    `preprocess` makes the network's input (1, 3, side, side) float32, where `forward` wants it, of an image
    (height, width, 3) uint8; `forward` makes logits (1, classes) of that; `classes` names them. `many`, where
    there is one, makes logits (k, classes) of pictures (k, height, width, 3). With an `example` the input is
    no image but an array of that dtype and number of axes, and what is said here of images holds of those.
    """

    def __init__(
        self,
        forward: Callable[[Any], Array],
        preprocess: Callable[[Array], Any],
        classes: Sequence[str],
        weights_bytes: int,
        many: Callable[[Array], Array] | None = None,
        *,
        needs_warm_up: bool = True,
        returns_memory: bool = False,
        example: Array | None = None,
    ) -> None:
        self.forward = forward
        self.preprocess = preprocess
        self.weights_bytes = weights_bytes
        self.needs_warm_up = needs_warm_up
        self.returns_memory = returns_memory
        self.example: Array = example_image() if example is None else example
        self._is_image = example is None
        self._many = many
        self._classes = classes

    @property
    def batch(self) -> Callable[[Array], Array] | None:
        """Return what takes k inputs, stacked; None where one at a time is all it can."""
        # No attribute: a runner that refers to itself would outlive its eviction until garbage is collected.
        return None if self._many is None else self._batch

    def __call__(self, x: Array) -> Array:
        """Return the logits (classes,) of an image (height, width, 3) of uint8."""
        self._check(x)
        logits: Array = self.forward(self.preprocess(x))[0]
        return logits

    def labels(self, output: Array, top: int) -> tuple[tuple[str, float], ...]:
        """Return the `top` likeliest classes with their probabilities; () where they have no names."""
        if output.shape != (len(self._classes),):
            return ()
        logits = output.astype(np.float64)
        probability = np.exp(logits - logits.max())
        probability /= probability.sum()
        best = np.argsort(-logits, kind="stable")[:top]
        return tuple((self._classes[i], float(probability[i])) for i in best)

    def _batch(self, stack: Array) -> Array:
        assert self._many is not None
        self._check(stack[0])
        return self._many(stack)

    def _check(self, x: Array) -> None:
        if self._is_image:
            check_image(x)
        else:
            check_like(x, self.example)


def check_like(x: Array, example: Array) -> None:
    """Raise `InvalidRequest` unless `x` has the dtype and the number of axes of `example`."""
    if x.dtype != example.dtype or x.ndim != example.ndim:
        raise InvalidRequest(
            f"the model takes {example.dtype} with {example.ndim} axes, "
            f"got {x.dtype} with shape {tuple(x.shape)}"
        )
