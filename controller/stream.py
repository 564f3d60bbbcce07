"""A plain socket that speaks ZeroMQ's protocol (`zmtp`), at both ends where no key is asked for."""

from __future__ import annotations

import errno
import socket
from collections import deque
from contextlib import suppress
from typing import Any

from . import zmtp

SOCKET_BYTES = 4 << 20
"""What the kernel is asked to hold of a local socket in each direction: a picture passes in one piece."""
MOST_UNSENT = 256
"""So many messages wait for the other side to read, and no more."""
READS = 4
"""How often a socket is read before others get their turn: a picture takes two."""


def address_of(address: str) -> tuple[socket.AddressFamily, Any]:
    """Return family and address of a plain socket for a ZeroMQ address; raise `OSError` for what is none."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc" and rest not in ("", "*"):
        return socket.AF_UNIX, "\0" + rest[1:] if rest[0] == "@" else rest
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not port.isdecimal() or int(port) > 65535:
        raise OSError(errno.EINVAL, "expected ipc://PATH or tcp://HOST:PORT")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    # libzmq knows only IPv4 where nobody asks for more.
    family, *_, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, where


def tune(plain: socket.socket) -> None:
    """Set what both ends set: no waiting, small messages at once, and room where the kernel finds none."""
    plain.setblocking(False)
    if plain.family == socket.AF_UNIX:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            plain.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
    else:  # TCP finds its room by itself, and does not once it is told
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Stream:
    """A socket of this `kind` (ROUTER, DEALER); it takes no more while `limit_bytes` are unsent."""

    def __init__(
        self,
        plain: socket.socket,
        kind: bytes,
        limit_bytes: int,
        allocate: zmtp.Allocate = zmtp.allocate,
    ) -> None:
        self.socket = plain
        self.wire = zmtp.Wire(kind, limit_bytes, allocate)
        self._limit_bytes = limit_bytes
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0

    @property
    def is_behind(self) -> bool:
        """Say whether something waits for the other side to read: `flush` when the socket can be written."""
        return self._unsent_bytes > 0

    def send(self, frames: list[Any]) -> bool:
        """Send a message; return False if the other side is gone, not yet here, or does not keep up."""
        behind = self._unsent_bytes > self._limit_bytes or len(self._unsent) >= MOST_UNSENT
        if behind or not self.wire.is_open:
            return False
        try:
            self._push(zmtp.encode(frames))
        except OSError:
            return False
        return True

    def receive(self) -> list[list[Any]]:
        """Return the messages that have arrived whole, as far as one look goes.

        Raises `EOFError` at the end of the connection, `OSError` where an answer to it cannot be sent,
        `zmtp.Broken` for what is no message.
        """
        wire, read = self.wire, self.socket.recv_into
        messages: list[list[Any]] = []
        for _ in range(READS):
            buffer = wire.buffer()
            try:
                count = read(buffer)
            except BlockingIOError:
                break
            except OSError:
                count = 0
            if not count:
                if messages:
                    break  # they count; the end is still there the next time
                raise EOFError("the other side is gone")
            messages += wire.received(count)
            if messages or count < len(buffer):
                break
        if len(self._unsent) >= MOST_UNSENT:
            wire.answers.clear()  # one who only asks whether anybody is here, and never listens
        if wire.answers:
            self.flush()
        return messages

    def flush(self) -> None:
        """Send what is unsent, as far as it goes; raise `OSError` if the connection is gone."""
        wire, unsent = self.wire, self._unsent
        answers, wire.answers = wire.answers, []
        parts = [*unsent, b"".join(answers)] if answers else [*unsent]
        unsent.clear()
        self._unsent_bytes = 0
        self._push(parts)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _push(self, parts: list[Any]) -> None:
        """Send these parts now if nothing waits, and keep what does not go."""
        sent = 0
        if not self._unsent and parts:
            with suppress(BlockingIOError):
                sent = self.socket.sendmsg(parts)
        for part in parts:
            size = len(part)
            if sent < size:
                self._unsent.append(memoryview(part)[sent:])
                self._unsent_bytes += size - sent
            sent = max(0, sent - size)
