"""What the front and one worker talk through: a pair of sockets; the tensors of requests lie in the `arena`.

A message is a head (kind, lengths), a msgpack header, and from the worker perhaps the bytes of an answer.
What the worker is told and has not begun can be withdrawn: it looks into the shared memory before it begins.
When either process is gone the other reads the end of the stream, at once and without asking.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .protocol import pack

log = logging.getLogger("adaphi")

HEAD = struct.Struct("<cIQ")
"""Kind, bytes of the header, bytes of the tensor behind it."""
MOST_TOLD = 16
"""So many runs at most the worker has been told that are not over."""
READ_BYTES, ORDER_BYTES = 1 << 18, 1 << 12
"""What is read at once, by the front and by the worker."""

OnMessage = Callable[[bytes, bytes, list[Any]], None]
"""Takes the kind, the header and, where there is one, the bytes of a tensor."""


class FrontEnd:
    """The front's end, on its event loop; the worker inherits the descriptor `theirs`."""

    def __init__(self, on_message: OnMessage) -> None:
        self._on_message = on_message
        self._socket, self._other = socket.socketpair()
        self._socket.setblocking(False)
        self._heard = bytearray()
        self._soon = b""
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    @property
    def theirs(self) -> int:
        """Return the descriptor of the worker's socket."""
        return self._other.fileno()

    def hand_over(self) -> None:
        """Close what the worker has inherited by now, so that its death ends the stream."""
        self._other.close()

    def send(self, kind: bytes, header: msgspec.Struct | None = None) -> bool:
        """Send without waiting; return False if the worker is gone, or has read nothing for long."""
        self._soon += _message(kind, header)
        return self._flush()

    def send_soon(self, kind: bytes, header: msgspec.Struct) -> None:
        """Send at the loop's next turn, in one piece with what else comes until then."""
        if not self._soon:
            self._loop.call_soon(self._flush)
        self._soon += _message(kind, header)

    def _flush(self) -> bool:
        message, self._soon = self._soon, b""
        try:
            if message:  # else it went with another
                self._socket.send(message)  # so short, it goes whole or not at all
        except OSError:
            return False
        return True

    def drain(self) -> None:
        """Read what a worker that is gone said last."""
        while self._read():
            pass

    def close(self) -> None:
        """Listen no longer."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> bool:
        """Handle what has arrived; return False where nothing had, or nothing can any more."""
        try:
            count = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self._loop.remove_reader(self._socket)
            return False
        heard, begin = self._heard, 0
        heard += self._buffer[:count]
        while len(heard) - begin >= HEAD.size:
            kind, header_bytes, tensor_bytes = HEAD.unpack_from(heard, begin)
            middle = begin + HEAD.size + header_bytes
            end = middle + tensor_bytes
            if len(heard) < end:
                break
            header = bytes(heard[begin + HEAD.size : middle])
            tensor = [heard[middle:end]] if tensor_bytes else []
            begin = end
            try:
                self._on_message(kind, header, tensor)
            except Exception:  # a bug; but the messages behind this one still have to be read
                log.exception("a message of the worker could not be handled")
        del heard[:begin]
        return True


def withdrawn_words(memory: memoryview) -> memoryview:
    """Return the shared memory's first words: a withdrawn run's key stands at `key % MOST_TOLD`."""
    return memory[: 8 * MOST_TOLD].cast("Q")


def begun_word(memory: memoryview) -> memoryview:
    """Return the shared memory's word behind those: the key of the run that the worker began last."""
    return memory[8 * MOST_TOLD : 8 * MOST_TOLD + 8].cast("Q")


def _message(kind: bytes, header: msgspec.Struct | None, tensor_bytes: int = 0) -> bytes:
    """Return a message up to its tensor."""
    body = b"" if header is None else pack(header)
    return HEAD.pack(kind, len(body), tensor_bytes) + body


class WorkerEnd:
    """The worker's end: it waits. Every method raises `EOFError` or `OSError` once the front is gone."""

    def __init__(self, descriptor: int, memory: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._heard = b""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self.memory = memoryview(mmap.mmap(memory, os.fstat(memory).st_size))
        self._withdrawn = withdrawn_words(self.memory)
        self._begun = begun_word(self.memory)
        os.close(memory)

    def wait(self, timeout_ms: int) -> bool:
        """Return whether a message arrives in time."""
        return bool(self._heard) or bool(self._poll.poll(timeout_ms))

    def receive(self) -> tuple[bytes, bytes]:
        """Return the next message's kind and header."""
        kind, header_bytes, _ = HEAD.unpack(self._first(HEAD.size))
        return kind, self._first(header_bytes)

    def is_withdrawn(self, key: int) -> bool:
        """Say whether nobody waits for the run with this key any more."""
        return self._withdrawn[key % MOST_TOLD] == key

    def begin(self, key: int) -> None:
        """Note, where the front can read it whatever becomes of this process, that this run begins."""
        self._begun[0] = key

    def tell(self, kind: bytes, header: msgspec.Struct, tensor: NDArray[Any] | None = None) -> None:
        """Send a message."""
        if tensor is None:
            self._socket.sendall(_message(kind, header))
            return
        raw = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
        begin = _message(kind, header, raw.nbytes)
        # At once, or the front is woken twice.
        sent = self._socket.sendmsg([begin, raw]) - len(begin)
        if sent < 0:
            self._socket.sendall(begin[sent:])
        if sent < raw.nbytes:
            self._socket.sendall(raw[max(0, sent) :])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _first(self, count: int) -> bytes:
        """Take the next `count` bytes; a message is mostly here as a whole, so it costs one call."""
        while len(self._heard) < count:
            heard = self._socket.recv(ORDER_BYTES)
            if not heard:
                raise EOFError("the front is gone")
            self._heard += heard
        first, self._heard = self._heard[:count], self._heard[count:]
        return first
