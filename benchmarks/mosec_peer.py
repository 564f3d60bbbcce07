"""mosec as a peer of serving: its Rust front and one worker, `python -m benchmarks.mosec_peer WHAT PORT`."""

from __future__ import annotations

import os
import sys

from mosec import Server, Worker

from .servers import timed

WHAT = "ADAPHI_BENCHMARKED"
"""Where the worker, a process that starts from nothing, finds what it answers with."""


class Handler(Worker):
    """Bytes in, bytes out, as `servers.timed` makes them."""

    def __init__(self) -> None:
        self._handle = timed(os.environ[WHAT])

    def deserialize(self, data: bytes) -> bytes:
        """Return the body as it came."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Return the answer as it is."""
        return data

    def forward(self, data: bytes) -> bytes:
        """Answer one request."""
        return b"".join(self._handle(data))


if __name__ == "__main__":
    os.environ[WHAT], port = sys.argv[1:]
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port, "--timeout", "60000"]
    server = Server()
    server.append_worker(Handler)
    server.run()
