"""The warm pool of one process: which variants are resident, and what it takes to change that."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

import psutil

from ..errors import LadderError
from .backends import Array, Backend, Runner
from .variants import Ladder

log = logging.getLogger("adaphi")

LOADER_NICENESS = 19
"""A load behind the runs gets what processor time they and everybody else leave."""

SWITCH_INTERVAL_S = 1e-5
"""How long a thread that loads keeps the interpreter's lock from one that runs a model."""

TIDY_WITHIN_S = 5.0
"""How soon after an eviction the allocator returns what it keeps, where the bulk went back by itself."""


class Run(NamedTuple):
    """One run: the output, how long it took (ms, load and warm-up included), whether it was cold, on what."""

    output: Array
    latency_ms: float
    cold: bool
    runner: Runner


class WarmPool:
    """Keeps variants of one ladder resident and warm under a memory limit.

    `memory_limit_bytes` bounds the sum of `memory_bytes` over the resident set. Where a load would
    pass the limit, the variants that have not run for the longest time are evicted first. What a variant
    takes is measured when it is loaded, unless `known_bytes` (M,) says it. One thread calls a pool; what
    `run` is told to keep and is not resident is loaded by a thread of the pool's own, one variant at a time.
    """

    def __init__(
        self,
        ladder: Ladder,
        backend: Backend,
        *,
        memory_limit_bytes: int | None = None,
        known_bytes: Sequence[int | None] = (),
    ) -> None:
        self.ladder = ladder
        self.backend = backend
        self.memory_limit_bytes = memory_limit_bytes
        self._runners: dict[int, Runner] = {}  # in order of last use: the first goes first
        self._known = {phi: size for phi, size in enumerate(known_bytes) if size}
        self._bytes = dict(self._known)  # measured at the last load; kept after an eviction
        self._prepared = False
        self._loading = threading.RLock()  # held while a variant is loaded: one at a time
        self._changing = threading.RLock()  # held while the resident set changes
        self.failures: dict[int, str] = {}
        """Why the last load behind of a variant failed; gone once another one begins."""
        self._behind: list[int] = []  # what the loader still has to load
        self._loader_works = False
        self._left_scraps = False  # a load did, in the allocator
        self._tidies_soon = False

    def __repr__(self) -> str:
        return f"<WarmPool(ladder={self.ladder.name!r}, resident={sorted(self._runners)})>"

    @property
    def resident(self) -> frozenset[int]:
        """Return the φ of the loaded variants."""
        with self._changing:
            return frozenset(self._runners)

    @property
    def loading(self) -> bool:
        """Say whether variants are being loaded in the background."""
        return self._loader_works

    def memory_bytes(self, phi: int) -> int:
        """Return what `phi` takes (bytes): as known, else as last measured, 0 if it never was loaded."""
        return self._bytes.get(phi, 0)

    def runner(self, phi: int) -> Runner:
        """Return the resident runner of `phi`; raise KeyError if it is not resident."""
        return self._runners[phi]

    def prepare(self) -> None:
        """Bring in what all variants share; the first load does it if nobody did."""
        if not self._prepared:
            self.backend.prepare()
            self._prepared = True

    def load(self, phi: int) -> float:
        """Make `phi` resident and warm; return the milliseconds it took (0 if it was already).

        Raises `LadderError` if there is no such variant, or it alone passes the memory limit.
        """
        if not 0 <= phi < len(self.ladder):
            raise LadderError(f"ladder {self.ladder.name!r} has no φ={phi}")
        began = time.perf_counter()
        with self._loading:
            if phi in self._runners:
                return 0.0
            self._make_room(self.memory_bytes(phi), phi)
            self.prepare()
            before = _resident_set_bytes()
            runner = self.backend.build(self.ladder.variants[phi])
            if runner.needs_warm_up:
                runner(runner.example)  # the first call allocates and chooses kernels
                self._left_scraps = True
            with self._changing:
                measured = max(runner.weights_bytes, _resident_set_bytes() - before)
                self._bytes[phi] = self._known.get(phi, measured)
                self._make_room(self._bytes[phi], phi)
                self._runners[phi] = runner
        return (time.perf_counter() - began) * 1e3

    def load_all(self, phis: Iterable[int] | None = None) -> None:
        """Load `phis` (default: the whole ladder), the largest first: under a limit the smallest stay."""
        for phi in sorted(phis if phis is not None else range(len(self.ladder)), reverse=True):
            self.load(phi)
        self._return_scraps()

    def run(
        self, phi: int, x: Array, *, keep: Set[int] | None = None, batched: bool = False
    ) -> Run:
        """Run variant `phi` on `x`, loading it first if it is not resident.

        With `keep` that set is to be resident afterwards: what else is resident is evicted, what is missing
        is loaded behind the run. `batched`: `x` is k inputs, stacked, and so is the output. Raises
        `LadderError` where the variant takes one input at a time, or returns another number of outputs.
        """
        began = time.perf_counter()
        if keep is not None:
            self._evict_all_but(keep | {phi})
        cold = phi not in self.resident
        runner = self._take(phi)
        if keep is not None:
            self._load_behind(sorted(keep - self.resident))
        output = _batch(runner, x, self.ladder.variants[phi].name) if batched else runner(x)
        if keep is not None and phi not in keep:
            self.evict(phi)
            self._tidy_soon()  # the caller still has the runner
        return Run(output, (time.perf_counter() - began) * 1e3, cold, runner)

    def keep(self, phis: Set[int]) -> None:
        """Have `phis` resident: evict what else is, and load behind what is missing.

        What was evicted goes back to the system at once, to the last page: memory may be short.
        """
        self._load_behind([])
        if [self._drop(phi) for phi in self.resident - phis]:
            tidy_memory()
        self._load_behind(sorted(phis - self.resident))

    def load_behind(self, phi: int) -> None:
        """Load `phi` by the pool's own thread, after what it has to load already; see `failures`."""
        self.failures.pop(phi, None)
        self._load_behind([*self._behind, phi])

    def evict(self, phi: int) -> None:
        """Drop `phi` and give its memory back to the system; nothing happens if it is not resident.

        Where the weights go back by themselves, what the allocator keeps of the runs is returned within
        `TIDY_WITHIN_S`: a trim also takes the pages that the next run of another variant would use again.
        """
        returns_memory = self._drop(phi)
        if returns_memory:
            self._tidy_soon()
        elif returns_memory is not None:
            tidy_memory()

    def _drop(self, phi: int) -> bool | None:
        """Drop `phi`; say whether its weights go back by themselves, None if it was not resident."""
        with self._changing:
            runner = self._runners.pop(phi, None)
        return None if runner is None else runner.returns_memory

    def _evict_all_but(self, phis: Set[int]) -> None:
        """Evict what is resident besides `phis`, and begin no load that still waits."""
        self._load_behind([])
        for other in self.resident - phis:
            self.evict(other)

    def _tidy_soon(self) -> None:
        with self._changing:
            starts = not self._tidies_soon
            self._tidies_soon = True
        if starts:
            timer = threading.Timer(TIDY_WITHIN_S, self._tidy)
            timer.daemon = True
            timer.start()

    def _tidy(self) -> None:
        self._tidies_soon = False
        tidy_memory()

    def _take(self, phi: int) -> Runner:
        """Return the runner of `phi`, loaded if need be, as the one used last.

        One that is resident does not wait for another's load to end.
        """
        while True:
            with self._changing:
                runner = self._runners.pop(phi, None)
                if runner is not None:
                    self._runners[phi] = runner
                    return runner
            self.load(phi)  # a load behind may make room of it again

    def _load_behind(self, phis: list[int]) -> None:
        with self._changing:
            self._behind = phis
            starts = bool(phis) and not self._loader_works
            self._loader_works |= starts
        if starts:
            threading.Thread(target=self._load_what_is_behind, daemon=True).start()

    def _load_what_is_behind(self) -> None:
        if (
            sys.platform == "linux"
        ):  # where a thread has a priority of its own: what runs goes first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADER_NICENESS)
        while (phi := self._next_behind()) is not None:
            try:
                self.load(phi)
            except Exception as error:  # whatever it is: what is resident goes on answering
                self.failures[phi] = str(error) or type(error).__name__
                log.warning("φ=%d could not be loaded: %s", phi, error)
                self._left_scraps = True
            if not self._behind:
                self._return_scraps()

    def _return_scraps(self) -> None:
        """Return what loads have left: one that builds anew reads weights into memory to copy them."""
        if self._left_scraps:
            self._left_scraps = False
            return_free_memory()

    def _next_behind(self) -> int | None:
        """Return what to load next; None ends the loader, and whoever asks after that starts another."""
        with self._changing:
            self._loader_works = bool(self._behind)
            return self._behind.pop(0) if self._behind else None

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


def _batch(runner: Runner, x: Array, name: str) -> Array:
    if runner.batch is None:
        raise LadderError(f"variant {name!r} takes one input at a time")
    output = runner.batch(x)
    if len(output) != len(x):
        raise LadderError(f"variant {name!r} made {len(output)} answers of {len(x)} inputs")
    return output


def soften_loads(pool: WarmPool) -> None:
    """Make this process one in which runs go on while variants are loaded and evicted: a worker, say.

    Call it before anything is loaded, in a process that is the pool's own.
    """
    # A loading thread runs Python, and a forward gives the interpreter's lock away with every operator:
    # by default it would wait up to 5 ms to get it back, each time.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    pool.prepare()
    # The frameworks' objects are there to stay. Looking through all of them, at an eviction or whenever a
    # load makes many objects, would stop everything for a tenth of a second.
    gc.collect()
    gc.freeze()


def _resident_set_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def tidy_memory() -> None:
    """Free what refers to itself in circles, and give freed pages back."""
    gc.collect()
    return_free_memory()


def return_free_memory() -> None:
    """Ask the allocator to give freed pages back; without this the resident set does not shrink."""
    trim = getattr(psutil, "heap_trim", None)
    if trim is not None:
        trim()
