"""Memory that the front and its workers share, so that a request's tensor need not go through a socket twice.

A long frame is read straight from the network into a slot (`lease`), where the worker finds it. A tensor that
lies elsewhere, or is to run with others, is copied to one of two places, which take turns: while one model
runs, the next request's is copied already. Short ones have more places, for many of them may be told ahead.
A slot is free again once nothing refers to it any more, a place once its run is over. The first page tells
the worker which runs it need not begin.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channel import MOST_TOLD, begun_word, withdrawn_words
from .zmtp import STAGING_BYTES, allocate

SLOTS, SLOT_BYTES = 8, 8 << 20
"""So many frames at once, of so many bytes at most, can lie where the worker sees them."""
PLACES, SHORT_BYTES = 2, STAGING_BYTES
"""Places for what no slot has; a run whose tensors have at most so many bytes takes one of the short ones."""


class Arena:
    """Shared memory: places of `place_bytes`, short ones, and slots; what is never touched takes none."""

    def __init__(self, place_bytes: int) -> None:
        self._place_bytes = -(-place_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._places_begin = mmap.PAGESIZE
        self._short_begin = self._places_begin + PLACES * self._place_bytes
        self._slots_begin = self._short_begin + MOST_TOLD * SHORT_BYTES
        size = self._slots_begin + SLOTS * SLOT_BYTES
        self.descriptor = os.memfd_create("adaphi-requests")
        os.ftruncate(self.descriptor, size)
        self._memory = np.frombuffer(mmap.mmap(self.descriptor, size), np.uint8)
        self._withdrawn = withdrawn_words(self._memory.data)
        self._begun = begun_word(self._memory.data)
        self._begin = self._memory.ctypes.data
        self._turn = self._short_turn = 0  # whose place is next
        self._runs = deque[bool]()  # whether each that is not over takes a place, not a short one
        self._staged: NDArray[Any] | None = None  # what lies at the beginning of the next place
        self._free = list(range(SLOTS))
        self._leases: dict[int, weakref.ref[NDArray[Any]]] = {}

    def lease(self, size: int) -> memoryview:
        """Return memory for so many bytes: a free slot if there is one, else memory of the front alone."""
        if size > SLOT_BYTES or not self._free:
            return allocate(size)
        slot = self._free.pop()  # the one used last: it is still in a cache
        begin = self._slots_begin + slot * SLOT_BYTES
        memory = self._memory[begin : begin + size]
        self._leases[slot] = weakref.ref(memory, partial(self._give_back, slot))
        return memory.data

    @property
    def has_room(self) -> bool:
        """Say whether any run's tensors can be put without overwriting those of one that is not over."""
        return len(self._runs) < MOST_TOLD and sum(self._runs) < PLACES

    def stage(self, tensor: NDArray[Any]) -> None:
        """Copy what is likely to be put next, while the worker is busy, if it is long and there is room."""
        short = tensor.nbytes <= SHORT_BYTES
        if short or tensor is self._staged or not self.has_room:
            return
        if self._offset_in_slots(tensor) is None:
            self._copy(self._next_place, tensor)
            self._staged = tensor

    def put(self, *tensors: NDArray[Any]) -> int:
        """Return where a run's tensors lie, one behind the other; those of runs not over stay untouched."""
        if sum(tensor.nbytes for tensor in tensors) <= SHORT_BYTES:
            begin = self._short_begin + self._short_turn * SHORT_BYTES
            self._short_turn = (self._short_turn + 1) % MOST_TOLD
            self._runs.append(False)
            self._copy(begin, *tensors)
        elif len(tensors) == 1 and (offset := self._offset_in_slots(tensors[0])) is not None:
            self._runs.append(False)
            return offset
        else:
            begin = self._next_place
            self._turn = (self._turn + 1) % PLACES
            self._runs.append(True)
            self._copy(begin, *tensors)
            self._staged = None
        return begin

    def withdraw(self, key: int) -> None:
        """Have the worker not begin the run with this key, if it has not yet."""
        # Keys count up, so of the runs that are not over no two have the same word.
        self._withdrawn[key % MOST_TOLD] = key

    def has_begun(self, key: int) -> bool:
        """Say whether the run that a worker began last has this key."""
        return self._begun[0] == key

    def end_run(self) -> None:
        """Note that the run whose tensors were put first is over."""
        if self._runs:
            self._runs.popleft()

    def forget_runs(self) -> None:
        """Note that no run is under way any more."""
        self._runs.clear()

    def close(self) -> None:
        """Give the descriptor back; the memory goes with the last that refers to it."""
        os.close(self.descriptor)

    @property
    def _next_place(self) -> int:
        return self._places_begin + self._turn * self._place_bytes

    def _copy(self, begin: int, *tensors: NDArray[Any]) -> None:
        """Copy tensors to one place, one behind the other, but for a first one that lies there already."""
        end = begin
        for tensor in tensors:
            if end > begin or tensor is not self._staged:
                flat = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
                self._memory[end : end + tensor.nbytes] = flat
            end += tensor.nbytes

    def _offset_in_slots(self, tensor: NDArray[Any]) -> int | None:
        """Return where a tensor lies in the slots, None if it lies elsewhere."""
        address, _ = tensor.__array_interface__["data"]
        offset = int(address) - self._begin
        inside = self._slots_begin <= offset < len(self._memory)
        return offset if inside and tensor.flags.c_contiguous else None

    def _give_back(self, slot: int, _: object) -> None:
        del self._leases[slot]
        self._free.append(slot)
