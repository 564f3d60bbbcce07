"""The one place that imports timm, so that it works beside any torchvision.

timm imports torchvision. The torchvision on PyPI is built against CUDA; beside a CPU build of torch
its compiled operators are missing, and its import dies when it registers a fake implementation for
them ("operator torchvision::nms does not exist"). timm's models and transforms use none of those
operators. So, while timm is imported, a registration for a *missing* torchvision operator is
skipped; with a torchvision that fits, every registration goes through and nothing differs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


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


def import_timm() -> ModuleType:
    """Return timm, imported so that a torchvision built for another torch does no harm."""
    with missing_torchvision_operators_skipped():
        return importlib.import_module("timm")
