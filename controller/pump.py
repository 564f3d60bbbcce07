"""ZeroMQ on asyncio, without a task or a future for each message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import zmq

log = logging.getLogger("adaphi")

Handler = Callable[[list[Any]], None]
"""Takes the frames of a message: bytes, and views of memory where they are long."""

# As numbers: combining zmq's enumerations costs as much as sending a frame.
NOW, MORE, READABLE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.POLLIN)
COPIED_BYTES = 65536
"""Smaller frames are copied, which costs less than keeping track of them."""


def send_now(socket: zmq.Socket[bytes], frames: list[Any]) -> None:
    """Send a message without waiting; raise `ZMQError` if the peer is gone or does not keep up."""
    last = len(frames) - 1
    for place, frame in enumerate(frames):
        socket.send(frame, MORE if place < last else NOW, copy=len(frame) < COPIED_BYTES)


def receive_now(socket: zmq.Socket[bytes]) -> list[Any]:
    """Return the frames of a message that has arrived; raise `zmq.Again` if none has."""
    frames: list[Any] = []
    more = True
    while more:
        frame = socket.recv(NOW, copy=False)
        more = frame.more
        frames.append(frame.bytes if len(frame) < COPIED_BYTES else frame.buffer)
    return frames


def is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Say whether a message has arrived; the socket also takes over what its thread has done."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & READABLE)


class Pump:
    """Calls `handler` with the frames of every message that arrives on a socket.

    The socket's file descriptor only says that *something* changed since it was last asked, so after
    each wake-up the socket is drained until it is empty, and after each send it is looked at again.
    """

    BURST = 64
    """Messages handled in a row before other callbacks get their turn."""

    def __init__(self, socket: zmq.Socket[bytes], handler: Handler) -> None:
        self.socket = socket
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._descriptor = socket.FD
        self._loop.add_reader(self._descriptor, self._drain)
        self._loop.call_soon(self._drain)

    def send(self, frames: list[Any]) -> bool:
        """Send without waiting; return False if the peer is gone or does not keep up."""
        if self.socket.closed:
            return False
        try:
            send_now(self.socket, frames)
        except zmq.ZMQError:
            return False
        finally:
            if is_readable(self.socket):  # the descriptor would not say so any more
                self._loop.call_soon(self._drain)
        return True

    def close(self) -> None:
        """Stop listening and close the socket; what was sent may still leave within its linger."""
        if not self.socket.closed:
            self._loop.remove_reader(self._descriptor)
            self.socket.close()

    def _drain(self) -> None:
        for _ in range(self.BURST):
            if self.socket.closed:
                return
            if not is_readable(self.socket):
                return
            frames = receive_now(self.socket)
            try:
                self._handler(frames)
            except Exception:  # a bug; but the messages behind this one still have to be read
                log.exception("a message could not be handled")
        self._loop.call_soon(self._drain)
