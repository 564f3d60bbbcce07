"""numba's `njit` where the extra `fast` is installed; elsewhere a decorator that leaves functions alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["COMPILED", "MATH", "njit"]

njit: Callable[..., Any]
try:
    import scipy.linalg  # noqa: F401  numba's linear algebra stands on it
    from numba import njit

    COMPILED = True
except ImportError:
    COMPILED = False

    def njit(**_: Any) -> Any:
        return lambda function: function


MATH = {
    "reassoc",
    "contract",
    "nsz",
    "arcp",
}  # sums may be reordered; NaN and infinity keep their meaning
