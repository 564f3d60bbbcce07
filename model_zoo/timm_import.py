"""The one place that imports timm, so that it works beside any torchvision, and soon.

timm imports torchvision. The torchvision on PyPI is built against CUDA; beside a CPU build of torch
its compiled operators are missing, and its import dies when it registers a fake implementation for
them ("operator torchvision::nms does not exist"). timm's models and transforms use none of those
operators. So, while timm is imported, a registration for a *missing* torchvision operator is
skipped; with a torchvision that fits, every registration goes through and nothing differs.

torchvision imports torch's compiler, and timm marks methods that it is to leave alone. Here nothing is compiled;
yet the compiler is most of what timm takes to import, and 70 MB that stay. So it is put off until somebody
uses it.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


@contextmanager
def missing_torchvision_operators_skipped() -> Iterator[None]:
    """Let imports register fakes for torchvision operators that this build does not have."""
    import torch

    register = torch.library.register_fake

    def tolerant(op: Any, *args: Any, **kwargs: Any) -> Any:
        if not (isinstance(op, str) and op.startswith("torchvision::")):
            return register(op, *args, **kwargs)
        if _exists(op):
            return register(op, *args, **kwargs)
        return lambda function: function

    torch.library.register_fake = tolerant
    try:
        yield
    finally:
        torch.library.register_fake = register


def _exists(op: str) -> bool:
    import torch

    namespace, name = op.split("::")
    return hasattr(getattr(torch.ops, namespace), name)


class _StandIn(ModuleType):
    """Stands where a module of the compiler will be; asked for what it has not, it gives way to it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and (name, self.__name__) != ("__path__", COMPILER):
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(importlib.import_module(self.__name__), name)


def _remove_stand_ins() -> None:
    for name in (COMPILER, f"{COMPILER}.utils"):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


@contextmanager
def compiler_put_off() -> Iterator[None]:
    """Let imports take `torch.compiler.disable` and `is_compile_supported` without the compiler's import."""
    if COMPILER not in sys.modules:
        compiler, utils = _StandIn(COMPILER), _StandIn(f"{COMPILER}.utils")
        vars(compiler)["disable"] = _disable
        vars(utils)["is_compile_supported"] = _is_compile_supported
        sys.modules |= {COMPILER: compiler, utils.__name__: utils}
    try:
        yield
    finally:
        _remove_stand_ins()


def _disable(function: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """Return `function` so that the compiler leaves it alone, as `torch.compiler.disable` does."""
    if function is None:
        return partial(_disable, recursive=recursive, reason=reason)
    import torch

    @wraps(function)
    def left_alone(*args: Any, **kwargs: Any) -> Any:
        if COMPILER not in sys.modules:  # nobody compiles
            return function(*args, **kwargs)
        return torch.compiler.disable(function, recursive, reason=reason)(*args, **kwargs)  # type: ignore[no-untyped-call]

    vars(left_alone)["_torchdynamo_disable"] = True
    return left_alone


def _is_compile_supported(device_type: str) -> bool:
    return bool(importlib.import_module(f"{COMPILER}.utils").is_compile_supported(device_type))


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """Let imports make their objects, all of which stay, without looking through them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def import_timm() -> ModuleType:
    """Return timm, imported so that a torchvision built for another torch does no harm."""
    if (timm := sys.modules.get("timm")) is not None:
        return timm
    with _no_garbage_collected(), compiler_put_off(), missing_torchvision_operators_skipped():
        return importlib.import_module("timm")
