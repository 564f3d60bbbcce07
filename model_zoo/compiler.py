"""torch's compiler, put off: libraries import it for a question or a mark, and here nothing is compiled.

It takes more than a second to import. Whoever uses it later on finds it, and in it what was marked meanwhile.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


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
