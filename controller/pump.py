"""ZeroMQ on asyncio, without a task or a future for each message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import zmq

log = logging.getLogger("adaphi")

Handler = Callable[[list[zmq.Frame]], None]

# As numbers: combining zmq's enumerations costs as much as sending a frame.
NOW, MORE, READABLE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.POLLIN)
COPIED_BYTES = 65536
"""Smaller frames are copied, which costs less than keeping track of them."""


class Pump:
    """Calls `handler` with the frames of every message that arrives on a socket.

    The socket's file descriptor only says that *something* changed since it was last asked, so after
    each wake-up and after each send the socket is drained until it is empty.
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
        send, last = self.socket.send, len(frames) - 1
        try:
            for place, frame in enumerate(frames):
                send(frame, MORE if place < last else NOW, copy=len(frame) < COPIED_BYTES)
        except zmq.ZMQError:
            return False
        finally:
            self.wake()
        return True

    def wake(self) -> None:
        """Look soon for what arrived: whoever sends on the socket itself has to say so."""
        self._loop.call_soon(self._drain)

    def stop(self) -> None:
        """Listen no longer."""
        self._loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Stop listening and close the socket; what was sent may still leave within its linger."""
        if not self.socket.closed:
            self.stop()
            self.socket.close()

    def _drain(self) -> None:
        for _ in range(self.BURST):
            if self.socket.closed:
                return
            if not int(self.socket.getsockopt(zmq.EVENTS)) & READABLE:
                return
            frames = [self.socket.recv(NOW, copy=False)]
            while frames[-1].more:
                frames.append(self.socket.recv(NOW, copy=False))
            try:
                self._handler(frames)
            except Exception:  # a bug; but the messages behind this one still have to be read
                log.exception("a message could not be handled")
        self._loop.call_soon(self._drain)
