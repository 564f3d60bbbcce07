"""ZeroMQ's wire protocol on a plain stream: ZMTP 3.0 without security (RFC 23). No sockets here.

libzmq hands every message from thread to thread, at both ends; on one machine that costs more than all else
that a small request needs. So where no key is asked for, the daemon and its clients speak the protocol
themselves, and with anybody who uses libzmq. What is encrypted, libzmq carries (`routers`, `connection`).

A frame is a byte of flags, its length (1 byte, or 8), and its content; a message is frames, of which all but
the last say `MORE`. After a greeting of 64 bytes each side says `READY` and what kind of socket it is. A long
frame is read straight into memory of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MORE, LONG, COMMAND = 1, 2, 4
GREETING_BYTES, SIGNATURE_BYTES = 64, 11
STAGING_BYTES = 1 << 14
"""What is read at once; a frame of more than half of that is long."""
MOST_FRAMES = 64
"""A message has at most so many frames."""
MOST_PONGS = 16
"""So many of the pings that come at once are answered: any of them says that somebody is here."""
PARTNERS = {b"ROUTER": (b"DEALER", b"REQ", b"ROUTER"), b"DEALER": (b"ROUTER", b"DEALER", b"REP")}
"""Who may talk to whom, by the kinds of their sockets."""

_SHORT = [[bytes((flags, size)) for size in range(256)] for flags in (0, MORE)]
_LENGTH, _HEAD = struct.Struct(">Q"), struct.Struct(">BQ")


Allocate = Callable[[int], memoryview]


class Broken(Exception):
    """What arrived is not the protocol: the connection has to end."""


class Mismatch(Broken):
    """The other side asks for a security that is not spoken here."""


def greeting() -> bytes:
    """Return what a side says first: version 3.0, no security."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def ready(kind: bytes) -> bytes:
    """Return the command that ends the handshake of a socket of this kind."""
    return _command(b"READY", _property(b"Socket-Type", kind))


def encode(frames: Sequence[Any]) -> list[Any]:
    """Return a message as buffers to send in this order; long frames are not copied."""
    parts: list[Any] = []
    short: list[Any] = []  # what goes as one piece
    left = len(frames)
    for frame in frames:
        left -= 1
        size, more = len(frame), MORE if left else 0
        short.append(_SHORT[more][size] if size < 256 else _HEAD.pack(LONG | more, size))
        if size < STAGING_BYTES:
            short.append(frame)
        else:
            parts += b"".join(short), frame
            short = []
    if short:
        parts.append(b"".join(short))
    return parts


def allocate(size: int) -> memoryview:
    """Return memory for a long frame; it holds anything."""
    return np.empty(size, np.uint8).data


class Wire:
    """One side of a connection: takes what arrives, and gives messages.

    Write the next bytes into `buffer()`, tell how many with `received`, and send what lies in `answers` then.
    A frame, and a message, has at most `limit_bytes`; `allocate` gives the memory of long frames. `is_open`
    says whether the handshake is done.
    """

    def __init__(self, kind: bytes, limit_bytes: int, allocate: Allocate = allocate) -> None:
        self.is_open = False
        # A client waits for the other's security before it names its own: one who does not know it would
        # close the connection at once, and the client would not learn why.
        self._said = SIGNATURE_BYTES if kind == b"DEALER" else GREETING_BYTES
        self.answers = [greeting()[: self._said]]
        self._kind, self._limit_bytes, self._allocate = kind, limit_bytes, allocate
        self._greeted = False
        self._staging = bytearray(STAGING_BYTES)
        self._view = memoryview(self._staging)
        self._end = 0  # of what lies in the staging
        self._long: memoryview | None = None  # a long frame, as far as it is here
        self._filled = self._flags = 0
        self._frames: list[Any] = []
        self._bytes = 0

    @property
    def progress(self) -> tuple[int, ...] | None:
        """Return how far a message that has begun is, None between two; no two stages are alike."""
        stage = (
            len(self._frames),
            self._bytes,
            self._filled if self._long is not None else -1,
            self._end,
        )
        return stage if stage != (0, 0, -1, 0) else None

    def buffer(self) -> memoryview:
        """Return where the next bytes belong."""
        if self._long is not None:
            return self._long[self._filled :]
        return self._view[self._end :]

    def received(self, count: int) -> list[list[Any]]:
        """Return the messages that `count` more bytes in `buffer()` complete; raise `Broken`."""
        messages: list[list[Any]] = []
        if self._long is not None:
            self._filled += count
            if self._filled == len(self._long):
                frame, self._long = self._long, None
                self._take(self._flags, frame, messages)
            return messages
        self._end = end = self._end + count
        staging, view, begin = self._staging, self._view, 0
        if not self._greeted:
            if not self._take_greeting():
                return messages
            begin = GREETING_BYTES
        while end - begin >= 2:
            flags, length, start = staging[begin], staging[begin + 1], begin + 2
            if flags & LONG:
                if end - begin < 9:
                    break
                length, start = _LENGTH.unpack_from(staging, begin + 1)[0], begin + 9
            if flags > MORE | LONG | COMMAND or length > self._limit_bytes:
                raise Broken(f"a frame with flags {flags} of {length} bytes")
            if length > end - start:
                if length > STAGING_BYTES // 2:
                    self._begin_long(flags, length, start)
                    return messages
                break
            begin = start + length
            self._take(flags, bytes(view[start:begin]), messages)
        self._make_room(begin)
        return messages

    def _begin_long(self, flags: int, length: int, start: int) -> None:
        """Let the rest of a frame, whose first bytes are in the staging, go into memory of its own."""
        self._long, self._flags = self._allocate(length), flags
        self._filled = self._end - start
        self._long[: self._filled] = self._view[start : self._end]
        self._end = 0

    def _make_room(self, begin: int) -> None:
        """Move what is left, from `begin` on, to the beginning of the staging: half a frame at most."""
        left = self._end - begin
        if left and begin:
            self._staging[:left] = self._staging[begin : self._end]
        self._end = left

    def _take_greeting(self) -> bool:
        """Look at the greeting as far as it is here; say whether it is all here."""
        seen = bytes(self._staging[: min(self._end, GREETING_BYTES)])
        if seen[:1] not in (b"", b"\xff") or (len(seen) >= 10 and not seen[9] & 1):
            raise Broken("no greeting")
        if len(seen) >= 11 and seen[10] < 3:
            raise Broken(f"version {seen[10]} of the protocol")
        if len(seen) < GREETING_BYTES:
            return False
        if (mechanism := seen[12:32].rstrip(b"\0")) != b"NULL":
            raise Mismatch(f"security {mechanism!r}")
        self.answers += greeting()[self._said :], ready(self._kind)
        self._greeted = True
        return True

    def _take(self, flags: int, frame: Any, messages: list[list[Any]]) -> None:
        if flags & COMMAND or not self.is_open:
            self._obey(flags, bytes(frame))
            return
        frames = self._frames
        frames.append(frame)
        self._bytes += len(frame)
        if self._bytes > self._limit_bytes or len(frames) > MOST_FRAMES:
            raise Broken(
                f"a message of more than {self._limit_bytes} bytes or {MOST_FRAMES} frames"
            )
        if not flags & MORE:
            messages.append(frames)
            self._frames, self._bytes = [], 0

    def _obey(self, flags: int, content: bytes) -> None:
        """Do what a command says."""
        if not flags & COMMAND or not content:
            raise Broken("a message before the handshake, or an empty command")
        end = 1 + content[0]
        name, content = content[1:end], content[end:]
        if not self.is_open:
            if name != b"READY":
                raise Broken(f"{name!r} instead of READY")
            if (kind := _properties(content).get(b"socket-type")) not in PARTNERS[self._kind]:
                raise Broken(f"a socket of the kind {kind!r}")
            self.is_open = True
        elif name == b"PING" and len(self.answers) < MOST_PONGS:
            self.answers.append(_command(b"PONG", content[2:18]))
        elif name == b"ERROR":
            raise Broken(f"the other side says: {content!r}")


def _command(name: bytes, content: bytes) -> bytes:
    body = bytes((len(name),)) + name + content
    return bytes((COMMAND, len(body))) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + struct.pack(">I", len(value)) + value


def _properties(content: bytes) -> dict[bytes, bytes]:
    """Return the properties of a READY by their names in small letters; raise `Broken`."""
    found, place = {}, 0
    while place < len(content):
        end = place + 1 + content[place]
        name, size = content[place + 1 : end], content[end : end + 4]
        place = end + 4 + int.from_bytes(size, "big")
        if len(size) < 4 or place > len(content):
            raise Broken("a READY that ends early")
        found[name.lower()] = content[end + 4 : place]
    return found
