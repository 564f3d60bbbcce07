"""Memory that the front and its workers share, so that a request's tensor need not go through a socket twice.

A long frame is read straight from the network into a slot (`lease`), where the worker finds it. A tensor that
lies elsewhere, or is to run with others, is copied to one of two places, which take turns: while one model
runs, the next request's is copied already. A slot is free again once nothing refers to it any more.
"""

from __future__ import annotations

import mmap
import os
import weakref
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .zmtp import allocate

SLOTS, SLOT_BYTES = 8, 8 << 20
"""So many frames at once, of so many bytes at most, can lie where the worker sees them."""


class Arena:
    """Shared memory: two places of `place_bytes` each, and slots; what is never touched takes none."""

    def __init__(self, place_bytes: int) -> None:
        place_bytes = -(-place_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        size = 2 * place_bytes + SLOTS * SLOT_BYTES
        self.descriptor = os.memfd_create("adaphi-requests")
        os.ftruncate(self.descriptor, size)
        self._memory = np.frombuffer(mmap.mmap(self.descriptor, size), np.uint8)
        self._place_bytes, self._begin = place_bytes, self._memory.ctypes.data
        self._turn = 0  # whose place is next
        self._staged: NDArray[Any] | None = None  # what lies at its beginning
        self._free = list(range(SLOTS))
        self._leases: dict[int, weakref.ref[NDArray[Any]]] = {}

    def lease(self, size: int) -> memoryview:
        """Return memory for so many bytes: a free slot if there is one, else memory of the front alone."""
        if size > SLOT_BYTES or not self._free:
            return allocate(size)
        slot = self._free.pop()  # the one used last: it is still in a cache
        begin = 2 * self._place_bytes + slot * SLOT_BYTES
        memory = self._memory[begin : begin + size]
        self._leases[slot] = weakref.ref(memory, partial(self._give_back, slot))
        return memory.data

    def stage(self, tensor: NDArray[Any]) -> None:
        """Copy what is likely to be put next, while the worker is busy."""
        if tensor is not self._staged and self._offset_in_slots(tensor) is None:
            self._copy(tensor, self._turn * self._place_bytes)
            self._staged = tensor

    def put(self, *tensors: NDArray[Any]) -> int:
        """Return where the tensors of a run lie, one behind the other; the last run's stay untouched."""
        if len(tensors) == 1 and (offset := self._offset_in_slots(tensors[0])) is not None:
            return offset
        begin = end = self._turn * self._place_bytes
        for tensor in tensors:
            if end > begin or tensor is not self._staged:
                self._copy(tensor, end)
            end += tensor.nbytes
        self._turn, self._staged = 1 - self._turn, None
        return begin

    def close(self) -> None:
        """Give the descriptor back; the memory goes with the last that refers to it."""
        os.close(self.descriptor)

    def _copy(self, tensor: NDArray[Any], begin: int) -> None:
        flat = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
        self._memory[begin : begin + tensor.nbytes] = flat

    def _offset_in_slots(self, tensor: NDArray[Any]) -> int | None:
        """Return where a tensor lies in the slots, None if it lies elsewhere."""
        address, _ = tensor.__array_interface__["data"]
        offset = int(address) - self._begin
        inside = 2 * self._place_bytes <= offset < len(self._memory)
        return offset if inside and tensor.flags.c_contiguous else None

    def _give_back(self, slot: int, _: object) -> None:
        del self._leases[slot]
        self._free.append(slot)
