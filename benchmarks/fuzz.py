"""Malformed requests of the inference protocol: refused in words, or requests after all.

This tries the codec alone; `python -m benchmarks storm` a daemon, over real sockets.
"""

from __future__ import annotations

import time

from .harness import Row
from .malformed import try_codec


def run(quick: bool = False) -> list[Row]:
    """Return how many bodies the codec withstood, and at which rate."""
    count = 3_000 if quick else 1_000_000
    began = time.perf_counter()
    seen = try_codec(count)
    taken = time.perf_counter() - began
    return [
        Row("bodies withstood", sum(seen.values()), "bodies", "more"),
        Row("of which refused in words", 1 - seen["request"] / count, "share", "more"),
        Row("making and reading them", count / taken, "1/s", "more"),
    ]
