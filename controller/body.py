"""Reading the body of an HTTP request: inflated as it comes, bounded in size and time."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..errors import Busy, InvalidRequest, RequestError, TooLarge

BODY_S = 10.0
"""How long a body may take to arrive."""
PIECE_BYTES = 1 << 20
"""How much is inflated before other work gets its turn."""
WINDOW = {"gzip": 31, "deflate": 15}
"""zlib's name for each encoding; `deflate` in HTTP is the zlib format (RFC 9110, 8.4.1)."""


class Room:
    """How many bytes of bodies there may be at a time, those being read and those that wait for a model."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = 0

    def visit(self) -> Visit:
        """Return what a request holds: nothing yet."""
        return Visit(self)


class Visit:
    """What one request holds of a room, from its first byte to its answer."""

    def __init__(self, room: Room) -> None:
        self._room, self._mine = room, 0

    def take(self, size: int) -> None:
        """Hold so many bytes more; raise `Busy` where there is no room for them."""
        room = self._room
        if room.taken_bytes + size > room.limit_bytes:
            raise Busy(f"{room.taken_bytes} bytes of requests are held already")
        room.taken_bytes += size
        self._mine += size

    def leave(self) -> None:
        """Give everything back."""
        self._room.taken_bytes -= self._mine
        self._mine = 0

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


async def read_body(
    request: Request, limit_bytes: int, take: Callable[[int], None] = lambda size: None
) -> bytearray:
    """Return a request's body, of at most `limit_bytes` also when inflated; `take` is told of each piece.

    What does not fit is read on and dropped, so that the client hears why; beyond four times the limit it
    is cut off. Raises `TooLarge`, `InvalidRequest`, what `take` raises, or `HTTPException` 408 or 415.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity" and encoding not in WINDOW:
        raise HTTPException(415, f"Content-Encoding {encoding[:20]!r} is not gzip or deflate")
    inflater = _Inflater(encoding) if encoding in WINDOW else None
    body, arrived = bytearray(), 0
    unfit: RequestError | None = None
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                arrived += len(chunk)
                if unfit is None:
                    unfit = await _collect(body, inflater, chunk, limit_bytes, take)
                if arrived > 4 * limit_bytes:
                    break
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {BODY_S:g} s") from None
    if unfit is not None:
        raise unfit
    if inflater:
        inflater.finish()
    return body


async def _collect(
    body: bytearray,
    inflater: _Inflater | None,
    chunk: bytes,
    limit_bytes: int,
    take: Callable[[int], None],
) -> RequestError | None:
    """Append a chunk to `body`; where it does not fit, empty it and return the error that says so."""
    try:
        for piece in inflater.inflate(chunk) if inflater else (chunk,):
            if len(body) + len(piece) > limit_bytes:
                raise TooLarge(f"a body has at most {limit_bytes} bytes, inflated")
            take(len(piece))
            body += piece
            if inflater:
                await asyncio.sleep(0)
    except RequestError as error:
        body.clear()
        return error
    return None


class _Inflater:
    """Inflates a stream piece by piece."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._zlib = zlib.decompressobj(WINDOW[encoding])

    def inflate(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what `chunk` inflates to in pieces of at most `PIECE_BYTES`."""
        while chunk and not self._zlib.eof:
            try:
                yield self._zlib.decompress(chunk, PIECE_BYTES)
            except zlib.error as error:
                raise InvalidRequest(f"the body is not {self._encoding}: {error}") from None
            chunk = self._zlib.unconsumed_tail
        if self._zlib.eof and (chunk or self._zlib.unused_data):
            raise InvalidRequest(f"something follows the end of the {self._encoding} body")

    def finish(self) -> None:
        """Raise `InvalidRequest` where the stream has not ended."""
        if not self._zlib.eof:
            raise InvalidRequest(f"the {self._encoding} body ends too early")
