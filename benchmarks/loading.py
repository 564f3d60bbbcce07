"""Requests to one variant while another is loaded and evicted again and again, beside the same without.

The pool of one worker: lite0 answers, lite2 comes and goes by the pool's own thread. Blocks with and
without loads take turns; what evicting takes counts as part of the request that comes next.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, sleep

import numpy as np

from adaphi.model_zoo import get_ladder
from adaphi.model_zoo.allocator import tune_allocator
from adaphi.model_zoo.backends import get_backend
from adaphi.model_zoo.images import example_image
from adaphi.model_zoo.pool import WarmPool, soften_loads

from .harness import Row

SERVED, LOADED = 0, 2
PICTURE = example_image(224, 224)


def run(quick: bool) -> list[Row]:
    """Return percentiles of requests with and without loads behind them, and how many loads there were."""
    tune_allocator()
    return [row for backend in ("torch", "onnx") for row in _measure(backend, quick)]


def _measure(backend: str, quick: bool) -> list[Row]:
    pool = WarmPool(get_ladder("efficientnet-lite"), get_backend(backend))
    soften_loads(pool)
    pool.load_all()
    blocks, requests = (1, 20) if quick else (6, 100)
    loads = [0]

    def nothing() -> None:
        pass

    def come_and_go() -> None:
        if LOADED in pool.resident:
            pool.evict(LOADED)
        elif not pool.loading:
            pool.load_behind(LOADED)
            loads[0] += 1

    quiet, busy = [], []
    for _ in range(blocks):
        quiet += _latencies_ms(pool, requests, nothing)
        busy += _latencies_ms(pool, requests, come_and_go)
        while pool.loading:
            sleep(0.01)
    rows = [Row(f"{backend}: loads", loads[0], "loads", "more")]
    for q in (0.5, 0.99):
        before, during = (float(np.quantile(taken, q)) for taken in (quiet, busy))
        rows.append(Row(f"{backend}: p{q * 100:g} without loads", before, "ms", "less"))
        target = "≤ 1.5" if q == 0.99 else ""
        what = f"{backend}: p{q * 100:g} with ÷ without"
        rows.append(Row(what, during / before, "×", "less", target=target))
    return rows


def _latencies_ms(pool: WarmPool, requests: int, between: Callable[[], None]) -> list[float]:
    pool.load(LOADED)
    taken = []
    for _ in range(requests):
        began = perf_counter()
        between()
        pool.run(SERVED, PICTURE)
        taken.append((perf_counter() - began) * 1e3)
    return taken
