"""numba's `njit` where the extra `fast` is installed; elsewhere a decorator that leaves functions alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["COMPILED", "MATH", "hold", "njit"]

njit: Callable[..., Any]
hold: Callable[[Any], Any]
try:
    import scipy.linalg  # noqa: F401  numba's linear algebra stands on it
    from numba import njit, types
    from numba.experimental import structref

    COMPILED = True
except ImportError:
    COMPILED = False

    def njit(**_: Any) -> Any:
        return lambda function: function

    def hold(content: Any) -> Any:
        """Return what is held: functions that are not compiled are never called with it."""
        return content

else:

    @structref.register
    class _HeldType(types.StructRef):
        pass

    class _Held(structref.StructRefProxy):
        pass

    structref.define_proxy(_Held, _HeldType, ["content"])  # type: ignore[no-untyped-call]

    @njit(cache=True)
    def hold(content: Any) -> Any:
        """Return `content`, a tuple of arrays, as one thing: passing thirty arrays costs 7 µs a call."""
        return _Held(content)  # type: ignore[no-untyped-call]


MATH = {
    "reassoc",
    "contract",
    "nsz",
    "arcp",
}  # sums may be reordered; NaN and infinity keep their meaning
