"""The torch backend: timm models with their own preprocessing, and a user's own modules.

timm's models get their batch norms folded, channels-last memory and packed weights once, when they are
loaded; a user's modules run as they come.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from ...errors import LadderError
from ..images import example_image
from ..ladders import DEFAULT
from ..timm_import import import_timm
from ..variants import Variant
from ..weights import packaged_weights
from . import Array, Runner
from .export import cache_folder
from .folding import fold_batch_norms
from .image import ImageRunner, check_like
from .packing import Shapes, can_pack, input_shapes, make_packable, pack
from .shelf import Loan, Shelf

log = logging.getLogger("adaphi")

TOLERANCE = 1e-4
"""How far what was made faster may be off, in parts of the largest logit."""


class TorchBackend:
    """Runs variants in torch, eagerly, on the CPU; all of one process share the thread count.

    With `modules`, variant φ is `modules[φ]`, called with the request's array as a tensor, and
    `example` is an input for warm-up and measurement.
    """

    name = "torch"

    def __init__(
        self,
        threads: int = 1,
        *,
        modules: Sequence[torch.nn.Module] | None = None,
        example: Array | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._modules = modules
        self._example = example
        self._known: dict[Variant, _Known] = {}  # what was built, resident or not

    def prepare(self) -> None:
        """Import timm and the names of its classes, and let torch set up its kernels."""
        torch.nn.functional.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(8, 3, 3, 3))
        if self._modules is None:
            imagenet_names()  # slow the first time: not a request's to pay

    def build(self, variant: Variant) -> Runner:
        """Return `variant` in evaluation mode; raise `LadderError` if it cannot be had."""
        if variant.weights == "module":
            if self._modules is None or self._example is None:
                raise LadderError(f"variant {variant.name!r} is a module, and none was given")
            return ModuleRunner(self._modules[variant.phi], self._example)
        if variant.precision != "fp32":
            raise LadderError(
                f"variant {variant.name!r} is {variant.precision}, and torch runs fp32 alone here",
                help="use the backend onnx, openvino or auto",
            )
        known = self._known.get(variant)
        loan = None if known is None else known.shelf.take()
        comes_back = loan is not None
        if known is None or loan is None:
            known = self._known[variant] = _build(variant)
            loan = known.shelf.take()
            assert loan is not None  # only what went can be lost
        return _runner(known, loan, comes_back)


@dataclass(frozen=True)
class _Known:
    """A variant's network, and what was found out about it when it was built."""

    preprocess: Callable[[Array], Array]
    weights_bytes: int
    shelf: Shelf


def _runner(known: _Known, loan: Loan, comes_back: bool) -> Runner:
    preprocess = known.preprocess

    def many(pictures: Array) -> Array:
        stack = np.concatenate([preprocess(picture) for picture in pictures])
        return logits(loan.model, stack)

    return ImageRunner(
        lambda x: logits(loan.model, x),
        preprocess,
        imagenet_names(),
        known.weights_bytes,
        many,
        needs_warm_up=not comes_back,
        returns_memory=True,
    )


def _build(variant: Variant) -> _Known:
    """Return `variant` made faster, or as timm built it if that changes its answer."""
    model = load_timm(variant)
    preprocess, weights_bytes = timm_preprocess(model), bytes_of(model)
    x = preprocess(example_image())
    expected = logits(model, x)
    shapes = input_shapes(model, torch.from_numpy(x)) if can_pack() else {}
    model = _packable(model, shapes)
    pack(model)
    if not agree(expected, logits(model, x), TOLERANCE):
        log.warning("%s runs as timm built it: made faster, it answered otherwise", variant.name)
        model = load_timm(variant)
    return _Known(preprocess, weights_bytes, Shelf(model, cache_folder() / "shelf"))


def _packable(model: torch.nn.Module, shapes: Shapes) -> torch.nn.Module:
    """Return `model`, changed in place: folded, channels-last, the convolutions of `shapes` to be packed."""
    fold_batch_norms(model)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    make_packable(model, shapes)
    return model


class ModuleRunner:
    """A user's own module: array in, array out."""

    batch: Callable[[Array], Array] | None = None  # its inputs have a batch axis of their own
    needs_warm_up = True
    returns_memory = False  # nobody knows who else has the module

    def __init__(self, module: torch.nn.Module, example: Array) -> None:
        self._module = module.eval()
        self.example = example
        self.weights_bytes = bytes_of(module)

    def __call__(self, x: Array) -> Array:
        """Return the module's output; raise `InvalidRequest` for another dtype or rank."""
        check_like(x, self.example)
        with torch.inference_mode():
            return cast(Array, self._module(torch.from_numpy(np.ascontiguousarray(x))).numpy())

    def labels(self, output: Array, top: int) -> tuple[tuple[str, float], ...]:
        """Return (): a module's classes have no names here."""
        return ()


def load_timm(variant: Variant) -> torch.nn.Module:
    """Return timm's model with the variant's weights, in evaluation mode; raise `LadderError`."""
    timm = import_timm()
    if not timm.is_model(variant.name.partition(".")[0]):
        raise LadderError(f"timm has no model called {variant.name!r}")
    if variant.weights == "hub":
        model = _load_from_hub(timm, variant)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # "none" is random, but the same in every process
            model = timm.create_model(variant.name, pretrained=False)
    if variant.weights == "package":
        model.load_state_dict(packaged_weights(variant.name))
    return model.eval()


def timm_preprocess(model: torch.nn.Module) -> Callable[[Array], Array]:
    """Return the evaluation transform of a timm model's own configuration, image in, batch of one out."""
    timm = import_timm()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    return lambda image: cast(Array, transform(Image.fromarray(image))[None].numpy())


def logits(model: torch.nn.Module, x: Array) -> Array:
    """Return what `model` makes of `x` on the processor."""
    with torch.inference_mode():
        return cast(Array, model(torch.from_numpy(x)).numpy())


def agree(expected: Array, got: Array, tolerance: float) -> bool:
    """Say whether no logit is off by more than this part of the largest, which counts as 1 at least."""
    limit = tolerance * max(1.0, np.abs(expected).max())
    return bool(np.allclose(expected, got, rtol=0, atol=limit))


def _load_from_hub(timm: Any, variant: Variant) -> torch.nn.Module:
    from huggingface_hub import constants

    # Where the hub cannot be reached its client retries for most of a minute; offline, it looks into
    # its cache and says at once what is missing.
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _reachable(constants.ENDPOINT)
    try:
        return cast(torch.nn.Module, timm.create_model(variant.name, pretrained=True))
    except Exception as error:  # the client and timm raise many kinds: no network, no such weights
        sentence = str(error).strip().partition("\n")[0].partition(". ")[0]
        why = sentence[:200] or type(error).__name__
        raise LadderError(
            f"the weights of {variant.name} could not be had from the hub: {why}",
            help=f"use the ladder {DEFAULT!r}, whose weights are installed, or go online once",
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline


def _reachable(endpoint: str) -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True  # only the client knows its way through a proxy
    url = urlsplit(endpoint)
    try:
        with socket.create_connection((url.hostname or "", url.port or 443), timeout=3):
            return True
    except OSError:
        return False


def bytes_of(module: torch.nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(t.numel() * t.element_size() for t in tensors)


@cache
def imagenet_names() -> tuple[str, ...]:
    """Return the words for ImageNet's 1000 classes, in order, as timm has them."""
    import_timm()
    from timm.data import ImageNetInfo

    info: Any = ImageNetInfo()
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))
