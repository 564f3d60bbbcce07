"""The one place that imports timm, so that it works beside any torchvision, and soon.

timm imports torchvision. The torchvision on PyPI is built against CUDA; beside a CPU build of torch
its compiled operators are missing, and its import dies when it registers a fake implementation for
them ("operator torchvision::nms does not exist"). timm's models and transforms use none of those
operators. So, while timm is imported, a registration for a *missing* torchvision operator is
skipped; with a torchvision that fits, every registration goes through and nothing differs.

torchvision imports torch's compiler, and timm marks methods that it is to leave alone. The compiler would be
most of what timm takes to import, and 70 MB that stay; so it is put off (`compiler_put_off`).
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .compiler import compiler_put_off


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
