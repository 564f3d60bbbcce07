"""The wire: what a message between client and daemon is. No sockets here.

A message is a list of frames: `ADP1`, one byte that says what it is, a msgpack header, and for
requests and answers the raw bytes of one tensor (little-endian, row-major). Nothing is ever pickled.

    client → daemon    I infer · B push a budget · P push a policy · H hello
    daemon → client    A answer · E error · K hello's, the budget's or the policy's reply

Headers are decoded with their types checked; unknown fields are ignored, so that older and newer
releases of one major version understand each other.

A request may be sent again: (session, id) says which one it is, and the daemon answers it once (`dedup`).
A hello may ask which requests of a session are still under way; their answers then go to whoever asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ..errors import InvalidRequest, ProtocolError, RequestError, TooLarge

MAGIC = b"ADP1"
INFER, BUDGET, POLICY, HELLO = b"I", b"B", b"P", b"H"
ANSWER, ERROR, OK = b"A", b"E", b"K"

MAX_HEADER_BYTES = 64 * 1024
MAX_AXES = 8
DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "float32",
        "float64",
        "bool",
    )
}
# Zero-copy pays only for large frames; below this pyzmq copies anyway.
ZERO_COPY_BYTES = 64 * 1024

Session = Annotated[str, Meta(max_length=64)]
"""What a client calls itself, random and nobody else's; empty: its requests are never repeated."""


class IdHeader(msgspec.Struct):
    """What every message of a client has."""

    id: int


class InferHeader(msgspec.Struct):
    """A request: `deadline_ms` from arrival; `reading_ms`, if given, is what the policy decides on.

    `priority` 1 is served first, 0 is the default; only variants of `min_quality` or more may answer.
    `blur_px` is how far the picture moved while it was taken, in its own pixels.
    """

    id: int
    dtype: str
    shape: tuple[int, ...]
    deadline_ms: float | None = None
    reading_ms: float | None = None
    phi: int | None = None
    top: int = 0
    priority: int = 0
    min_quality: float | None = None
    session: Session = ""
    blur_px: float | None = None


class BudgetHeader(msgspec.Struct):
    """A pushed budget; it holds for `ttl_s` seconds. None leaves a part unlimited."""

    id: int
    budget_ms: float | None = None
    max_phi: int | None = None
    ttl_s: float = 1.0


class PolicyHeader(msgspec.Struct):
    """A pushed policy: the file's bytes follow as a frame; `signature` is theirs (Ed25519)."""

    id: int
    signature: bytes | None = None


class HelloHeader(msgspec.Struct):
    """A greeting: asks who is there, and which of the requests `asked` are still under way."""

    id: int
    session: Session = ""
    asked: tuple[int, ...] = ()


class AnswerHeader(msgspec.Struct):
    """An answer: the variant, the time since arrival, of which in the queue and in the model."""

    id: int
    phi: int
    name: str
    latency_ms: float
    queue_ms: float
    inference_ms: float
    late: bool
    dtype: str
    shape: tuple[int, ...]
    top: tuple[tuple[str, float], ...] = ()


class ErrorHeader(msgspec.Struct):
    """An error: `code` is one of adaphi.errors; `id` is None where the request had none to read."""

    code: str
    message: str
    id: int | None = None


class OkHeader(msgspec.Struct):
    """The daemon introduces itself; `waiting` are those of the hello's `asked` that will be answered."""

    id: int
    version: str = ""
    boot_id: str = ""
    ready: bool = False
    ladder: str = ""
    variants: tuple[str, ...] = ()
    policy: str = ""
    max_message_bytes: int = 0
    waiting: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request got: the output, which variant made it, how long it took, whether it was late.

    `latency_ms` runs from arrival to answer, `queue_ms` and `inference_ms` are parts of it. `top`
    holds the likeliest (class, probability) if they were asked for.
    """

    output: NDArray[Any]
    phi: int
    latency_ms: float
    late: bool
    name: str = ""
    queue_ms: float = 0.0
    inference_ms: float = 0.0
    top: tuple[tuple[str, float], ...] = ()


@cache
def name_of(dtype: np.dtype[Any]) -> str:
    """Return what a header calls a type (numpy works its names out anew each time)."""
    return dtype.name


@cache
def code_of(dtype: np.dtype[Any]) -> str:
    """Return numpy's code of a type, with the order of its bytes."""
    return dtype.str


Header = TypeVar("Header", bound=msgspec.Struct)
_encoder = msgspec.msgpack.Encoder()


@cache
def _decoder(kind: type[Header]) -> msgspec.msgpack.Decoder[Header]:
    return msgspec.msgpack.Decoder(kind)


class Tensor(Protocol):
    """A header that describes a tensor."""

    dtype: str
    shape: tuple[int, ...]


def pack(header: msgspec.Struct) -> bytes:
    """Return a header as msgpack."""
    return _encoder.encode(header)


def encode(kind: bytes, header: msgspec.Struct, tensor: NDArray[Any] | None = None) -> list[Any]:
    """Return the frames of a message."""
    frames: list[Any] = [MAGIC, kind, pack(header)]
    if tensor is not None:
        frames.append(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return frames


def split(frames: Sequence[Any]) -> tuple[bytes, bytes, Sequence[Any]]:
    """Return (kind, header bytes, further frames); raise `ProtocolError` for what is not ours."""
    if len(frames) < 3:
        raise ProtocolError(f"a message has at least 3 frames, got {len(frames)}")
    magic, kind, header, *rest = frames
    if magic != MAGIC:
        raise ProtocolError(f"a message begins with {MAGIC!r}, got {bytes(magic[:8])!r}")
    if len(header) > MAX_HEADER_BYTES:
        raise TooLarge(f"a header has at most {MAX_HEADER_BYTES} bytes")
    return bytes(kind[:8]), bytes(header), rest


def decode(kind: type[Header], header: bytes) -> Header:
    """Return a header; raise `ProtocolError` saying where it is wrong."""
    try:
        decoded: Header = _decoder(kind).decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"bad header: {error}") from None
    return decoded


def check_numbers(header: InferHeader) -> None:
    """Raise `InvalidRequest` where a field of a request has an impossible value."""
    limited = header.deadline_ms, header.reading_ms, header.min_quality, header.blur_px
    for place, value in enumerate(limited):
        if value is not None and not 0 <= value < math.inf:
            name = ("deadline_ms", "reading_ms", "min_quality", "blur_px")[place]
            raise InvalidRequest(f"{name} is {value}; expected a finite number ≥ 0")
    if not 0 <= header.top <= 1000:
        raise InvalidRequest(f"top is {header.top}; expected 0 to 1000")
    if header.priority < 0:
        raise InvalidRequest(
            f"priority is {header.priority}; expected 1 (first), 2, … or 0 (default)"
        )


def tensor_of(header: Tensor, frames: Sequence[Any]) -> NDArray[Any]:
    """Return the tensor that a header describes, without a copy; raise `InvalidRequest`."""
    if len(frames) != 1:
        raise InvalidRequest(f"expected one tensor frame, got {len(frames)}")
    dtype = DTYPES.get(header.dtype)
    if dtype is None:
        raise InvalidRequest(f"dtype {header.dtype!r} is not one of {', '.join(sorted(DTYPES))}")
    shape = header.shape
    if len(shape) > MAX_AXES or min(shape, default=1) < 1:
        raise InvalidRequest(f"shape {shape} needs at most {MAX_AXES} axes, each at least 1")
    count = math.prod(shape)
    if count * dtype.itemsize != len(frames[0]):
        raise InvalidRequest(
            f"shape {shape} of {header.dtype} needs {count * dtype.itemsize} bytes, "
            f"got {len(frames[0])}"
        )
    # Not np.ndarray over it: that forgets whose memory it is, and a slot of the arena would be given away.
    return np.frombuffer(frames[0], dtype, count).reshape(shape)


def error_frames(error: RequestError, id: int | None) -> list[Any]:
    """Return the frames that carry `error`."""
    return encode(ERROR, ErrorHeader(error.code, str(error)[:500], id))
