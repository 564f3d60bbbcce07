"""Backends turn a variant into something that runs; each lives in its own module.

A backend is any object with the members of `Backend`; a runner any object with those of
`Runner`. Only the modules of the single backends import a framework.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from numpy.typing import NDArray

from ...errors import LadderError
from ..variants import Variant

Array = NDArray[Any]


class Runner(Protocol):
    """One loaded variant: call it with an input array, get an output array."""

    weights_bytes: int
    """Bytes of the parameters and buffers."""
    example: Array
    """An input of the kind that requests bring, for warm-up and measurement."""
    needs_warm_up: bool
    """Whether its first run is slower than the others."""
    returns_memory: bool
    """Whether, when it goes, its weights' memory is back with the system; else the allocator still has it."""

    @property
    def batch(self) -> Callable[[Array], Array] | None:
        """Return what makes k outputs of k inputs, stacked; None where one at a time is all it can."""
        ...

    def __call__(self, x: Array) -> Array:
        """Return the output for `x`; raise `InvalidRequest` where shape or dtype do not fit."""
        ...

    def labels(self, output: Array, top: int) -> tuple[tuple[str, float], ...]:
        """Return the `top` likeliest (class name, probability) of an output; () if unknown."""
        ...


class Backend(Protocol):
    """A way to run variants."""

    name: str

    def prepare(self) -> None:
        """Bring in what all variants share, so that its memory is not taken for the first one's."""
        ...

    def build(self, variant: Variant) -> Runner:
        """Return `variant`, loaded but not warmed; raise `LadderError` if it cannot be had."""
        ...


BACKENDS = {
    "torch": ("torch_eager", "TorchBackend", "torch"),
    "onnx": ("onnx_runtime", "OnnxBackend", "onnxruntime"),
    "openvino": ("openvino", "OpenVinoBackend", "openvino"),
    "cuda": ("torch_cuda", "CudaBackend", ""),
    "own": ("own", "OwnBackend", ""),
}
"""By name: the module here, its class, and the package that it needs; none for what `auto` does not try."""


def get_backend(name: str, *, threads: int = 1) -> Backend:
    """Return the backend called `name`, computing with `threads` threads.

    Raises `LadderError` for an unknown name, `MissingExtraError` where its package is not installed.
    """
    if name not in BACKENDS:
        raise LadderError(
            f"no backend is called {name!r}",
            help=f"use {', '.join(BACKENDS)} or auto",
        )
    module, kind, _ = BACKENDS[name]
    backend: Backend = getattr(import_module(f".{module}", __name__), kind)(threads=threads)
    return backend


def installed_backends() -> tuple[str, ...]:
    """Return the names of the frameworks' backends that are installed, torch first; nothing is imported."""
    return tuple(name for name, (*_, package) in BACKENDS.items() if package and find_spec(package))
