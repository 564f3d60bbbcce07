"""The CUDA backend: timm's models in half precision and channels-last, one graph of kernels a variant.

On a GPU a small network's forward is mostly the launching of its kernels. A CUDA graph launches them as one:
it is captured when a variant is loaded, on a stream of its own and while other threads run theirs, and then
belongs to the variant, so that a switch is the launch of another graph. A graph has one shape; batches run
without.

Half precision answers otherwise than what the ladder's quality was measured with, so `auto` never takes this
backend: it is asked for by name.
"""

from __future__ import annotations

import logging
from typing import cast

import numpy as np
import torch

from ...errors import LadderError
from ..images import example_image
from ..variants import Variant
from . import Array, Runner
from .folding import fold_batch_norms
from .image import ImageRunner
from .torch_eager import agree, bytes_of, imagenet_names, load_timm, timm_preprocess

log = logging.getLogger("adaphi")

TOLERANCE = 0.05
"""How far half precision may be off, in parts of the largest logit; the first class is to be the same."""
WARM_UP_RUNS = 3
"""Runs before a graph is captured: libraries choose their kernels in the first ones."""


class CudaBackend:
    """Runs variants on `device`; raises `LadderError` where torch sees no CUDA device.

    Another device than "cuda" computes the same without graphs, which is for tests.
    """

    name = "cuda"

    def __init__(self, threads: int = 1, *, device: str = "cuda") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise LadderError(
                "torch sees no CUDA device here",
                help="use the backend torch, or install a build of torch for CUDA",
            )
        torch.set_num_threads(threads)
        self._device = torch.device(device)

    def prepare(self) -> None:
        """Begin the device's context, and import timm and the names of its classes."""
        torch.zeros(1, device=self._device)
        imagenet_names()

    def build(self, variant: Variant) -> Runner:
        """Return `variant`, its graph captured; raise `LadderError` if it cannot be had."""
        if variant.weights == "module" or variant.precision != "fp32":
            raise LadderError(
                f"variant {variant.name!r} cannot run on CUDA: timm's fp32 networks alone can here",
                help="use the backend torch, onnx, openvino or auto",
            )
        model = load_timm(variant)
        preprocess = timm_preprocess(model)
        x = preprocess(example_image())
        expected = _Eager(model, torch.device("cpu"), torch.float32)(x)
        forward = self._moved(model, torch.float16)
        got = forward(x)
        if not agree(expected, got, TOLERANCE) or expected.argmax() != got.argmax():
            log.warning("%s runs in single precision: in half it answered otherwise", variant.name)
            model = load_timm(variant)
            forward = self._moved(model, torch.float32)

        def many(pictures: Array) -> Array:
            return forward(np.concatenate([preprocess(picture) for picture in pictures]))

        one = _Graph(forward, x) if self._device.type == "cuda" else forward
        return ImageRunner(one, preprocess, imagenet_names(), bytes_of(model), many)

    def _moved(self, model: torch.nn.Module, dtype: torch.dtype) -> _Eager:
        """Return `model`, changed in place, as it runs on the device."""
        fold_batch_norms(model)
        model.to(self._device, dtype)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return _Eager(model, self._device, dtype)


class _Eager:
    """A model on a device: float32 arrays (k, 3, side, side) in, float32 logits (k, classes) out."""

    def __init__(self, model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self._model, self._dtype = model, dtype

    def __call__(self, x: Array) -> Array:
        """Return logits."""
        return self.on_device(torch.from_numpy(x).to(self.device)).cpu().numpy()

    @torch.no_grad()
    def on_device(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of what is on the device already, there."""
        x = x.to(self._dtype, memory_format=torch.channels_last)
        return cast(torch.Tensor, self._model(x).float())


class _Graph:
    """A model's forward for the shape of `x`, captured once and launched as one."""

    def __init__(self, forward: _Eager, x: Array) -> None:
        self._forward = forward  # its weights are the graph's
        self._staged = torch.from_numpy(x).pin_memory()  # what a device copies from without waiting
        self._input = self._staged.to(forward.device)
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP_RUNS):
                forward.on_device(self._input)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads' runs go on meanwhile: only this one's calls may spoil the capture.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = forward.on_device(self._input)

    def __call__(self, x: Array) -> Array:
        """Return the logits (1, classes) of an array of the captured shape."""
        self._staged.copy_(torch.from_numpy(x))
        self._input.copy_(self._staged, non_blocking=True)
        self._graph.replay()
        return self._output.cpu().numpy()  # waits for all of it
