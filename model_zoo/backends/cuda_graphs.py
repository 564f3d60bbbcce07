"""Work for a GPU, captured once and launched as one: a graph of its kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

GIVE_BACK_AFTER_S = 0.1
"""How soon after something has gone its memory is to be back with the driver."""

Work = Callable[[], torch.Tensor]


class Graphs:
    """Captures work for `device`; on another device than CUDA work remains what it was.

    Whatever was captured runs on the default stream, one after the other, so all of it shares the memory for
    what lies between the first kernel and the last; a result has memory of its own. Other threads may run
    what they have meanwhile. Work is not to copy from the host: what it copies from would be freed on the
    stream of captures, maybe during the next one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._is_cuda = device.type == "cuda"
        self._capturing = (
            threading.Lock()
        )  # one capture at a time, and none while memory is given back
        self._pool: Any = None
        if self._is_cuda:
            # Memory is kept by stream: one for all captures, so that they share it.
            self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # The pool lives as long as one of its graphs does.
            self._first, _ = self._captured(partial(torch.zeros, 1, device=device))
            self._pool = self._first.pool()

    def capture(self, work: Work) -> Work:
        """Return what does `work` again, on what its tensors hold then; the result is always one tensor."""
        if not self._is_cuda:
            return work
        graph, result = self._captured(work)

        def again() -> torch.Tensor:
            graph.replay()
            return result

        return again

    def _captured(self, work: Work) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        # Libraries choose their kernels in a first run. It is not on the stream of captures: what they put
        # down there would lie outside of the pool; whoever clears it would take it from the graphs.
        result = torch.empty_like(work())
        graph = torch.cuda.CUDAGraph()
        with self._capturing, torch.cuda.stream(self._aside):
            # Not by torch.cuda.graph: that looks through all objects for garbage, and other threads wait.
            # What they call meanwhile is not to spoil the capture.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result.copy_(work())
            finally:
                graph.capture_end()
        return graph, result

    def give_back_soon(self) -> None:
        """Return to the driver, in a moment, what nothing holds any more."""
        if self._is_cuda:
            timer = threading.Timer(GIVE_BACK_AFTER_S, self._give_back)
            timer.daemon = True
            timer.start()

    def _give_back(self) -> None:
        with self._capturing:
            torch.cuda.empty_cache()
