"""The CUDA backend: timm's models in half precision and channels-last, as graphs of kernels.

On a GPU a small network's forward is mostly the launching of its kernels. A CUDA graph launches them as one:
graphs are captured when a variant is loaded, one for each size of a batch, on a stream of their own and while
other threads run theirs, and belong to the variant, so that a switch is the launch of another graph. Pictures
are prepared on the device, too: to resize one takes a processor ten times the forward.

Half precision answers otherwise than what the ladder's quality was measured with, so `auto` never takes this
backend: it is asked for by name.
"""

from __future__ import annotations

import logging
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import torch

from ...errors import LadderError
from ..images import example_image
from ..preprocessing import Preprocessing
from ..profiling import BATCH_SIZES
from ..timm_import import import_timm
from ..variants import Variant
from . import Array, Runner
from .cuda_graphs import Graphs, Work
from .folding import fold_batch_norms
from .image import ImageRunner
from .torch_eager import agree, bytes_of, imagenet_names, load_timm, logits, timm_preprocess
from .torch_pictures import DevicePreprocessing, Uploaded

log = logging.getLogger("adaphi")

TOLERANCE = 0.05
"""How far half precision may be off, in parts of the largest logit; the first class is to be the same."""


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
        self._graphs = Graphs(torch.device(device))
        # cuDNN's plans, seconds of work for a network, are kept by thread: with one that builds, what comes
        # again finds them.
        self._builder = ThreadPoolExecutor(1, "builder")

    def prepare(self) -> None:
        """Begin the device's context, and import timm and the names of its classes."""
        torch.zeros(1, device=self._graphs.device)
        imagenet_names()

    def build(self, variant: Variant) -> Runner:
        """Return `variant`, its graphs captured; raise `LadderError` if it cannot be had."""
        if variant.weights == "module" or variant.precision != "fp32":
            raise LadderError(
                f"variant {variant.name!r} cannot run on CUDA: timm's fp32 networks alone can here",
                help="use the backend torch, onnx, openvino or auto",
            )
        return self._builder.submit(self._build, variant).result()

    def _build(self, variant: Variant) -> Runner:
        model = load_timm(variant)
        expected = logits(model, timm_preprocess(model)(example_image()))
        preprocess = self._preprocess(model)
        x = preprocess(example_image())
        network = _Network(model, self._graphs, torch.float16)
        got = network(x)
        if not agree(expected, got, TOLERANCE) or expected.argmax() != got.argmax():
            log.warning("%s runs in single precision: in half it answered otherwise", variant.name)
            network = _Network(load_timm(variant), self._graphs, torch.float32)
        network.capture(x)

        def many(pictures: Array) -> Array:
            return network(preprocess.many(pictures))

        runner = ImageRunner(
            network, preprocess, imagenet_names(), network.bytes, many, returns_memory=True
        )
        weakref.finalize(runner, self._graphs.give_back_soon).atexit = False
        return runner

    def _preprocess(self, model: torch.nn.Module) -> DevicePreprocessing | Uploaded:
        """Return what makes a model's input of pictures, on the device where that is known."""
        try:
            prepared = Preprocessing.of_timm(import_timm().data.resolve_model_data_config(model))
        except LadderError:
            return Uploaded(timm_preprocess(model), self._graphs.device)
        made = DevicePreprocessing(prepared, self._graphs, self._builder.submit)
        made.learn((1, *example_image().shape[:2]))
        return made


class _Network:
    """A model on a device, changed in place: (k, 3, side, side) float32 there in, logits (k, classes) out."""

    def __init__(self, model: torch.nn.Module, graphs: Graphs, dtype: torch.dtype) -> None:
        fold_batch_norms(model)
        model.to(graphs.device, dtype)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bytes = bytes_of(model)
        self._model, self._graphs, self._dtype = model, graphs, dtype
        self._captured: dict[int, tuple[torch.Tensor, Work]] = {}

    def capture(self, x: torch.Tensor) -> None:
        """Capture the forward of one input of the shape of `x`, and of as many as a batch may have."""
        for k in (1, *BATCH_SIZES):
            some = x.repeat(k, 1, 1, 1)
            self._captured[k] = some, self._graphs.capture(partial(self._forward, some))

    def __call__(self, x: torch.Tensor) -> Array:
        """Return logits."""
        if len(x) in self._captured:
            captured, again = self._captured[len(x)]
            captured.copy_(x)
            return again().cpu().numpy()  # waits for all of it
        return self._forward(x).cpu().numpy()

    @torch.no_grad()
    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self._dtype, memory_format=torch.channels_last)
        return cast(torch.Tensor, self._model(x).float())
