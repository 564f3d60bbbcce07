"""The warm pool of one process: which variants are resident, and what it takes to change that."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from typing import NamedTuple

import psutil

from ..errors import LadderError
from .backends import Array, Backend, Runner
from .variants import Ladder


class Run(NamedTuple):
    """One run: the output, how long it took (ms, load and warm-up included), whether it was cold."""

    output: Array
    latency_ms: float
    cold: bool


class WarmPool:
    """Keeps variants of one ladder resident and warm under a memory limit.

    `memory_limit_bytes` bounds the sum of `memory_bytes` over the resident set. Where a load would
    pass the limit, the variants that have not run for the longest time are evicted first.
    """

    def __init__(
        self, ladder: Ladder, backend: Backend, *, memory_limit_bytes: int | None = None
    ) -> None:
        self.ladder = ladder
        self.backend = backend
        self.memory_limit_bytes = memory_limit_bytes
        self._runners: dict[int, Runner] = {}  # in order of last use: the first goes first
        self._bytes: dict[int, int] = {}  # measured at the last load; kept after an eviction

    def __repr__(self) -> str:
        return f"<WarmPool(ladder={self.ladder.name!r}, resident={sorted(self._runners)})>"

    @property
    def resident(self) -> frozenset[int]:
        """Return the φ of the loaded variants."""
        return frozenset(self._runners)

    def memory_bytes(self, phi: int) -> int:
        """Return what `phi` took when it was last loaded (bytes); 0 if it never was."""
        return self._bytes.get(phi, 0)

    def runner(self, phi: int) -> Runner:
        """Return the resident runner of `phi`; raise KeyError if it is not resident."""
        return self._runners[phi]

    def load(self, phi: int) -> float:
        """Make `phi` resident and warm; return the milliseconds it took (0 if it was already).

        Raises `LadderError` if there is no such variant, or it alone passes the memory limit.
        """
        if phi in self._runners:
            return 0.0
        if not 0 <= phi < len(self.ladder):
            raise LadderError(f"ladder {self.ladder.name!r} has no φ={phi}")
        began = time.perf_counter()
        self._make_room(self._bytes.get(phi, 0), phi)
        before = _resident_set_bytes()
        runner = self.backend.build(self.ladder.variants[phi])
        runner(runner.example)  # the first call allocates and chooses kernels
        self._bytes[phi] = max(runner.weights_bytes, _resident_set_bytes() - before)
        self._make_room(self._bytes[phi], phi)
        self._runners[phi] = runner
        return (time.perf_counter() - began) * 1e3

    def load_all(self, phis: Iterable[int] | None = None) -> None:
        """Load `phis` (default: the whole ladder), the largest first: under a limit the smallest stay."""
        for phi in sorted(phis if phis is not None else range(len(self.ladder)), reverse=True):
            self.load(phi)

    def run(self, phi: int, x: Array) -> Run:
        """Run variant `phi` on `x`, loading it first if it is not resident."""
        began = time.perf_counter()
        cold = self.load(phi) > 0
        runner = self._runners.pop(phi)
        self._runners[phi] = runner
        output = runner(x)
        return Run(output, (time.perf_counter() - began) * 1e3, cold)

    def evict(self, phi: int) -> None:
        """Drop `phi` and give its memory back to the system; nothing happens if it is not resident."""
        if self._runners.pop(phi, None) is not None:
            gc.collect()
            return_free_memory()

    def _make_room(self, wanted_bytes: int, newcomer: int) -> None:
        limit = self.memory_limit_bytes
        if limit is None:
            return
        if wanted_bytes > limit:
            raise LadderError(
                f"variant {self.ladder.variants[newcomer].name!r} takes {wanted_bytes / 1e6:.0f} MB, "
                f"the limit is {limit / 1e6:.0f} MB",
                help="raise memory_limit_mb, or serve a smaller ladder",
            )
        while self._runners and wanted_bytes + sum(map(self.memory_bytes, self._runners)) > limit:
            self.evict(next(iter(self._runners)))


def _resident_set_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def return_free_memory() -> None:
    """Ask the allocator to give freed pages back; without this the resident set does not shrink."""
    trim = getattr(psutil, "heap_trim", None)
    if trim is not None:
        trim()
