"""Reading the body of an HTTP request: inflated as it comes, bounded in size and time."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..errors import InvalidRequest, TooLarge

BODY_S = 10.0
"""How long a body may take to arrive."""
PIECE_BYTES = 1 << 20
"""How much is inflated before other work gets its turn."""
WINDOW = {"gzip": 31, "deflate": 15}
"""zlib's name for each encoding; `deflate` in HTTP is the zlib format (RFC 9110, 8.4.1)."""


async def read_body(request: Request, limit_bytes: int) -> bytearray:
    """Return a request's body, of at most `limit_bytes` also when inflated.

    What is too large is read on and dropped, so that the client hears why; beyond four times the limit
    it is cut off. Raises `TooLarge`, `InvalidRequest`, or `HTTPException` 408 or 415.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity" and encoding not in WINDOW:
        raise HTTPException(415, f"Content-Encoding {encoding[:20]!r} is not gzip or deflate")
    inflater = _Inflater(encoding) if encoding in WINDOW else None
    body, arrived, fits = bytearray(), 0, True
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                arrived += len(chunk)
                for piece in inflater.inflate(chunk) if inflater and fits else (chunk,):
                    fits = fits and len(body) + len(piece) <= limit_bytes
                    if not fits:
                        body.clear()
                        break
                    body += piece
                    if inflater:
                        await asyncio.sleep(0)
                if arrived > 4 * limit_bytes:
                    break
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {BODY_S:g} s") from None
    if not fits:
        raise TooLarge(f"a body has at most {limit_bytes} bytes, inflated (zmq.max_message_mb)")
    if inflater:
        inflater.finish()
    return body


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
