"""Requests to one variant while another is loaded and evicted again and again, beside the same without.

The pool of one worker: lite0 answers, lite2 comes and goes by the pool's own thread. Blocks with and
without loads take turns; what evicting takes counts as part of the request that comes next. On a busy machine
most of the slow requests waited for a core: a row beside says the same without that (Linux).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import torch

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
    backends = ["torch", "onnx", *(["cuda"] if torch.cuda.is_available() else [])]
    return [row for backend in backends for row in _measure(backend, quick)]


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

    quiet: list[tuple[float, float]] = []
    busy: list[tuple[float, float]] = []
    for _ in range(blocks):
        quiet += _latencies_ms(pool, requests, nothing)
        busy += _latencies_ms(pool, requests, come_and_go)
        while pool.loading:
            sleep(0.01)
    rows = [Row(f"{backend}: loads", loads[0], "loads", "more")]
    for q in (0.5, 0.99):
        before, during = np.quantile(quiet, q, axis=0), np.quantile(busy, q, axis=0)
        what, target = f"{backend}: p{q * 100:g}", "≤ 1.5" if q == 0.99 else ""
        ratio, ratio_awake = (during / before).tolist()
        rows.append(Row(f"{what} without loads", float(before[0]), "ms", "less"))
        rows.append(Row(f"{what} with ÷ without", ratio, "×", "less", target=target))
        rows.append(Row(f"{what} with ÷ without, less waits for a core", ratio_awake, "×", "less"))
    return rows


def _latencies_ms(
    pool: WarmPool, requests: int, between: Callable[[], None]
) -> list[tuple[float, float]]:
    """Return what each request took, and that less what it waited for a core."""
    pool.load(LOADED)
    taken = []
    for _ in range(requests):
        began, waited_ms = perf_counter(), _waited_ms()
        between()
        pool.run(SERVED, PICTURE)
        took_ms = (perf_counter() - began) * 1e3
        taken.append((took_ms, took_ms - (_waited_ms() - waited_ms)))
    return taken


def _waited_ms() -> float:
    """Return how long this thread has been ready to run without a core; 0 where the system does not say."""
    with suppress(OSError):
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e6
    return 0.0
