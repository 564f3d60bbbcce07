"""Networks that went and may come back: their modules stay, the pages of their tensors go.

To build a network anew is mostly Python: hundreds of modules are made and initialised, then filled, folded
and replaced, while whatever runs waits for the interpreter's lock. And memory that is freed comes back from
malloc only by a trim, which takes from whatever runs the pages that its next run would have used again. So
a network that nobody uses keeps its modules and the addresses of its tensors; the pages behind these are
given back one by one, and read again from a file: system calls that hold no lock of the interpreter.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import nn

log = logging.getLogger("adaphi")

BUFFERS_PER_CALL = 1024
"""IOV_MAX of Linux: how many pieces of memory one call reads or writes."""


class Loan:
    """A network whose tensors are in memory, for as long as this lives."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


class Shelf:
    """One network, shared by all that took it; while nobody has it, its tensors lie in a file.

    `model` is in its last form, and only read from now on. The file has no name, lies in `folder`, is
    written by a thread when the network goes for the first time, and is gone with the process. Where there is
    no room for it, or pages cannot be given back (other systems than Linux), what goes is lost.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        self._model: nn.Module | None = model
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._pieces = [
            memoryview((ctypes.c_char * (end - begin)).from_address(begin)).cast("B")
            for begin, end in sorted(_whole_pages(model))
        ]
        self._loans = 0
        self._is_away = False
        self._leaving: threading.Thread | None = None
        self._lock = threading.RLock()  # a loan may end anywhere: wherever Python collects garbage

    def take(self) -> Loan | None:
        """Return the network, its tensors as they were; None where it is lost."""
        if self._leaving is not None:
            self._leaving.join()
        with self._lock:
            if self._is_away and not self._come_back():
                self._model = None
            if self._model is None:
                return None
            self._loans += 1
            loan = Loan(self._model)
        weakref.finalize(loan, _give_back, weakref.ref(self)).atexit = False
        return loan

    def _give_back(self) -> None:
        with self._lock:
            self._loans -= 1
            if self._file is not None:
                self._go_away()
            elif not self._loans:
                # Writing takes a while, and whoever evicts may have requests to answer.
                self._leaving = threading.Thread(target=self._go_away, daemon=True)
                self._leaving.start()

    def _go_away(self) -> None:
        with self._lock:
            if not self._loans:
                self._is_away = sys.platform == "linux" and self._put_away()
                if not self._is_away:
                    self._model = None

    def _put_away(self) -> bool:
        """Write the tensors if they never were, and return their pages; say whether that was possible."""
        try:
            if self._file is None:
                self._file = self._write()
            _return_pages(self._pieces)
        except OSError as error:
            log.warning("a network cannot be kept for a quick return: %s", error)
            return False
        return True

    def _come_back(self) -> bool:
        """Read the tensors from the file; say whether that was possible."""
        assert self._file is not None
        try:
            _transfer(os.preadv, self._file, self._pieces)
        except OSError as error:
            log.warning("a network that was put away cannot be read: %s", error)
            return False
        self._is_away = False
        return True

    def _write(self) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - it is kept
        weakref.finalize(self, file.close)
        _transfer(os.pwritev, file, self._pieces)
        return file


def _give_back(shelf: weakref.ref[Shelf]) -> None:
    """Tell a shelf that a loan has ended; one that is gone itself needs nothing kept."""
    if (there := shelf()) is not None:
        there._give_back()


def _whole_pages(model: nn.Module) -> set[tuple[int, int]]:
    """Return (begin, end) of the pages that hold weights of `model` and nothing else; smaller ones stay."""
    places = set()
    for address, size in map(_memory_of, _weights(model)):
        begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end:
            places.add((begin, end))
    return places


def _weights(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield parameters, and packed weights, which are attributes; anything else other models may share."""
    for module in model.modules():
        yield from (tensor for tensor in module._parameters.values() if tensor is not None)
        attributes = (value for value in vars(module).values() if isinstance(value, torch.Tensor))
        yield from (tensor for tensor in attributes if tensor.is_mkldnn)


def _memory_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the address and bytes of what holds a tensor's values; (0, 0) where it cannot be told."""
    if tensor.is_mkldnn and hasattr(torch.ops.mkldnn, "data_ptr"):
        return torch.ops.mkldnn.data_ptr(tensor), torch.ops.mkldnn._nbytes(tensor)
    if tensor.layout == torch.strided and tensor.device.type == "cpu":
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    return 0, 0


def _return_pages(pieces: Sequence[memoryview]) -> None:
    """Give memory back to the system; its addresses stay valid, and hold zeros."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    for piece in pieces:
        begin = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(piece)))
        if madvise(begin, ctypes.c_size_t(len(piece)), mmap.MADV_DONTNEED):
            raise OSError(number := ctypes.get_errno(), os.strerror(number))


def _transfer(
    call: Callable[[int, Sequence[memoryview], int], int],
    file: IO[bytes],
    pieces: Sequence[memoryview],
) -> None:
    """Write `pieces` one after the other (`call` is `os.pwritev`), or read them (`os.preadv`)."""
    left, done = list(pieces), 0
    while left:
        count = call(file.fileno(), left[:BUFFERS_PER_CALL], done)
        if not count:
            raise OSError(errno.EIO, "the file is shorter than what was put away")
        done += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]
