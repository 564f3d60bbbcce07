"""Malformed messages for the daemon's ZeroMQ socket: nearly sound ones, random ones, and broken ZMTP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from . import zmtp

Frames = list[bytes]
ODD: list[Any] = [
    *(None, True, 0, 1, -1, 2**31, 2**63 - 1, 3.5, 1e308, -0.0, float("inf"), float("nan")),
    *("", "uint8", "float32", "object", "\x00", "é" * 300, b"", b"\xff" * 40),
    *([], {}, [[]], [0, 0, 3], [2**40, 2**40, 3], [1] * 100, [-1, 4, 3], {"id": 1}),
]
_pack = msgspec.msgpack.encode


def sound(draw: random.Random) -> tuple[bytes, dict[str, Any], Frames]:
    """Return the kind, the header and the further frames of a sound message, of any of the four kinds."""
    id, kind = draw.randrange(1 << 20), draw.choice((b"I", b"I", b"I", b"B", b"P", b"H"))
    if kind == b"I":
        height, width = draw.randint(1, 6), draw.randint(1, 6)
        header = {
            "id": id,
            "dtype": "uint8",
            "shape": [height, width, 3],
            "deadline_ms": draw.choice((0, 1, 50)),
            "reading_ms": draw.choice((None, 5.0)),
            "phi": draw.choice((None, 0, 2)),
            "top": draw.choice((0, 3)),
            "priority": draw.choice((0, 1, 7)),
            "min_quality": draw.choice((None, 0.75)),
        }
        return kind, header, [draw.randbytes(height * width * 3)]
    if kind == b"B":
        return kind, {"id": id, "budget_ms": 5.0, "max_phi": 1, "ttl_s": 0.01}, []
    if kind == b"P":
        return kind, {"id": id, "signature": None}, [b"PK\x03\x04" + draw.randbytes(30)]
    return kind, {"id": id}, []


def messages(seed: int) -> Iterator[Frames]:
    """Yield messages, most of them broken somewhere, without end."""
    draw = random.Random(seed)
    while True:
        if draw.random() < 0.15:
            yield [draw.randbytes(draw.randint(0, 40)) for _ in range(draw.randint(1, 6))]
            continue
        kind, header, rest = sound(draw)
        for _ in range(draw.choice((0, 1, 1, 2))):
            _bend(draw, header)
        frames = [b"ADP1", kind, _packed(draw, header), *rest]
        if draw.random() < 0.4:
            _break(draw, frames)
        yield frames


def _bend(draw: random.Random, header: dict[str, Any]) -> None:
    """Change a field, leave one out, or add one that nobody knows."""
    if not header:
        return
    name = draw.choice(list(header))
    kind = draw.random()
    if kind < 0.8:
        header[name] = draw.choice(ODD)
    elif kind < 0.95:
        del header[name]
    else:
        header[draw.choice(("", "x", "é", "id\x00"))] = draw.choice(ODD)


def _packed(draw: random.Random, header: dict[str, Any]) -> bytes:
    """Return the header as msgpack, which now and then ends early, goes on, or nests without end."""
    packed, kind = bytes(_pack(header)), draw.random()
    if kind < 0.05:
        return packed[: draw.randrange(len(packed))]
    if kind < 0.08:
        return packed + draw.randbytes(3)
    if kind < 0.10:
        return draw.choice((b"\x91", b"\x81\xa1x")) * draw.choice((50, 3000)) + packed
    if kind < 0.15:
        place = draw.randrange(len(packed))
        return packed[:place] + draw.randbytes(2) + packed[place + 2 :]
    return packed


def _break(draw: random.Random, frames: Frames) -> None:
    """Leave a frame out, put one twice or elsewhere, or change its bytes."""
    place, kind = draw.randrange(len(frames)), draw.randrange(5)
    if kind == 0 and len(frames) > 1:
        del frames[place]
    elif kind == 1:
        frames.insert(place, frames[place])
    elif kind == 2:
        frames[place] = b""
    elif kind == 3:
        frames[place] = draw.randbytes(draw.randint(1, 300))
    else:
        draw.shuffle(frames)


def connections(seed: int) -> Iterator[bytes]:
    """Yield what a peer sends that breaks ZMTP itself, from its greeting on, without end."""
    draw = random.Random(seed)
    for frames in messages(seed):
        whole = zmtp.GREETING + zmtp.READY + zmtp.message(frames)
        kind, place = draw.randrange(5), draw.randrange(len(whole))
        if kind == 0:
            yield whole[:place]
        elif kind == 1:
            yield whole[:place] + draw.randbytes(draw.randint(1, 9)) + whole[place + 4 :]
        elif kind == 2:
            yield draw.randbytes(draw.randint(1, 200))
        elif kind == 3:  # a frame that claims more than there can be
            length = draw.choice((2**63 - 1, 2**64 - 1, 2**40, 300_000_000))
            yield zmtp.GREETING + zmtp.READY + b"\x02" + length.to_bytes(8, "big") + bytes(100)
        else:  # commands where messages should be
            command = draw.choice((b"\x04PING", b"\x05ERROR", b"\x05READY", b"\x09SUBSCRIBE"))
            yield whole + zmtp.frame(command + draw.randbytes(9))
