"""ZeroMQ's own protocol by hand, to break it or to ask at no cost: ZMTP 3.0 without security (RFC 23)."""

from __future__ import annotations

import struct

GREETING = (
    b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f"  # signature
    b"\x03\x00"  # version 3.0
    + b"NULL".ljust(20, b"\0")  # mechanism
    + bytes(32)  # not as a server, filler
)
_PROPERTIES = b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
_BODY = b"\x05READY" + _PROPERTIES
READY = b"\x04" + bytes([len(_BODY)]) + _BODY
"""The handshake of a DEALER, after the greeting."""


def frame(content: bytes, *, more: bool = False) -> bytes:
    """Return one frame of a message; `more` follow."""
    if len(content) < 256:
        return bytes([more, len(content)]) + content
    return bytes([2 | more]) + struct.pack(">Q", len(content)) + content


def message(frames: list[bytes]) -> bytes:
    """Return a whole message."""
    *first, last = frames
    return b"".join(frame(f, more=True) for f in first) + frame(last)


def long_frame(size: int) -> bytes:
    """Return a request with a tensor frame of `size` bytes."""
    return message([b"ADP1", b"I", b"\x80", bytes(size)])


def answer_header(seen: bytes) -> bytes | None:
    """Return the header of an answer, None if it is not all here: two short frames, a header, a tensor."""
    if len(seen) < 11 or len(seen) < (start := 11 + seen[10]) + 9:
        return None
    is_long = seen[start] & 2
    size = int.from_bytes(seen[start + 1 : start + 9], "big") if is_long else seen[start + 1]
    whole = len(seen) >= start + (9 if is_long else 2) + size
    return seen[11:start] if whole else None
