"""Preprocessing on a device, to PIL's last bit, so that the processor only copies pictures there.

Resizing is a product with a matrix along each axis: what a pixel adds to one of the resized picture depends
on the two lengths alone. PIL tells the matrix itself, when it resizes an identity; its rows around the centre
are resizing and cropping in one. Which axis comes first differs with shape and version, so PIL is asked, too.

PIL computes in whole numbers: weights of 22 bits after the point, levels rounded to 8 bits after each axis.
Products of float32 are exact up to 24 bits, so each weight is split in two: with halves of 11 bits no sum
leaves that range, as long as a pixel is made of no more than 64 (a scale of 1/16 in bicubic).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image

from ..preprocessing import INTERPOLATIONS, Preprocessing
from . import Array
from .cuda_graphs import Graphs

Key = tuple[int, int, int]
"""How many images, their height and width."""
MOST_KNOWN = 32
"""Of so many keys it is known what they need, or that they were seen; a camera brings one."""
_SEEN, _BEING_MADE = "seen", "being made"
_POINT, _HALF = 22, 11  # bits of a weight after the point; bits of its lower half
_BLOCK = 256  # rows of an identity at a time: a whole one of 8192 would take 268 MB


class Uploaded:
    """Preprocessing on the processor, its result brought to a device."""

    def __init__(self, preprocess: Callable[[Array], Array], device: torch.device) -> None:
        self._preprocess, self._device = preprocess, device

    def __call__(self, image: Array) -> torch.Tensor:
        """Return one image's input."""
        return self.many(image[None])

    def many(self, images: Array) -> torch.Tensor:
        """Return the inputs (k, 3, side, side) of images (k, height, width, 3)."""
        x = np.concatenate([self._preprocess(image) for image in images])
        return torch.from_numpy(x).to(self._device)


class DevicePreprocessing:
    """`prepared` on a device: images (height, width, 3) uint8 in, (1, 3, side, side) float32 there out.

    What a shape of images needs is made when the shape comes for the second time, by `later`, which runs it
    in another thread; until then images are prepared on the processor. What is returned holds until the next
    call.
    """

    def __init__(
        self,
        prepared: Preprocessing,
        graphs: Graphs,
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        self._prepared, self._graphs, self._later = prepared, graphs, later
        self._uploaded = Uploaded(prepared, graphs.device)
        self._known: OrderedDict[Key, _Shape | str] = OrderedDict()  # the last is the one seen last

    def __call__(self, image: Array) -> torch.Tensor:
        """Return one image's input."""
        return self.many(image[None])

    def many(self, images: Array) -> torch.Tensor:
        """Return the inputs (k, 3, side, side) of images (k, height, width, 3)."""
        key = images.shape[0], images.shape[1], images.shape[2]
        known = self._known.get(key)
        if known is None:
            self._note(key, _SEEN)
        else:
            self._known.move_to_end(key)
            if isinstance(known, _Shape):
                return known(images)
            if known is _SEEN:
                self._known[key] = _BEING_MADE
                self._later(partial(self._learn_behind, key))
        return self._uploaded.many(images)

    def learn(self, key: Key) -> None:
        """Make what `k` images of one height and width need."""
        self._note(key, _Shape(self._prepared, self._graphs, *key))

    def _learn_behind(self, key: Key) -> None:
        shape = _Shape(self._prepared, self._graphs, *key)
        if key in self._known:  # only the thread that asks forgets: what it holds is not to vanish
            self._known[key] = shape

    def _note(self, key: Key, what: _Shape | str) -> None:
        self._known[key] = what
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)


class _Shape:
    """What `k` images of one shape need: where they are put down, both axes' matrices, and their order."""

    def __init__(
        self, prepared: Preprocessing, graphs: Graphs, k: int, height: int, width: int
    ) -> None:
        self._device = graphs.device
        self._put_down = torch.empty((k, height, width, 3), dtype=torch.uint8)
        if self._device.type == "cuda":
            self._put_down = self._put_down.pin_memory()  # a device copies from it without waiting
        self._uploaded = torch.empty_like(self._put_down, device=self._device)
        self._across, self._down = (
            _halves(_weights(length, resized, prepared)).to(self._device)
            for length, resized in zip(
                (width, height), prepared.resized(width, height), strict=True
            )
        )
        # A device divides by a number by multiplying: to the last bit it divides by a tensor alone.
        self._top = torch.tensor(255.0, device=self._device)
        self._mean, self._std = (
            torch.tensor(channels, device=self._device)[:, None, None]
            for channels in (prepared.mean, prepared.std)
        )
        self._order = self._as_pil(prepared, height, width)
        self._prepare = graphs.capture(self._prepared)

    def __call__(self, images: Array) -> torch.Tensor:
        """Return the inputs (k, 3, side, side) of images (k, height, width, 3)."""
        self._upload(images)
        return self._prepare()

    def _upload(self, images: Array) -> None:
        np.copyto(self._put_down.numpy(), images)
        self._uploaded.copy_(self._put_down, non_blocking=True)

    @torch.no_grad()
    def _prepared(self) -> torch.Tensor:
        return self._levels(self._order).div_(self._top).sub_(self._mean).div_(self._std)

    def _levels(self, order: tuple[int, int]) -> torch.Tensor:
        """Return the levels 0 to 255 (k, 3, side, side) float32 of what was uploaded."""
        x = self._uploaded.permute(0, 3, 1, 2)
        x = x.to(torch.float32, memory_format=torch.contiguous_format)
        for axis in order:
            sums = x @ self._across.mT if axis == -1 else self._down @ x
            x = _levels(*sums.chunk(2, axis))
        return x

    def _as_pil(self, prepared: Preprocessing, height: int, width: int) -> tuple[int, int]:
        """Return the axes in the order in which PIL resizes them."""
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        expected = torch.tensor(prepared.cropped(picture).transpose(2, 0, 1), device=self._device)
        self._upload(picture[None])

        def off(order: tuple[int, int]) -> int:
            return int((self._levels(order) != expected).sum())

        return min((-1, -2), (-2, -1), key=off)


def _levels(upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """Return the levels, float32, that the sums over the halves of the weights make together."""
    sums = torch.add(lower.int(), upper.int(), alpha=1 << _HALF).add_(1 << _POINT - 1)
    return sums.bitwise_right_shift_(_POINT).clamp_(0, 255).float()


def _halves(weights: Array) -> torch.Tensor:
    """Return the upper halves above the lower, which lie around 0: (2 × side, length) float32."""
    middle = 1 << _HALF - 1
    lower = (weights + middle) % (1 << _HALF) - middle
    halves = np.concatenate(((weights - lower) >> _HALF, lower))
    return torch.from_numpy(halves.astype(np.float32))


def _weights(length: int, resized: int, prepared: Preprocessing) -> Array:
    """Return what each of `length` pixels adds to the centre's of `resized`: (side, length) int32."""
    columns = []
    for first in range(0, length, _BLOCK):
        some = min(_BLOCK, length - first)
        ones = Image.fromarray(np.eye(some, length, first, dtype=np.int32) << _POINT)
        columns.append(
            np.asarray(ones.resize((resized, some), INTERPOLATIONS[prepared.interpolation]))
        )
    weights: Array = np.concatenate(columns).T[prepared.centre(resized)]
    return weights
