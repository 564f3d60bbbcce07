"""ZeroMQ on asyncio, without a task or a future for each message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import zmq

log = logging.getLogger("adaphi")

Handler = Callable[[list[zmq.Frame]], None]


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
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK, copy=sum(map(len, frames)) < 65536)
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
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                self._handler(frames)
            except Exception:  # a bug; but the messages behind this one still have to be read
                log.exception("a message could not be handled")
        self._loop.call_soon(self._drain)
