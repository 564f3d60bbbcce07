"""A client's ZeroMQ socket, and the monitor that tells what becomes of its connection."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Any

import zmq

from ..errors import InvalidRequest
from .asking import EVENTS
from .pump import is_readable, send_now
from .security import ClientKeys

MAX_ANSWER_BYTES = 64_000_000
_numbers = count(1)


class Connection:
    """One DEALER that connects to a daemon; nothing here waits. Raises `InvalidRequest` for no address.

    A message is only taken while there is a connection (ZMQ_IMMEDIATE): one that lay in a queue until the
    daemon is back would arrive with a deadline that says nothing.
    """

    def __init__(self, address: str, keys: ClientKeys | None = None) -> None:
        self.secure = keys is not None
        self._address = address
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.socket = context.socket(zmq.DEALER)
        options = {
            zmq.LINGER: 0,
            zmq.IMMEDIATE: 1,
            zmq.SNDHWM: 256,
            zmq.RCVHWM: 256,
            zmq.MAXMSGSIZE: MAX_ANSWER_BYTES,
            zmq.RECONNECT_IVL: 20,
            zmq.RECONNECT_IVL_MAX: 500,
            zmq.CONNECT_TIMEOUT: 2000,
            zmq.HANDSHAKE_IVL: 2000,
            zmq.HEARTBEAT_IVL: 2000,
            zmq.HEARTBEAT_TIMEOUT: 6000,
        }
        for option, value in options.items():
            self.socket.setsockopt(option, value)
        if keys is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey = keys.own
            self.socket.curve_serverkey = keys.server
        # Not `get_monitor_socket`: its name is the socket's descriptor, which the system gives out again; and
        # a monitor that nobody reads for a while must not fill up, for ZeroMQ's thread would wait for it.
        events = f"inproc://adaphi-{next(_numbers)}"
        self.socket.monitor(events, EVENTS)
        self.monitor = context.socket(zmq.PAIR)
        self.monitor.rcvhwm = 0
        self.monitor.connect(events)
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise InvalidRequest(f"{address!r} is not an address: {error.strerror}") from None

    def send(self, frames: list[Any]) -> bool:
        """Send at once, or return False: there is no connection, or the daemon does not keep up."""
        try:
            send_now(self.socket, frames)
        except zmq.Again:
            return False
        return True

    def dial(self) -> None:
        """Make a new connection in the place of the present one."""
        self.hang_up()
        self.socket.connect(self._address)

    def hang_up(self) -> None:
        """End the connection; the socket makes no other until `dial`."""
        with suppress(zmq.ZMQError):  # refused once, ZeroMQ itself has forgotten the address
            self.socket.disconnect(self._address)

    def settle(self) -> None:
        """Let the socket take over what its thread has done: a send that does not wait would not look."""
        if not self.socket.closed:
            is_readable(self.socket)

    def close(self) -> None:
        """Close both sockets."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.monitor.close(0)
            self.socket.close()


def event_of(frames: list[zmq.Frame]) -> int:
    """Return which event a monitor's message reports."""
    return int.from_bytes(frames[0].bytes[:2], "little")
